"""Kinds of stages of a record: remove whole parts, zero weights, store weights in fewer bits."""

from typing import Any

from slimsweep.records.points import Record

Stage = dict[str, Any]


def stages_of(record: Record) -> list[Stage]:
    """The stages of a record, in order; none for the dense model."""
    return record.get("stages") or []


def removes_parts(stage: Stage) -> bool:
    """Whether a stage removed whole parts, so that layers changed their shape."""
    return bool((stage.get("notes") or {}).get("removed_parameters"))


def quantizes(stage: Stage) -> bool:
    """Whether a stage stored weights in fewer bits."""
    return (stage.get("notes") or {}).get("bits_per_weight") is not None


def prunes(stage: Stage) -> bool:
    """Whether a stage took weights away by a ratio: whole parts, or single ones set to zero."""
    return removes_parts(stage) or stage.get("fields", {}).get("ratio") is not None


def is_structured(record: Record) -> bool:
    """Whether some stage of a record removed whole parts."""
    return any(removes_parts(stage) for stage in stages_of(record))


def is_quantized(record: Record) -> bool:
    """Whether some stage of a record stored weights in fewer bits."""
    return any(quantizes(stage) for stage in stages_of(record))


def is_pruned(record: Record) -> bool:
    """Whether some stage of a record took weights away."""
    return any(prunes(stage) for stage in stages_of(record))


def training_of(stage: Stage) -> dict[str, Any] | None:
    """Account of a stage that trained; None of any other stage."""
    return (stage.get("notes") or {}).get("training")


def is_trained(record: Record) -> bool:
    """Whether some stage of a record trained."""
    return any(training_of(stage) for stage in stages_of(record))
