"""Sweeps of LLM compression: how small can a language model become, by which technique, at what cost?"""

__version__ = "0.1.0"
