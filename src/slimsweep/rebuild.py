"""A compressed model again from its record: restored or computed anew, compared with what was recorded, and saved."""

import math
import shutil
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from slimsweep.compression import compress
from slimsweep.errors import StoreError
from slimsweep.evaluation.perplexity import Perplexity
from slimsweep.evaluation.size import Size
from slimsweep.experiment import Experiment
from slimsweep.models import reduced
from slimsweep.models.whole_folder import refuse_unless_empty, written_whole
from slimsweep.run import Outcome, measure
from slimsweep.stage_cache import limit_of
from slimsweep.store import Store

COUNTED = ("sparsity", "parameters", "nonzero_parameters")
COMPARED = (*COUNTED, "perplexity_")
"""Fields, or their beginnings, that a rebuilt model is compared by."""
RELATIVE_TOLERANCE = 1e-3
"""Of a perplexity: another batch of kernels rounds otherwise, another model is further off."""


def save(store: Store, record: dict[str, Any], folder: Path, data_dir: Path | None) -> bool:
    """Write the model of a record to `folder`: the one kept beside it, else compressed again.

    Stages that the stage cache holds are restored, not computed.

    Returns whether plain `from_pretrained` loads it.

    Raises:
        StoreError: the record's settings no longer give its key, or sparsity or perplexity come out different.
    """
    refuse_unless_empty(folder)
    kept = store.folder(record["key"]) / "model"
    if kept.is_dir():
        with written_whole(folder) as partial:
            shutil.copytree(kept, partial, dirs_exist_ok=True)
        return reduced.is_plain(folder)
    experiment = experiment_of(store, record, data_dir)
    model, outcome = compress(experiment).model, Outcome()
    for name in [name for name, metric in experiment.metrics.items() if not isinstance(metric, Perplexity | Size)]:
        del experiment.metrics[name]
    measure(experiment, model, outcome)
    if not any(name.startswith(COMPARED) for name in outcome.values):
        raise StoreError(
            f"record {record['key'][:8]} measured neither size nor perplexity to compare by. "
            "Run the experiment with save_model=true."
        )
    if faults := differences(record, outcome.values):
        raise StoreError(
            f"record {record['key'][:8]} is not what its settings give here: {'; '.join(faults)}. Nothing was saved. "
            "Another machine, thread count or package version rounds otherwise; run the experiment here and save that."
        )
    return reduced.save(model, folder)


def experiment_of(store: Store, record: dict[str, Any], data_dir: Path | None) -> Experiment:
    """The checked experiment of a record.

    Raises:
        StoreError: there are no weights, or the settings give another key here.
        ConfigError: something it needs is not there.
    """
    if record["weights"] == "meta":
        raise StoreError(
            f"record {record['key'][:8]} is of shapes alone (model.weights=meta): there is nothing to save"
        )
    cache = str(store.outputs_dir / "cache")
    limit = limit_of(store.outputs_dir / "cache" / "stages") / 1e9
    device = "cpu" if record["device"] == "cpu" else "auto"
    settings = record["config"] | {"dtype": record["dtype"], "device": device, "cache_dir": cache}
    settings["evaluation"] = {"metrics": record["config"]["evaluation"]["metrics"]}
    settings |= {"outputs_dir": str(store.outputs_dir), "data_dir": str(data_dir) if data_dir else None}
    settings |= {"tracker": {"_target_": "slimsweep.tracker.NoTracker"}, "on_error": "stop", "dry_run": False}
    settings |= {"cache": True, "cache_limit_gb": limit, "memory_budget": None}
    settings |= {"sweep": None, "save_model": False, "model": record["config"]["model"] | {"cache_dir": cache}}
    experiment = Experiment.of(OmegaConf.create(settings), [])
    experiment.check()
    if experiment.key != record["key"]:
        raise StoreError(
            f"the settings of record {record['key'][:8]} give the key {experiment.key[:8]} here: weights, texts, the "
            "kind of device or the version of a technique have changed. Run the experiment anew, with save_model=true."
        )
    return experiment


def differences(record: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """What a rebuilt model has otherwise than its record: counts exactly, perplexities within 0.1 %."""
    faults = []
    for name in sorted(name for name in values if name in COUNTED):
        if values[name] != record[name]:
            faults.append(f"{name} {values[name]} instead of {record[name]}")
    for name in sorted(name for name in values if name.startswith("perplexity_")):
        was, found = record.get(name), values[name]
        found = found if found is not None and math.isfinite(found) else None
        same = was is found or (None not in (was, found) and math.isclose(was, found, rel_tol=RELATIVE_TOLERANCE))
        if not same:
            faults.append(f"{name} {found} instead of {was}")
    return faults
