"""Faults of stages that train, found before weights load: their data, texts that are measured too, and memory."""

import hashlib
from collections.abc import Iterable
from typing import Any

LARGEST_OVERLAP = 0.01
"""Share of the measured texts that may be in the training data too: public corpora hold a few texts twice."""
SHORT_TEXT = 100
"""Texts with fewer characters, such as headings, may be equal by chance."""


Trained = Any
"""An Experiment, which imports this file. No protocol: checking one would compute its lazy fields."""


def training_stages(experiment: Trained) -> list[Any]:
    """Stages that train, in order."""
    return [stage for stage in experiment.stages if stage.technique.requirements.data]


def faults(experiment: Trained) -> list[str]:
    """Everything that keeps stages from training on data that can be read; of the first kind there is."""
    stages = training_stages(experiment)
    if not stages:
        return []
    found = [
        f"technique.{stage.name}: {fault}"
        for stage in stages
        for fault in stage.technique.data_faults(experiment.data, experiment.model, experiment.teachers.get(stage.name))
    ]
    return found or [*overlap_faults(experiment), *(_too_few_examples(experiment) or _memory_faults(experiment))]


def overlap_faults(experiment: Trained) -> list[str]:
    """Metrics that would measure on text that a stage trains on."""
    trained = long_digests(experiment.data.texts(experiment.corpora))
    found = []
    for name, metric in experiment.metrics.items():
        measured = long_digests(metric.texts(experiment.corpora))
        shared = len(measured & trained)
        if measured and shared > LARGEST_OVERLAP * len(measured):
            found.append(
                f"evaluation.metrics.{name}: {shared} of the {len(measured)} texts that it measures on are in the "
                "training data too, so that a score would be of text learned by heart: train or measure on another"
            )
    return found


def long_digests(texts: Iterable[str]) -> set[bytes]:
    """Digests of the texts that are long enough to be equal for no other reason than that they are one text."""
    stripped = (text.strip() for text in texts)
    return {hashlib.sha256(text.encode()).digest() for text in stripped if len(text) >= SHORT_TEXT}


def _too_few_examples(experiment: Trained) -> list[str]:
    """Stages that take more examples in one step than there are."""
    count = len(experiment.training_set.training)
    return [
        f"technique.{stage.name}.batch_sequences={stage.technique.batch_sequences} is more than the {count} training "
        f"examples: set it to {count} or less, or give more data"
        for stage in training_stages(experiment)
        if stage.technique.batch_sequences > count
    ]


def predicted_bytes(experiment: Trained) -> dict[str, int]:
    """Predicted memory of each stage that trains, by name, from shapes; nothing for shapes alone."""
    if experiment.model.weights == "meta" or not training_stages(experiment):
        return {}
    import torch

    dtype = getattr(torch, experiment.resolved_dtype)
    examples, skeleton, found = experiment.training_set, experiment.model.skeleton(dtype).copy(), {}
    skeleton.device_type = torch.device(experiment.resolved_device).type
    for stage in experiment.stages:
        if stage.technique.requirements.data:
            count = stage.technique.micro_sequences or stage.technique.batch_sequences
            batch = examples.collate(examples.longest(count))
            found[stage.name] = stage.technique.training_bytes(skeleton, batch)
        stage.technique.plan(skeleton)
    return found


def _memory_faults(experiment: Trained) -> list[str]:
    """Stages whose training would not fit into memory."""
    import torch

    from slimsweep.models.placement.loading import free_bytes

    free = free_bytes(torch.device(experiment.resolved_device))
    return [
        f"technique.{name}: training takes about {needed / 2**30:.1f} GiB, and {experiment.resolved_device} has "
        f"{free / 2**30:.1f} GiB free: set technique.{name}.micro_sequences=1, shorter data.tokens, "
        f"technique.{name}.checkpoint_blocks=true, or a technique.{name}.rank"
        for name, needed in experiment.training_bytes.items()
        if needed > free
    ]
