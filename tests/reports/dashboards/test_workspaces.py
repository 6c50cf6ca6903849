"""What W&B would be sent, built by `wandb-workspaces` without any network."""

import json

import pytest
from made_up import curve, record

from slimsweep.records.tracking.published import run_id
from slimsweep.reports.dashboards.views import Note, views
from slimsweep.reports.dashboards.workspaces import report, workspace

RECORDS = [record(), *curve("wanda", gmacs=0.5)]


def spec_of(made) -> dict:
    return json.loads(made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


@pytest.fixture
def section():
    (view,) = views(RECORDS, ["mine"])
    return spec_of(workspace(view, "someone", "slimsweep"))["section"]


def test_a_workspace_shows_the_runs_of_records_of_its_sweeps_and_model(section):
    filters = section["runSets"][0]["filters"]["filters"]
    assert [(one["key"]["name"], one["op"], one["value"]) for one in filters] == [
        *(("jobType", "=", "experiment"), ("model", "=", "tiny"), ("tags", "IN", ["mine"]))
    ]
    assert set(section["customRunColors"]) == {run_id(one) for one in RECORDS}
    assert section["runSets"][0]["grouping"] == []  # a group would be one point of a scatter plot


def test_its_panels_read_the_keys_of_runs(section):
    panels = {
        one["config"]["chartTitle"]: one for bank in section["panelBankConfig"]["sections"] for one in bank["panels"]
    }
    line, scatter = panels["perplexity wikitext2 over ratio"], panels["perplexity wikitext2 over weights MiB"]
    assert (line["config"]["xAxis"], line["config"]["metrics"]) == ("ratio", ["perplexity_wikitext2"])
    assert line["config"]["groupBy"] == "technique.value" and line["config"]["yLogScale"]
    assert scatter["viewType"] == "Scatter Plot" and scatter["config"]["showMinYAxisLine"]
    assert (scatter["config"]["xAxis"], scatter["config"]["yAxis"]) == (
        *("summary:weight_bytes", "summary:perplexity_wikitext2"),
    )


def test_a_report_has_its_notes_and_a_grid_for_each_section():
    shown = views(RECORDS, ["mine"])
    made = spec_of(report("slimsweep mine", shown, [Note("Runs", ("4 records.",))], ("someone", "slimsweep")))
    kinds = [block["type"] for block in made["blocks"]]
    assert kinds.count("panel-grid") == len(shown[0].sections) and "4 records." in json.dumps(made)
    places = [
        (one["layout"]["x"], one["layout"]["y"])
        for block in made["blocks"]
        if block["type"] == "panel-grid"
        for one in block["metadata"]["panelBankSectionConfig"]["panels"][:2]
    ]
    assert set(places) == {(0, 0), (8, 0)}
