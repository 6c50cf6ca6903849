"""Where weights come from, and where each model family keeps its parts."""
