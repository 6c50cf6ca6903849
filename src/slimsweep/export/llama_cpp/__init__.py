"""Parts of a GGUF file as llama.cpp reads it: names of tensors, the vocabulary, packed types, a running server.

The format itself is export/gguf.py. Nothing here knows of records or folders.
"""
