"""Techniques that remove heads, neurons, residual channels or blocks.

The removal itself lies in models/surgery.py.
"""
