"""Records on disk, and what is read from them: points, tables, comparisons.

Pictures lie in figures/; nothing here needs a model.
"""
