"""Other tools as techniques, measured by our evaluator.

No other folder imports their packages.
"""
