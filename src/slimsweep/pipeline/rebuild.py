"""A compressed model again from its record: restored or computed anew, compared with what was recorded, and saved."""

import math
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from slimsweep.errors import StoreError
from slimsweep.evaluation.quantity import Quantity
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel, weights_digest
from slimsweep.models.skeleton import Skeleton
from slimsweep.models.sources.local import LocalModel
from slimsweep.models.storage import saved_model
from slimsweep.paths import NO_FOLDERS, OwnFolders, config_root
from slimsweep.pipeline.chain import compress
from slimsweep.pipeline.experiment import Experiment
from slimsweep.pipeline.keys import model_key
from slimsweep.pipeline.run import measure
from slimsweep.pipeline.stage_cache.cache import limit_of
from slimsweep.records.record import RECORD_FILE, write_json
from slimsweep.records.store import Store


def save(store: Store, record: dict[str, Any], folder: Path, folders: OwnFolders = NO_FOLDERS) -> bool:
    """Write the model of a record to `folder`: the one kept beside it, else compressed again.

    Stages that the stage cache holds are restored, not computed.

    Returns whether plain `from_pretrained` loads it.

    Raises:
        StoreError: the record's settings no longer give its key, or counts or quality come out different.
    """
    saved_model.refuse_unless_empty(folder)
    rebuild = Rebuild(store, record, folders)
    if rebuild.is_kept:
        with saved_model.written_whole(folder) as partial:
            shutil.copytree(rebuild.kept, partial, dirs_exist_ok=True)
            write_json(partial / RECORD_FILE, record)
        return saved_model.is_plain(folder)
    model = rebuild.model()
    with saved_model.written_whole(folder) as partial:
        saved_model.write(model, partial)
        write_json(partial / RECORD_FILE, record)
    return saved_model.is_plain(folder)


