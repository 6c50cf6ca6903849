"""Records with made-up numbers, for tests of what reads records."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from slimsweep.evaluation.outcomes import Outcomes
from slimsweep.records.record import ordered
from slimsweep.records.store import Store, SweepJob

PROTOCOL = "wikitext2:test:join=\\n\\n:ctx=512:windows=16:token:bos=default:tok=11112222:sha=33334444"


def record(
    technique: str = "dense",
    ratio: float | None = None,
    seed: int | None = None,
    pattern: str = "unstructured",
    protocol: str = PROTOCOL,
    fields: dict[str, Any] | None = None,
    **values: Any,
) -> dict[str, Any]:
    """One record; `fields` are further knobs of its single stage, `values` replace its own."""
    stage = {"name": technique, "technique": technique, "fields": {"ratio": ratio, "pattern": pattern} | (fields or {})}
    content = {
        "key": hashlib.sha256(repr((technique, ratio, seed, pattern, protocol, fields, values)).encode()).hexdigest(),
        "model": "tiny",
        "baseline": "made up",
        "weights": "random",
        "technique": technique,
        "pattern": None if technique == "dense" else pattern,
        "ratio": ratio,
        "seed": seed,
        "sparsity": ratio or 0.0,
        "parameters": 1000,
        "nonzero_parameters": 1000 - int(800 * (ratio or 0)),
        "weight_bytes": 2 * 2**20,
        "perplexity_wikitext2": 10.0 + 100 * (ratio or 0) ** 2,
        "accuracy_sentiment": 0.7 - 0.2 * (ratio or 0),
        "accuracy_stderr_sentiment": 0.03,
        "compress_seconds": 1.5,
        "device": "cpu",
        "dtype": "float32",
        "sweep": "unstructured",
        "protocols": {"perplexity_wikitext2": protocol, "accuracy_sentiment": "sentiment:v1:limit=200"},
        "stages": [] if technique == "dense" else [stage],
        "config": {"ratio": 0.5, "calibration": {"corpus": "reviews", "sequences": 16}},
    }
    return ordered(content | values, {})


def sweep(store: Store, name: str, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put records into a store as the finished jobs of a sweep."""
    for one in records:
        store.write(one, [])
    store.open_sweep(name, [SweepJob(one["key"], f"{one['technique']} {one['ratio']}", []) for one in records])
    return records


def curve(technique: str, **values: Any) -> list[dict[str, Any]]:
    """Records of one technique at three ratios."""
    return [record(technique, ratio, **values) for ratio in (0.1, 0.5, 0.9)]


def reduced(ratio: float, level: str = "block", **values: Any) -> dict[str, Any]:
    """A record of a stage that removed heads and neurons from the second of two blocks, or channels from both."""
    dense = {"heads": 4, "key_value_heads": 2, "neurons": 40}
    after = dense | {"heads": 2, "key_value_heads": 1, "neurons": 40 - int(40 * ratio)}
    channels = 32 - int(32 * ratio)
    notes = {
        "removed_parameters": int(800 * ratio),
        "before": {"channels": 32, "blocks": [dense, dense]},
        "after": {"channels": channels, "blocks": [dense, dense]}
        if level == "channel"
        else {"channels": 32, "blocks": [dense, after]},
        "details": [],
    }
    left = 1000 - int(800 * ratio)
    content = {"parameters": left, "nonzero_parameters": left, "load_memory_bytes": 2 * left, "gmacs": left / 1000}
    made = record("llm_pruner", ratio, fields={"level": level}, **(content | {"sparsity": 0.0} | values))
    made["stages"][0]["notes"] = notes
    return made


QUANTIZERS = ("nf4", "rtn", "gptq")


def chain(technique: str, ratio: float | None = None, bits: float = 4.0, **values: Any) -> dict[str, Any]:
    """A record of a chain such as `wanda+nf4`: QUANTIZERS store weights in `bits`, llm_pruner removes parts.

    The others set weights to zero. `fields` are further knobs of a stage, by its name.
    """
    fields = values.pop("fields", {})
    is_quantized = any(name in QUANTIZERS for name in technique.split("+"))
    sizes = {"bits_per_weight": bits, "weight_bytes": 2**19} if is_quantized else {"bits_per_weight": 16.0}
    made = record(technique, ratio, **(sizes | values))
    made["stages"] = [
        _stage(name, ratio, bits, fields.get(name, {})) for name in technique.split("+") if name != "dense"
    ]
    return made


def _stage(name: str, ratio: float | None, bits: float, fields: dict[str, Any]) -> dict[str, Any]:
    if name in QUANTIZERS:
        return {"name": name, "technique": name, "fields": fields, "notes": {"bits_per_weight": bits}}
    notes = {"removed_parameters": 100} if name == "llm_pruner" else {}
    return {"name": name, "technique": name, "fields": {"ratio": ratio} | fields, "notes": notes}


def with_outcomes(store: Store, made: dict[str, Any], field: str, values: Sequence[float], items: str = "some"):
    """Keep outcomes of a field beside a record: right and wrong answers, or other values whose mean is the quantity."""
    identity = hashlib.sha256(repr((made["key"], field)).encode()).hexdigest()
    made["identities"] = (made["identities"] or {}) | {field: identity}
    outcomes = {field: Outcomes(np.array(values, dtype=np.float64), "mean", items)}
    store.keep(made["key"], {"identity": identity, "values": {field: made[field]}, "outcomes": outcomes})
    return made
