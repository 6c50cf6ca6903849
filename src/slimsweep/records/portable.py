"""Records and texts without the folders of one machine, as they may leave it."""

import re
from typing import Any


def portable(value: Any) -> Any:
    """A copy in plain values in which of every absolute path only the last part stays."""
    if isinstance(value, dict):
        return {str(name): portable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if not isinstance(value, str):
        return value
    if re.match(r"/|~/|[A-Za-z]:\\", value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return re.sub(r"(?<![\w.:/-])~?/(?:[^\s/:;,'\"]+/)*(?=[^\s/])", "", value)  # a path inside a sentence
