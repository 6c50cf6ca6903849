"""Formats that a compressed model is handed on in, one file per format, with the check of each.

Saving for slimsweep itself lies in models/storage; how a record's model is made again lies in pipeline.
"""