@dataclass(frozen=True)
class Rebuild:
    """A recorded model on its way back: its shapes first, then the model itself, compared with the record."""

    store: Store
    record: dict[str, Any]
    folders: OwnFolders = NO_FOLDERS

    @property
    def kept(self) -> Path:
        """Folder that `save_model=true` writes the model to."""
        return self.store.folder(self.record["key"]) / "model"

    @property
    def is_kept(self) -> bool:
        """Whether the model lies beside its record."""
        return self.kept.is_dir()

    @cached_property
    def experiment(self) -> Experiment:
        """The checked experiment; see `experiment_of`."""
        return experiment_of(self.store, self.record, self.folders)

    def skeleton(self) -> Skeleton:
        """Shapes and tokenizer of the model, without weights: of the kept folder, else as the stages plan them.

        Raises:
            StoreError, ConfigError: see `experiment_of`.
        """
        if self.is_kept:
            source = self._source()
            kept = source.skeleton().copy()
            kept.tokenizer = source.tokenizer()
            kept.zeros = {name: zeros for name, zeros in self._zeros().items() if name in kept.targets()}
            return kept
        planned = self.experiment.model.skeleton().copy()
        for stage in self.experiment.stages:
            stage.technique.plan(planned)
        planned.tokenizer = self.experiment.model.tokenizer()
        return planned

    def model(self, trusts_digest: bool = False) -> LanguageModel:
        """The model of the record: the kept one, else compressed again.

        Args:
            trusts_digest: measure nothing where the weights are those of the record, bit for bit. That saves minutes.

        Raises:
            StoreError: the record's settings no longer give its key, or counts or quality come out different.
        """
        if self.is_kept:
            source = self._source()
            stored = str(source.config().dtype or self.record["dtype"]).removeprefix("torch.")
            return source.load(getattr(torch, stored), torch.device("cpu"))
        asked = self._asked()
        if not asked and not trusts_digest:
            raise self._incomparable("")
        model = compress(self.experiment).model
        if trusts_digest and weights_digest(model) == self.record["weights_digest"]:
            return model
        if not asked:
            raise self._incomparable("has other weights here, and ")
        self._refuse_other_weights(model)
        self._refuse_other_results(model, asked)
        return model

    def calibration(self) -> Batch:
        """The calibration sequences of the record's job, drawn with its seed; drawn once.

        Raises:
            StoreError, ConfigError: see `experiment_of`.
        """
        return self._drawn

    @cached_property
    def _drawn(self) -> Batch:
        return self.experiment.calibration.sample(self.experiment.model, self.experiment.corpora, self.experiment.seed)

    def _zeros(self) -> dict[str, int]:
        """Exact zeros by layer, as the last stage that treated it left them."""
        stages = self.store.layers(self.record["key"]) or []
        return {layer["name"]: layer["zeros"] for stage in stages for layer in stage["layers"]}

    def _source(self) -> LocalModel:
        task = self.record["config"]["model"].get("task", "causal_lm")
        return LocalModel(path=str(self.kept), task=task, cache_dir=str(self.store.outputs_dir / "cache"))

    def _refuse_other_weights(self, model: LanguageModel) -> None:
        versions = [type(stage.technique).version for stage in self.experiment.stages]
        is_other = versions != [stage["version"] for stage in self.record["stages"]]
        if is_other and weights_digest(model) != self.record["weights_digest"]:
            raise StoreError(
                f"record {self.record['key'][:8]} was made by other versions of its techniques, which now give other "
                "weights. Run the experiment anew, with save_model=true."
            )

    def _asked(self) -> dict[str, Any]:
        """Measurements that the model is compared by, by identity; needs no weights."""
        kept = self.store.measured(self.record["key"])
        return {
            identity: one
            for identity, one in self.experiment.asked.items()
            if identity in kept and compared(one.metric.quantities())
        }

    def _incomparable(self, found: str) -> StoreError:
        """Error of a record without such measurements; `found` is what is wrong besides."""
        return StoreError(
            f"record {self.record['key'][:8]} {found}measured nothing to compare by, such as size or quality. "
            "Run the experiment with save_model=true."
        )

    def _refuse_other_results(self, model: LanguageModel, asked: dict[str, Any]) -> None:
        key, experiment = self.record["key"], self.experiment
        kept, faults = self.store.measured(key), []
        for one in measure(experiment, self.store, model, asked):
            quantities = asked[one["identity"]].metric.quantities()
            faults += differences(kept[one["identity"]]["values"], one["values"], quantities)
        if faults:
            raise StoreError(
                f"record {key[:8]} is not what its settings give here: {'; '.join(faults)}. "
                "Another machine, thread count or package version rounds otherwise; run the experiment here and take "
                "its record."
            )


NO_DATA = {"corpus": "movie_reviews_calibration", "tokens": 256}
"""Training data of a record of before there was any; none of its stages reads it."""


def experiment_of(store: Store, record: dict[str, Any], folders: OwnFolders) -> Experiment:
    """The checked experiment of a record, composed anew from its choices and settings.

    Raises:
        StoreError: there are no weights, a choice is not there any more, or the settings give another key here.
        ConfigError: something it needs is not there.
    """
    if record["weights"] == "meta":
        raise StoreError(f"record {record['key'][:8]} is of shapes alone (model.weights=meta): it has no weights")
    cache = str(store.outputs_dir / "cache")
    own = {"cache_dir": cache, "cache_limit_gb": limit_of(store.outputs_dir / "cache" / "stages") / 1e9}
    own |= {"outputs_dir": str(store.outputs_dir), "data_dir": str(folders.data_dir) if folders.data_dir else None}
    experiment = composed(record, own, folders.config_dir)
    experiment.check()
    if experiment.key != record["key"]:
        versions = [stage["version"] for stage in record["stages"]]
        if model_key(experiment, versions) != record["key"]:  # other versions may give the same weights: `save` looks
            raise StoreError(
                f"the settings of record {record['key'][:8]} give the key {experiment.key[:8]} here: weights, texts or "
                "the kind of device have changed. Run the experiment anew, with save_model=true."
            )
    return experiment


