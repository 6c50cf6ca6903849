"""Dashboards of trackers as code: panels from the quantities of records, and the packages that save them.

Runs themselves are published by `records/tracking`.
"""
