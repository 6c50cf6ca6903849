"""Record of a finished experiment: a flat dict with units in field names and a reason for each null."""

import json
import math
from pathlib import Path
from typing import Any

from slimsweep import atomic
from slimsweep.errors import StoreError
from slimsweep.evaluation.quantity import Quantity
from slimsweep.records.quantities import quantity

FIELDS = (
    # The fields every record has, in the order they are written; metrics of texts and tasks add more.
    *(
        "key",
        "base_key",
        "before_key",
        "model",
        "model_revision",
        "baseline",
        "weights",
        "technique",
        "pattern",
        "ratio",
        "seed",
        "sparsity",
    ),
    *("parameters", "nonzero_parameters", "weight_bytes", "bits_per_weight", "checkpoint_bytes", "compression_factor"),
    *("gmacs", "gmacs_nonzero", "load_memory_bytes", "peak_memory_bytes", "prefill_seconds"),
    *("decode_tokens_per_second", "speedup_prefill", "speedup_decode", "load_seconds", "compress_seconds"),
    *("compress_spent_seconds", "evaluate_seconds", "device", "dtype", "threads", "weights_digest", "git_commit"),
    *(
        "created",
        "sweep",
        "versions",
        "protocols",
        "identities",
        "quantities",
        "sources",
        "reasons",
        "stages",
        "choices",
        "overrides",
    ),
    *("config",),
)

RECORD_FILE = "record.json"
"""File name of a record, in its folder and beside a saved model."""
BEFORE = "_before"
"""Suffix of a quality that was measured before the last training stage."""

RESULT_FIELDS_THAT_MAY_DIFFER = frozenset(
    # Times of the job and provenance. Speed and memory declare `varies` in their Quantity instead.
    (
        *("load_seconds", "compress_seconds", "compress_spent_seconds", "evaluate_seconds"),
        *("threads", "git_commit", "created", "sweep", "versions", "sources", "choices", "overrides", "config"),
    )
)

STAGE_FIELDS_THAT_MAY_DIFFER = frozenset(("seconds", "restored", "computed_on"))
"""Fields of an entry of `stages` that may differ between two runs of one key."""


def results(record: dict[str, Any]) -> dict[str, Any]:
    """Copy a record without the fields that may differ between two runs of one key, in `stages` too."""
    varying = {name for name in record if quantity(name, [record]).varies}
    kept = {name: value for name, value in record.items() if name not in RESULT_FIELDS_THAT_MAY_DIFFER | varying}
    kept["stages"] = [
        {name: value for name, value in stage.items() if name not in STAGE_FIELDS_THAT_MAY_DIFFER}
        for stage in record["stages"]
    ]
    return kept


def assembled(
    model: dict[str, Any], measured: list[dict[str, Any]], before: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Assemble a record from the fields of a model and its measurements.

    If two measurements have the same field, both are kept. Their names then give the setting that differs:
    `perplexity_wikitext2[max_windows=8]`.

    Args:
        model: Fields that are not measured, as `ordered` returns them.
        measured: Measurements as `measurement` gives them, in the order they were asked for.
        before: Measurements of the model before its last training stage; qualities become `<field>_before`.
    """
    holders: dict[str, list[dict[str, Any]]] = {}
    for one in measured:
        for name in one["values"]:
            holders.setdefault(name, []).append(one)
    values, reasons, protocols, identities, sources = dict(model), dict(model["reasons"]), {}, {}, {}
    quantities = {}
    for name, several in holders.items():
        labels = _differences([one["metric"] for one in several]) if len(several) > 1 else [""]
        for one, label in zip(several, labels, strict=True):
            field = f"{name}[{label}]" if label else name
            values[field], identities[field] = one["values"][name], one["identity"]
            reasons.pop(field, None)
            if name in one["reasons"]:
                reasons[field] = one["reasons"][name]
            if name in one["protocols"]:
                protocols[field] = one["protocols"][name]
            if one["source"]:
                sources[field] = one["source"]
            if declared := one.get("quantities", {}).get(name):
                one_of_several = Quantity.of(declared).labelled(label) if label else Quantity.of(declared)
                quantities[field] = one_of_several.plain()
    own = [one["seconds"] for one in measured if not one["source"]]
    values |= {"evaluate_seconds": sum(own), "protocols": protocols, "identities": identities, "sources": sources}
    if before:
        _add_before(before, values, reasons, protocols, quantities)
    values["quantities"] = quantities
    return ordered(values, reasons)


def _add_before(
    before: list[dict[str, Any]],
    values: dict[str, Any],
    reasons: dict[str, str],
    protocols: dict[str, str],
    quantities: dict[str, dict[str, Any]],
) -> None:
    """Add the qualities of an earlier model under names with `_before`."""
    earlier = assembled({"reasons": {}}, before)
    for name, plain in earlier["quantities"].items():
        if plain.get("group") != "quality":
            continue
        field = f"{name}{BEFORE}"
        values[field] = earlier[name]
        if name in earlier["reasons"]:
            reasons[field] = earlier["reasons"][name]
        if name in earlier["protocols"]:
            protocols[field] = earlier["protocols"][name]
        quantities[field] = Quantity.of(plain).before(BEFORE).plain()


def measurement(
    name: str, identity: str, metric: dict[str, Any], result: Any, seconds: float, created: str
) -> dict[str, Any]:
    """Plain values of a measurement, as its file stores them.

    Args:
        name: Name of the metric in the evaluation.
        identity: Digest of `metric`, which says how it was measured.
        result: Result of the metric: values, reasons, protocols and outcomes by item.
        created: Time in the format of a record.
    """
    return {
        "name": name,
        "identity": identity,
        "metric": metric,
        "values": result.values,
        "reasons": result.reasons,
        "protocols": result.protocols,
        "outcomes": result.outcomes,
        "seconds": seconds,
        "source": None,  # key of another record, where the values were measured there
        "created": created,
    }


def _differences(metrics: list[dict[str, Any]]) -> list[str]:
    """Settings in which metrics of one field differ, as one text per metric: `max_windows=8`."""
    flat = [
        {
            **one["fields"],
            **{name: one[name] for name in ("package", "name", "version")},
            **{f"text {name}": text for name, text in one["digests"].items()},
        }
        for one in metrics
    ]
    names = sorted(name for name in set().union(*flat) if len({repr(one.get(name)) for one in flat}) > 1)
    return [", ".join(f"{name}={_setting(one.get(name, 'default'))}" for name in names) for one in flat]


def _setting(value: Any) -> str:
    text = str(value)
    return text[:8] if len(text) == 64 else text


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
    """Record with all FIELDS and any further fields in order, and a reason for each null.

    A field that was not measured is null with the reason "not measured by this evaluation".
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
    """Write `content` as a JSON file, atomically; see write_text."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: it is complete or not there.

    Raises:
        StoreError: the folder cannot be written or the disk is full.
    """
    try:
        atomic.write_text(path, text)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror}. Free space or choose another outputs_dir=FOLDER; "
            "finished records are untouched, and the same command goes on from there."
        ) from error
