"""Placement of weights while a model is used: memory, GPU, a mapped file.

Nothing here decides values.
"""
