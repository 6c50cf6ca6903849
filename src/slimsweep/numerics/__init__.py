"""Tensors in, tensors out: masks, Hessians, column solver, grids, k-means.

Nothing here knows a model or a layer.
"""
