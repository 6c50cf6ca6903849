"""Disk cache of compressed models and of calibration statistics, shared by jobs.

What decides a result stands in pipeline/keys.py.
"""
