"""Compression techniques: one file each, named as in conf/technique."""
