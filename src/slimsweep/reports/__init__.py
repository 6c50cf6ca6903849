"""Tables of many records beside something else: published values, claims, the rows of a study.

Reads records and data files, and measures nothing. The plain table of records is in `records`.
"""
