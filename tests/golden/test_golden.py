"""The kept numbers belong to the jobs of the golden sweep; `make golden` compares the numbers themselves."""

import json
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parent


def test_each_job_of_the_sweep_has_numbers_and_no_other_has():
    grids = yaml.safe_load((FOLDER / "sweeps" / "golden.yaml").read_text())["hydra"]["sweeper"]["grids"]
    lists = [(grid["model"], yaml.safe_load(f"[{grid['technique']}]")) for grid in grids]
    chains = [(model, [stage] if isinstance(stage, str) else stage) for model, stages in lists for stage in stages]
    jobs = sorted((model, "+".join(chain) or "dense") for model, chain in chains)
    kept = json.loads((FOLDER / "numbers.json").read_text())
    assert sorted((one["model"], one["technique"]) for one in kept) == jobs
    assert all(one["dtype"] == "float32" for one in kept)
