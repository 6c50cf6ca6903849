"""Jobs of seconds on a small random model, and what a folder holds, for tests of whole commands."""

import json
from pathlib import Path

SMALL = (
    "model=random",
    "evaluation.context_tokens=64",
    "evaluation.max_windows=2",
    "evaluation.tasks=[]",
    "calibration.sequences=2",
    "calibration.tokens=32",
    "tracker=none",
    "cache=off",
)


def record_at(answer) -> dict:
    return json.loads(Path(answer.out.strip().splitlines()[-1]).read_text())


def contents(folder):
    """Every path below a folder with the time its entry and its contents last changed."""
    stats = {path: path.lstat() for path in (folder, *folder.rglob("*"))}
    return {path: (stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats.items()}
