"""Techniques that train: a loss on data, and a loop that lowers it.

What is found in closed form or block by block without such a loop belongs beside the technique that it completes.
"""
