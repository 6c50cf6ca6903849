"""Metrics that compare a model with the base of its experiment, and metrics that read the forward of another."""

import logging
from typing import Any

from slimsweep.evaluation.base import Base, Reader
from slimsweep.models.language_model import LanguageModel
from slimsweep.pipeline.chain import compress
from slimsweep.pipeline.experiment import Asked, Experiment
from slimsweep.pipeline.keys import digest_of, metric_identity
from slimsweep.pipeline.stage_cache.side_folders import base_folder

log = logging.getLogger(__name__)


def base_of(experiment: Experiment) -> Base:
    """The base of an experiment as metrics are given it."""
    base = experiment.base

    def load() -> LanguageModel:
        log.info("%s: loading the base, %s", experiment.label, base.label)
        return compress(base).model

    return Base(base_folder(experiment.cache_dir, base.key), load, experiment.model.tokenizer())


def keep_bases(experiment: Experiment, missing: dict[str, Asked]) -> None:
    """Let metrics keep what they need of the base, while no other model is in memory."""
    for asked in missing.values():
        if asked.metric.needs_base:
            asked.metric.keep_base(experiment.corpora, base_of(experiment))


def reading_along(experiment: Experiment, missing: dict[str, Asked]) -> dict[str, list[str]]:
    """Identities of measurements that read the forward of another one, by the identity of that one."""
    found: dict[str, list[str]] = {}
    for identity, asked in missing.items():
        carrier = asked.metric.carrier()
        other = digest_of(metric_identity(carrier, experiment.corpora)) if carrier else None
        if other in missing:
            found.setdefault(other, []).append(identity)
    return found


def reader_of(experiment: Experiment, asked: Asked, model: Any) -> Reader:
    """Reader of a metric for the forward of another."""
    further = [base_of(experiment)] if asked.metric.needs_base else []
    return asked.metric.reader(model, experiment.corpora, *further)
