"""Techniques that store weights in fewer bits.

The layers that hold packed weights lie in linear/.
"""
