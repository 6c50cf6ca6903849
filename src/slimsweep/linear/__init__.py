"""Layers that replace nn.Linear: the linear protocol (base), and one file per form.

What chooses the stored values lies in techniques/ and numerics/.
"""
