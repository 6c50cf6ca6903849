"""Techniques that set weights to zero and keep every shape.

What removes whole parts lies in structured/, other packages' pruners in external/.
"""
