"""Mirrors of records elsewhere: one file per tracker, which alone imports its package.

The record on disk is the truth.
"""
