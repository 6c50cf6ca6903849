"""Lines of `slim cache`: what a cache folder holds, and what was removed of it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slimsweep.pipeline.stage_cache import side_folders
from slimsweep.pipeline.stage_cache.cache import StageCache, limit_of
from slimsweep.pipeline.stage_cache.entry import format_bytes


def list_lines(folder: Path) -> list[str]:
    """Lines on all that a cache folder holds."""
    return [*stage_lines(_cache(folder)), *_side_lines(side_folders.folders(folder), [], word="kept")]


def content(folder: Path) -> dict[str, Any]:
    """Everything that a cache folder holds, as plain values: stages, and folders beside them by kind."""
    kept = _cache(folder)
    stages = [
        {
            "digest": entry.digest,
            "chain": entry.chain,
            "model": entry.model,
            "bytes": entry.bytes,
            "seconds": entry.seconds,
            "last_used": datetime.fromtimestamp(entry.last_used, UTC).isoformat(timespec="seconds"),
        }
        for entry in kept.entries()
    ]
    beside = [{"kind": one.kind, "bytes": one.bytes} for one in side_folders.folders(folder)]
    return {"folder": str(kept.folder), "limit_bytes": kept.limit_bytes, "stages": stages, "beside": beside}


def clear_lines(folder: Path) -> tuple[list[str], str]:
    """Remove what no job holds; lines on it, and a line on entries that stay, empty where there are none."""
    removed, left = _cache(folder).clear()
    lines = [f"{len(removed)} entries removed, {format_bytes(sum(entry.bytes for entry in removed))} freed"]
    lines += _side_lines(*side_folders.clear(folder), word="removed")
    in_use = f"{len(left)} are in use and stay: {', '.join(entry.chain for entry in left)}" if left else ""
    return lines, in_use


def _cache(folder: Path) -> StageCache:
    return StageCache(folder, limit_of(folder / "stages"))


def _side_lines(folders: Sequence[side_folders.Folder], left: Sequence[side_folders.Folder], word: str) -> list[str]:
    """A line on each kind of folder that is there."""
    lines = []
    for kind, name in side_folders.KINDS.items():
        these = [folder for folder in folders if folder.kind == kind]
        stay = sum(folder.kind == kind for folder in left)
        if these or stay:
            size = format_bytes(sum(folder.bytes for folder in these))
            in_use = f"; {stay} may be in use and stay" if stay else ""
            lines.append(f"{name}: {len(these)} {word}, {size}{in_use}")
    return lines


def stage_lines(kept: StageCache) -> list[str]:
    """A line for each entry of a stage cache, the one used last first, then what all take together."""
    entries = kept.entries()
    total, limit = format_bytes(sum(entry.bytes for entry in entries)), format_bytes(kept.limit_bytes)
    head = ("chain", "model", "size", "computed in", "last used")
    rows = [
        (
            entry.chain or f"damaged: {entry.digest[:16]}",
            entry.model,
            format_bytes(entry.bytes),
            f"{entry.seconds:.1f} s",
            datetime.fromtimestamp(entry.last_used).strftime("%Y-%m-%d %H:%M"),
        )
        for entry in entries
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    table = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return [*(line.rstrip() for line in table if rows), f"{len(entries)} entries, {total} of {limit} in {kept.folder}"]
