"""The stage cache as a list for people."""

from datetime import datetime

from slimsweep.pipeline.stage_cache.cache import StageCache
from slimsweep.pipeline.stage_cache.entry import format_bytes


def lines(cache: StageCache) -> list[str]:
    """A line for each entry, the one used last first, then what all take together."""
    entries = cache.entries()
    total, limit = format_bytes(sum(entry.bytes for entry in entries)), format_bytes(cache.limit_bytes)
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
    return [*(line.rstrip() for line in table if rows), f"{len(entries)} entries, {total} of {limit} in {cache.folder}"]
