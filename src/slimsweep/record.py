"""What a finished experiment leaves: one flat dict, units in its names, every null with its reason."""

import json
import math
import os
from pathlib import Path
from typing import Any

from slimsweep.errors import StoreError

FIELDS = (
    # The fields every record has, in the order they are written; metrics add perplexity_*, accuracy_* and more.
    *("key", "model", "model_revision", "baseline", "weights", "technique", "pattern", "ratio", "seed", "sparsity"),
    *("parameters", "nonzero_parameters", "weight_bytes", "bits_per_weight", "checkpoint_bytes", "compression_factor"),
    *("gmacs", "gmacs_nonzero", "load_memory_bytes", "peak_memory_bytes", "prefill_seconds"),
    *("decode_tokens_per_second", "speedup_prefill", "speedup_decode", "load_seconds", "compress_seconds"),
    *("compress_spent_seconds", "evaluate_seconds", "device", "dtype", "threads", "weights_digest", "git_commit"),
    *("created", "sweep", "versions", "protocols", "reasons", "stages", "config"),
)

RESULT_FIELDS_THAT_MAY_DIFFER = frozenset(
    # Times, speeds, memory and provenance: the fields two runs of one key need not agree on.
    (
        *("load_memory_bytes", "peak_memory_bytes", "prefill_seconds", "decode_tokens_per_second"),
        *("speedup_prefill", "speedup_decode", "load_seconds", "compress_seconds", "compress_spent_seconds"),
        *("evaluate_seconds",),
        *("threads", "git_commit", "created", "sweep", "versions", "config"),
    )
)

STAGE_FIELDS_THAT_MAY_DIFFER = frozenset(("seconds", "restored", "computed_on"))
"""The same of each entry of `stages`."""


def may_differ(name: str) -> bool:
    """Whether two runs of one key may disagree in a field."""
    return name in RESULT_FIELDS_THAT_MAY_DIFFER or name.startswith("evaluate_seconds_")


def results(record: dict[str, Any]) -> dict[str, Any]:
    """What two runs of one key agree on: a record without what may differ, in its stages too."""
    kept = {name: value for name, value in record.items() if not may_differ(name)}
    kept["stages"] = [
        {name: value for name, value in stage.items() if name not in STAGE_FIELDS_THAT_MAY_DIFFER}
        for stage in record["stages"]
    ]
    return kept


def finite(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """`values` with non-finite numbers turned into None, and the reason for each."""
    clean, reasons = {}, {}
    for name, value in values.items():
        is_broken = isinstance(value, float) and not math.isfinite(value)
        clean[name] = None if is_broken else value
        if is_broken:
            reasons[name] = f"not finite: {value}"
    return clean, reasons


def ordered(values: dict[str, Any], reasons: dict[str, str]) -> dict[str, Any]:
    """A record: the fields of FIELDS and any further ones, nulls explained.

    A field nothing measured is null with the reason "not measured by this evaluation".
    """
    clean, broken = finite(values)
    reasons = {**broken, **reasons}
    extra = [name for name in clean if name not in FIELDS]
    head, tail = FIELDS[: FIELDS.index("sparsity")], FIELDS[FIELDS.index("sparsity") :]
    record = {name: clean.get(name) for name in (*head, *sorted(extra), *tail)}
    record["reasons"] = {
        name: reasons.get(name, "not measured by this evaluation")
        for name, value in record.items()
        if value is None and name != "reasons"
    }
    return record


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, whole; see write_text."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Write a file whole, then rename: a reader sees the old file or the new one, never a part.

    Raises:
        StoreError: the folder cannot be written or the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write {path}: {error.strerror}. Free space or choose another outputs_dir=FOLDER; "
            "finished records are untouched, and the same command goes on from there."
        ) from error
