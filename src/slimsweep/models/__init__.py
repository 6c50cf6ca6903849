"""Models: their parts, the sources and places of their weights, surgery and saving.

What runs calibration text through it lies in blockwise/.
"""