def composed(record: dict[str, Any], own: dict[str, Any], config_dir: Path | None = None) -> Experiment:
    """The experiment of a record; `own` are settings that stand in no record, such as folders.

    Args:
        config_dir: folder of `--config-dir`, where the job was launched with one.

    Raises:
        StoreError: a choice of the record is not there any more.
    """
    config, choices = record["config"], record["choices"]
    target = partial(target_of, packages=choices.get("packages", []), config_dir=config_dir)
    device = "cpu" if record["device"] == "cpu" else "auto"
    settings = config | own | {"dtype": record["dtype"], "device": device, "sweep": None, "cache": True}
    settings |= {"on_error": "stop", "memory_budget": None, "keep_zeros": config.get("keep_zeros", False)}
    settings |= dict.fromkeys(("dry_run", "trial", "save_model", "fresh", "amend"), False)
    settings["tracker"] = {"_target_": "slimsweep.records.tracking.none.NoTracker"}
    config, choices = {"data": NO_DATA, **config}, {"data": "quick", **choices}
    for group in ("model", "calibration", "data"):
        settings[group] = config[group] | {"_target_": target(group, choices[group])}
    settings["model"] |= {"cache_dir": own["cache_dir"]}
    settings["technique"] = {
        name: fields | {"_target_": target("technique", choices["technique"][name])}
        for name, fields in config["technique"].items()
    }
    metrics = {
        name: fields | {"_target_": target("metric", choices["metric"][name])}
        for name, fields in config["evaluation"]["metrics"].items()
    }
    settings["evaluation"] = {"metrics": metrics}
    return Experiment.of(OmegaConf.create(settings), [], choices)


def target_of(group: str, choice: str, packages: Sequence[str] = (), config_dir: Path | None = None) -> str:
    """Class path behind a choice of a config group: that of its YAML, else of any YAML whose class has this name.

    Args:
        packages: those that hold configs of others, such as `theirs.conf`.
        config_dir: folder with further config groups.

    Raises:
        StoreError: no YAML of this project, of the folder or of these packages leads to it.
    """
    # A package may name its metrics in profiles instead, and a metric is recorded by the word of its class.
    groups = ("metric", "evaluation") if group == "metric" else (group,)
    roots = [config_root() / "conf", *([config_dir] if config_dir else [])]  # Hydra searches them in this order too
    folders = [folder for one in groups for folder in (*(root / one for root in roots), *group_folders(one, packages))]
    named = next((file for folder in folders if (file := folder / f"{choice}.yaml").is_file()), None)
    every = [file for folder in folders for file in sorted(folder.glob("*.yaml"))]
    for file in ([named] if named else []) + every:
        for target in re.findall(r"_target_: (\S+)", file.read_text(encoding="utf-8")):
            module, _, name = target.rpartition(".")
            stem = module.rsplit(".", 1)[-1]
            if (file == named and group != "metric") or choice in (stem, f"{stem}.{name}"):
                return target
    searched = [f"conf/{group}", *([config_dir / group] if config_dir else [])]
    raise StoreError(
        f"{group}={choice} of this record is not among the choices in {' and '.join(map(str, searched))}. If its job "
        f"was launched with --config-dir FOLDER, give this option here too. Else put {choice}.yaml into a package "
        "(hydra.searchpath), or launch the job with save_model=true, which keeps its model beside the record"
    )


def group_folders(group: str, packages: Sequence[str]) -> list[Path]:
    """Folders of a config group in packages; one that is not installed any more has none."""
    found = []
    for package in packages:
        with suppress(ModuleNotFoundError):
            spec = find_spec(package)
            found += [Path(place) / group for place in (spec and spec.submodule_search_locations) or []]
    return found


def compared(quantities: Sequence[Quantity]) -> list[Quantity]:
    """The quantities that a rebuilt model is compared by."""
    return [one for one in quantities if one.tolerance is not None]


def differences(record: dict[str, Any], values: dict[str, Any], quantities: Sequence[Quantity]) -> list[str]:
    """Differences of a rebuilt model from its record, beyond what each quantity tolerates."""
    faults = []
    for one in compared(quantities):
        if one.field not in values:
            continue
        before, now = record.get(one.field), values[one.field]
        now = now if now is not None and math.isfinite(now) else None
        same = before is now or (None not in (before, now) and math.isclose(before, now, rel_tol=one.tolerance))
        if not same:
            faults.append(f"{one.field} {now} instead of {before}")
    return faults
