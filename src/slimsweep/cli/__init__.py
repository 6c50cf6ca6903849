"""The two commands: slimsweep (Hydra) and slim (Typer).

What they do lies in the rooms below.
"""
