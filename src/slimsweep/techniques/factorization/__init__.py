"""Techniques that write a weight as a product of smaller ones.

The layers that hold the factors lie in linear/.
"""
