"""Preparation of datasets: sources, cleaning, features, splits, tokens, and the folder that they are stored in.

What reads prepared rows is data/prepared.py.
"""
