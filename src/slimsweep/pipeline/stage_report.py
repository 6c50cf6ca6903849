"""Report of a stage in a record: its fields, its counts, and the names of layers after it."""

from typing import Any

from torch import nn

from slimsweep.evaluation.cost import zero_count
from slimsweep.linear.base import weight_count
from slimsweep.models.language_model import LanguageModel
from slimsweep.pipeline.experiment import Stage


def described(stage: Stage) -> dict[str, Any]:
    """Name, technique, version and fields of a stage."""
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(stage.technique).items()}
    return {
        "name": stage.name,
        "technique": stage.label,
        "version": type(stage.technique).version,
        "fields": fields,
    }


def account_of(stage: Stage, report: Any, seconds: float) -> dict[str, Any]:
    """Entry of a record for a stage that was just computed."""
    weights = sum(layer.weights for layer in report.layers)
    zeros = sum(layer.zeros for layer in report.layers)
    return described(stage) | {
        "restored": False,
        "seconds": seconds,
        "layers": len(report.layers),
        "weights": weights,
        "zeros": zeros,
        "sparsity": zeros / weights if weights else None,
        "sparsity_after": {},
        "notes": report.notes,
    }


def places(before: dict[str, nn.Module], after: dict[str, nn.Module]) -> dict[str, str]:
    """Name of each layer after a stage, by its name before. A removed layer has no entry.

    Names change where blocks were renumbered. A layer that was replaced by another module keeps its name.
    """
    names = {id(layer): name for name, layer in after.items()}
    known = {id(layer) for layer in before.values()}
    replaced = {name: name for name in before if name in after and id(after[name]) not in known}
    return replaced | {name: names[id(layer)] for name, layer in before.items() if id(layer) in names}


def sparsity(model: LanguageModel, layers: set[str]) -> float | None:
    """Fraction of zeros in the remaining weights of some layers; the planned one for a model without weights."""
    targets = {name: linear for name, linear in model.targets().items() if name in layers}
    weights = sum(weight_count(linear) for linear in targets.values())
    zeros = sum(zero_count(model, name, linear) for name, linear in targets.items())
    return zeros / weights if weights else None
