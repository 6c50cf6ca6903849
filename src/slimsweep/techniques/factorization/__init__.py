"""Techniques that store a matrix as a product of smaller ones.

The layers that hold the factors lie in linear/. Techniques that store fewer bits lie in quantization/.
"""
