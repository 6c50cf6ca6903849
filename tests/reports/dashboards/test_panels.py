"""Panels of made-up records, and their keys among those that a real offline W&B run carries."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import curve, record

from slimsweep.records.tracking.wandb import Wandb
from slimsweep.reports.dashboards.panels import TECHNIQUE, sections

MEASURED = {"gmacs": 0.5, "peak_memory_bytes": 2**21, "kl_wikitext2": 0.2, "top_agreement_wikitext2": 0.8}
POINTS = [{"step": step, "loss": 3.0, "validation_loss": 3.0 - step / 10} for step in (0, 5)]


@pytest.fixture
def trained():
    """A record of a chain with everything that a dashboard shows, a loss curve among it."""
    one = record("wanda", 0.5, **MEASURED)
    one["stages"].append({"name": "lora", "technique": "lora", "notes": {"training": {"curve": POINTS}}})
    return one


def inspect(run: Path, *options: str) -> str:
    """Text of `wandb leet inspect` on a run."""
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", *options, "--json", str(run)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def named(records) -> dict[str, list[str]]:
    return {section.name: [panel.title for panel in section.panels] for section in sections(records)}


def test_every_section_is_filled_from_the_quantities_of_the_records(trained):
    found = named([record(), *curve("wanda"), trained])
    assert list(found) == [
        *("Quality over ratio", "Pareto", "Memory and GMacs", "Fidelity to the dense model", "Loss curves of training")
    ]
    assert found["Pareto"] == ["perplexity wikitext2 over weights MiB", "perplexity wikitext2 over gmacs"]
    assert found["Fidelity to the dense model"] == ["KL wikitext2 over ratio", "top token wikitext2 over ratio"]
    assert found["Loss curves of training"] == ["loss of lora", "validation loss of lora"]


def test_what_was_not_measured_has_no_panel():
    found = named([record(), *curve("wanda", perplexity_wikitext2=None)])
    assert "Loss curves of training" not in found and "Fidelity to the dense model" not in found
    assert found["Quality over ratio"] == ["perplexity wikitext2 of each run", "accuracy sentiment over ratio"]


def test_lines_over_ratio_are_grouped_by_technique_and_a_front_joins_the_best_points(trained):
    by_name = {section.name: section.panels for section in sections([trained])}
    assert all(panel.group_by == TECHNIQUE and panel.x == "ratio" for panel in by_name["Quality over ratio"])
    assert [panel.front for panel in by_name["Pareto"]] == ["lowest", "lowest"]
    assert by_name["Quality over ratio"][0].has_log_y and not by_name["Quality over ratio"][1].has_log_y


def test_techniques_without_a_ratio_have_bars():
    quality = {section.name: section.panels for section in sections([record(), record("rtn")])}["Quality over ratio"]
    assert [panel.kind for panel in quality] == ["bar", "bar"]


def test_every_key_of_a_panel_is_one_that_a_real_offline_run_carries(tmp_path, monkeypatch, trained):
    """Read back with `wandb leet inspect`, which reads the file that `wandb sync` would send."""
    for name in ("PROJECT", "ENTITY", "DIR", "API_KEY"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    assert Wandb(mode="offline").publish(trained, [], tmp_path)
    (run,) = (path for path in (tmp_path / "wandb").glob("offline-run-*") if not path.is_symlink())
    whole, lines = json.loads(inspect(run, "--summary")), inspect(run)
    panels = [panel for section in sections([trained]) for panel in section.panels]
    assert len(panels) > 8
    for panel in panels:
        keys = {*panel.y, *([panel.x] if panel.x else [])}
        assert keys <= set(whole["summary"]), panel
        assert all(f'"{key}"' in lines for key in keys), panel
        assert not panel.group_by or whole["config"][panel.group_by] == "wanda"
