"""Where weights come from: one file per kind of source.

How folders are written and read back lies in storage/.
"""
