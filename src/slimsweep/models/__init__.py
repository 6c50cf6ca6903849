"""What a model is: its parts, where its weights come from and rest, how it is cut and saved.

What runs calibration text through it lies in blockwise/.
"""
