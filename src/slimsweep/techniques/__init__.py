"""Compression techniques: one folder per kind, one file per technique, named as in conf/technique.

Walks over blocks lie in blockwise/, mathematics in numerics/.
"""
