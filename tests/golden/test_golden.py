"""The kept numbers belong to the jobs of the golden sweep; `make golden` compares the numbers themselves."""

import itertools
import json
import re
from pathlib import Path

import yaml

from slimsweep.records import moves

FOLDER = Path(__file__).resolve().parent
NUMBERS = FOLDER / "numbers.json"


def makefile_tolerances() -> dict[str, float]:
    """Tolerances that `make golden` gives."""
    text = (FOLDER.parents[1] / "Makefile").read_text()
    return moves.tolerances_of(re.findall(r"--tolerance '([^']+)'", text))


def test_each_job_of_the_sweep_has_numbers_and_no_other_has():
    grids = yaml.safe_load((FOLDER / "sweeps" / "golden.yaml").read_text())["hydra"]["sweeper"]["grids"]
    lists = [(grid["model"], yaml.safe_load(f"[{grid['technique']}]")) for grid in grids]
    chains = [(model, [stage] if isinstance(stage, str) else stage) for model, stages in lists for stage in stages]
    jobs = sorted((model, "+".join(chain) or "dense") for model, chain in chains)
    kept = json.loads(NUMBERS.read_text())
    assert sorted((one["model"], one["technique"]) for one in kept) == jobs
    assert all(one["dtype"] == "float32" for one in kept)


def test_any_two_jobs_of_one_model_differ_by_more_than_make_golden_allows():
    """Else a technique that computed the numbers of another one would go unnoticed."""
    tolerances = makefile_tolerances()
    assert tolerances == {"perplexity_*": 1e-5, "bits_per_byte_*": 1e-5}
    kept = moves.read(NUMBERS)
    pairs = [pair for pair in itertools.combinations(kept, 2) if pair[0]["model"] == pair[1]["model"]]
    assert len(pairs) == 14 * 13 / 2 + 4 * 3 / 2
    for before, now in pairs:
        comparison = moves.compare([before], [now | {"key": before["key"], **place_of(before)}], tolerances)
        names = {move.field for move in comparison.faults if not move.reason}
        told_apart = any(name.startswith(("perplexity_", "stages.")) or "parameters" in name for name in names)
        assert told_apart, (before["technique"], now["technique"], names)


def place_of(record: dict) -> dict:
    """Axes of a record: with them another one is compared as if it were the same experiment."""
    return {name: record[name] for name in moves.AXES}
