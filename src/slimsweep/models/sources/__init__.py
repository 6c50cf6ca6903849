"""Sources of weights: one file per kind.

How folders are written and read back lies in storage/.
"""
