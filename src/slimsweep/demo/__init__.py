"""Models of records that answer a person: side by side on a web page, or one in a terminal.

Token streams lie in models, the way from a record to its model in pipeline, the commands in cli.
"""
