"""Models that answer side by side: the dense base of some records, then the model of each record."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from slimsweep.errors import DemoError, SlimsweepError
from slimsweep.evaluation.memory import Memory
from slimsweep.evaluation.size import Size
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.task import TASKS
from slimsweep.pipeline.chain import compress
from slimsweep.pipeline.rebuild import Rebuild
from slimsweep.records.points import titles
from slimsweep.records.store import Store

SHORT = 8
"""Characters of a key that people read."""


@dataclass(frozen=True)
class Shown:
    """A loaded model with the words and numbers that stand beside it."""

    title: str
    """`dense`, or technique, ratio and settings of the record."""
    key: str
    model: LanguageModel
    weight_bytes: int
    """Bytes of the parameters; the field of this name in records."""
    memory_bytes: int | None
    """Peak of one forward, the field `peak_memory_bytes` of records; None where the system has no such counter."""


@dataclass(frozen=True)
class Lineup:
    """Records of one dense base, checked; no weights are loaded yet."""

    rebuilds: tuple[Rebuild, ...]

    @classmethod
    def of(cls, store: Store, keys: Sequence[str], data_dir: Path | None) -> "Lineup":
        """The records whose keys begin so, each once.

        Raises:
            DemoError: every fault of every key, or records of several dense models.
        """
        found, faults = {}, []
        for key in keys:
            try:
                rebuild = writer_of(store, key, data_dir)
                _ = rebuild.experiment  # its base is loaded: faults of its settings count now
                found[rebuild.record["key"]] = rebuild
            except SlimsweepError as error:
                faults.append(str(error))
        if faults:
            raise DemoError("; ".join(faults))
        _refuse_several_bases(list(found.values()))
        return cls(tuple(found.values()))

    @property
    def model_name(self) -> str:
        """Name of the dense model."""
        return self.rebuilds[0].experiment.model.name

    @property
    def titles(self) -> list[str]:
        """Titles of all models, the base first."""
        known = titles(rebuild.record for rebuild in self._compressed)
        return [self.rebuilds[0].experiment.base.chain, *known.values()]

    def load(self) -> Iterator[Shown]:
        """Load and measure one model after another, the base first. Models of records lie where the base lies."""
        base = self.rebuilds[0].experiment.base
        title, *others = self.titles
        dense = compress(base).model
        yield measured(title, base.key, dense)
        for title, rebuild in zip(others, self._compressed, strict=True):
            model = placed(rebuild.model(trusts_digest=True), dense.compute_device)
            yield measured(title, rebuild.record["key"], model)

    @property
    def _compressed(self) -> list[Rebuild]:
        """Records of other models than the base."""
        base = self.rebuilds[0].experiment.base
        return [rebuild for rebuild in self.rebuilds if rebuild.record["key"] != base.key]


def writer_of(store: Store, prefix: str, data_dir: Path | None) -> Rebuild:
    """The record whose key begins so, checked as far as that needs no weights.

    Raises:
        DemoError: its model writes no text, or has no tokenizer.
        StoreError, ConfigError: no such record, several, or its model cannot be made again.
    """
    rebuild = Rebuild(store, store.find(prefix), data_dir)
    record = rebuild.record
    task = record["config"]["model"].get("task", "causal_lm")
    if not TASKS[task].generates:
        raise DemoError(
            f"record {record['key'][:SHORT]} is of a model that writes no text (model.task={task}): choose a record "
            f"of a language model; `slim show {record['key'][:SHORT]}` tells more of this one"
        )
    if rebuild.skeleton().tokenizer is None:
        raise DemoError(f"record {record['key'][:SHORT]} is of a model without a tokenizer, so it cannot read a prompt")
    return rebuild


def _refuse_several_bases(rebuilds: Sequence[Rebuild]) -> None:
    by_base: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for rebuild in rebuilds:
        base = rebuild.experiment.base
        by_base.setdefault(base.key, []).append(rebuild.record["key"][:SHORT])
        names[base.key] = f"{base.label} in {base.resolved_dtype}"
    if len(by_base) > 1:
        told = ", ".join(f"{' and '.join(keys)} of {names[base]}" for base, keys in by_base.items())
        commands = "; ".join(f"slim demo {' '.join(keys)}" for keys in by_base.values())
        raise DemoError(
            f"these records have {len(by_base)} dense models, and a demo compares with one ({told}). Start one demo "
            f"for each, with a --port of its own: {commands}"
        )


def measured(title: str, key: str, model: LanguageModel) -> Shown:
    """A loaded model with its sizes. The forwards that measure memory also warm it up."""
    memory = Memory().measure(model, None).values["peak_memory_bytes"]
    return Shown(title, key, model, Size().measure(model, None).values["weight_bytes"], memory)


def placed(model: LanguageModel, device: torch.device) -> LanguageModel:
    """The model on a device. Kept models are read to the CPU, where their speed would tell nothing beside a GPU's."""
    if model.offload or model.compute_device == device:
        return model
    return dataclasses.replace(model, module=model.module.to(device), compute_device=device)
