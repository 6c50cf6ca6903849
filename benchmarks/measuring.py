"""What the benchmarks share: alternating runs, medians with their spread, and lines of RESULTS.md.

Imported before torch, since OpenMP reads how its threads wait when it is loaded: as slimsweep's commands have them.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from hydra import compose, initialize_config_dir

import slimsweep.cli.app  # registers the resolvers of conf/config.yaml
from slimsweep.paths import config_root, project_root
from slimsweep.pipeline.experiment import Experiment

assert slimsweep.cli.app

HEAD = "| what | beside it | ours | ratio | goal | met |\n| --- | ---: | ---: | ---: | ---: | ---: |"
SMOLLM2_SHAPE = "model.shape={model_type: llama, hidden_size: 576, intermediate_size: 1536, num_attention_heads: 9, "
SMOLLM2_SHAPE += "num_key_value_heads: 3, vocab_size: 258, tie_word_embeddings: true, num_hidden_layers: %d}"
"""Of a random model of so many blocks."""
CACHE = project_root() / "outputs" / "cache"


def wait() -> None:
    """Until a GPU, if there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alternate(
    runs: dict[str, Callable[[], object]], repeats: int, warm_ups: int = 1, in_a_row: int = 1
) -> dict[str, list[float]]:
    """Seconds of each run, `repeats` times in turn, so that what else the machine does meets all alike.

    With `in_a_row` each turn is so many runs, and their mean is what it took: for what a job does again and again.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(-warm_ups, repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            for _ in range(in_a_row):
                run()
            wait()
            if round_ >= 0:
                seconds[name].append((time.perf_counter() - started) / in_a_row)
    return seconds


def format_seconds(seconds: list[float]) -> str:
    """Median, spread and number: `1.23 s (1.20 to 1.31, n=5)`."""
    median = statistics.median(seconds)
    scale, unit = (1, "s") if median >= 1 else (1000, "ms")
    low, middle, high = (_digits(scale * value) for value in (min(seconds), median, max(seconds)))
    return f"{middle} {unit}" + (f" ({low} to {high}, n={len(seconds)})" if len(seconds) > 1 else "")


def _digits(value: float) -> str:
    """Three digits, and more where the number is larger."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def line(what: str, beside: list[float], ours: list[float], goal: float | None) -> str:
    """One row under HEAD; the ratio is that of the medians, above 1 where ours is faster."""
    ratio = statistics.median(beside) / statistics.median(ours)
    judged = "reported | |" if goal is None else f">= {goal:g}x | {met(ratio >= goal)} |"
    return f"| {what} | {format_seconds(beside)} | {format_seconds(ours)} | {ratio:.3g}x | {judged}"


def met(is_met: bool) -> str:
    """For the column of goals."""
    return "yes" if is_met else "no"


def experiment(*overrides: str) -> Experiment:
    """An experiment as the command composes it, with this checkout's cache of converted weights."""
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    overrides = (f"cache_dir={CACHE}", "cache=off", "tracker=none", *overrides)
    with initialize_config_dir(str(Path(config_root()) / "conf"), version_base="1.3"):
        made = Experiment.of(compose("config", list(overrides)), list(overrides))
    made.check()
    return made


def loaded(made: Experiment):
    """Its dense model."""
    return made.model.load(getattr(torch, made.resolved_dtype), torch.device(made.resolved_device))


def where(made: Experiment) -> str:
    """Model, dtype and device, for a heading."""
    return f"{made.model.name}, {made.resolved_dtype}, {made.resolved_device}, {torch.get_num_threads()} threads"
