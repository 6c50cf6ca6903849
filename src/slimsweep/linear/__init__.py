"""Layers that replace nn.Linear: one file per form of storage.

What chooses the stored values lies in techniques/ and numerics/.
"""
