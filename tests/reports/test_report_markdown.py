import re

import pytest
from made_up import curve, record, sweep

from slimsweep.records.store import Store
from slimsweep.reports.report import gather
from slimsweep.reports.report_markdown import text


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_every_part_of_a_report_is_in_the_markdown(store):
    far = record("wanda", 0.95, perplexity_wikitext2=5000.0)
    sweep(store, "mine", [record(), *curve("wanda"), far])
    found = text(gather(store, ["mine"], with_figures=False), {"pareto_x": "mine_figures/pareto_x.png"})
    headings = re.findall(r"^## (.*)$", found, re.M)
    assert headings == ["Warnings", "Table", "Protocols", "Figures", "Jobs"]
    assert "500 times that of the dense model" in found
    assert "![pareto\\_x](mine_figures/pareto_x.png)" in found
    assert found.count("<details>") == 5 == found.count("</details>")
    table = found.partition("## Table")[2].partition("## Protocols")[0]
    assert len([line for line in table.splitlines() if line.startswith("|")]) == 7


def test_the_layers_have_a_row_for_each_stage(store):
    layers = [{"stage": "rtn", "layers": [{"name": "model.layers.0.up", "weights": 4, "zeros": 0, "error": 0.1}]}]
    store.write(record("rtn"), layers)
    found = text(gather(store, [], with_figures=False), {})
    assert "## Layers" in found and "No block stands out" in found and "model.layers.0 (0.1)" in found


def test_names_are_no_markup(store):
    sweep(store, "mine", [record("<script>alert(1)</script>", 0.5, model="a|b `c` [d](e) *f*")])
    found = text(gather(store, [], with_figures=False), {})
    assert "<script" not in found and "&lt;script&gt;" in found
    assert "[d](e)" not in found and "\\[d\\](e)" in found and "\\*f\\*" in found


def test_an_issue_links_notifies_and_strikes_nothing(store):
    sweep(store, "mine", [record("wanda", 0.5, model="mine #12 @octocat ~~old~~ it's")])
    found = text(gather(store, [], with_figures=False), {})
    assert not re.search(r"#\d|@\w|~~", re.sub(r"&#x27;", "", found)) and "\\~\\~old" in found
    assert "#<!-- -->12 @<!-- -->octocat" in found
