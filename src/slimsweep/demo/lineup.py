"""Models that answer side by side: the dense base of some records, then the model of each record."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from slimsweep.errors import DemoError, SlimsweepError
from slimsweep.evaluation.memory import Memory
from slimsweep.evaluation.size import Size
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.task import TASKS
from slimsweep.paths import NO_FOLDERS, OwnFolders
from slimsweep.pipeline.chain import compress
from slimsweep.pipeline.rebuild import Rebuild
from slimsweep.records.points import titles
from slimsweep.records.store import Store

SHORT = 8
"""Characters of a key that messages show."""


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model with the title and sizes that the demo shows for it."""

    title: str
    """`dense`, or technique, ratio and settings of the record."""
    key: str
    model: LanguageModel
    weight_bytes: int
    """Bytes of the parameters; the field of this name in records."""
    memory_bytes: int | None
    """Peak of one forward, the field `peak_memory_bytes` of records; None where it could not be measured."""
    memory_reason: str = ""
    """Reason why there is no peak."""


@dataclass(frozen=True)
class Lineup:
    """Records of one dense base, checked; no weights are loaded yet."""

    rebuilds: tuple[Rebuild, ...]

    @classmethod
    def of(cls, store: Store, keys: Sequence[str], folders: OwnFolders = NO_FOLDERS) -> "Lineup":
        """Records whose keys begin with the given prefixes, each record once.

        Raises:
            DemoError: a key is faulty (all faults together), or the records have different dense models.
        """
        found, faults = {}, []
        for key in keys:
            try:
                rebuild = writer_of(store, key, folders)
                _ = rebuild.experiment  # to find faults of its settings before weights load
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

    def load(self) -> Iterator[LoadedModel]:
        """Load and measure one model after another, the base first, all on the same device."""
        base = self.rebuilds[0].experiment.base
        title, *others = self.titles
        dense = compress(base).model
        yield measured(title, base.key, dense)
        for title, rebuild in zip(others, self._compressed, strict=True):
            model = placed(rebuild.model(trusts_digest=True), dense.compute_device)
            yield measured(title, rebuild.record["key"], model)

    @property
    def _compressed(self) -> list[Rebuild]:
        """Records of compressed models; the record of the base itself is left out."""
        base = self.rebuilds[0].experiment.base
        return [rebuild for rebuild in self.rebuilds if rebuild.record["key"] != base.key]


def writer_of(store: Store, prefix: str, folders: OwnFolders = NO_FOLDERS) -> Rebuild:
    """Find the record whose key begins with a prefix, and check it without loading weights.

    Raises:
        DemoError: the model generates no text, or has no tokenizer.
        StoreError: no record, or several, with this prefix.
        ConfigError: the model cannot be rebuilt.
    """
    rebuild = Rebuild(store, store.find(prefix), folders)
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


def measured(title: str, key: str, model: LanguageModel) -> LoadedModel:
    """A loaded model with its sizes. The forwards that measure memory also warm it up."""
    memory = Memory().measure(model, None)
    peak, reason = (part.get("peak_memory_bytes") for part in (memory.values, memory.reasons))
    return LoadedModel(title, key, model, Size().measure(model, None).values["weight_bytes"], peak, reason or "")


def placed(model: LanguageModel, device: torch.device) -> LanguageModel:
    """Move a model to a device. Saved models are read to the CPU, where their speed would not compare with a GPU's."""
    if model.offload or model.compute_device == device:
        return model
    return dataclasses.replace(model, module=model.module.to(device), compute_device=device)
