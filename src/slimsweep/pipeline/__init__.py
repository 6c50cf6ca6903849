"""From a composed config to a finished record; run.py is the order of a job's steps.

Mathematics, models and file formats lie in the rooms below.
"""
