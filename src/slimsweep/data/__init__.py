"""Texts, labelled rows, and the draws of calibration text.

What runs a model on them lies in blockwise/ and evaluation/.
"""
