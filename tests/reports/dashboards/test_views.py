"""Views: one for each model, runs coloured by technique, and names that W&B accepts."""

from made_up import curve, record, sweep

from slimsweep.records.store import Store
from slimsweep.records.tracking.published import run_id
from slimsweep.reports.dashboards.views import DENSE_COLOUR, notes, plain_name, title, views
from slimsweep.reports.report import gather


def test_each_model_has_a_view_of_its_own_runs():
    records = [record(), *curve("wanda"), record("wanda", 0.5, model="other")]
    first, second = views(records, ["mine"])
    assert (first.name, second.name) == ("slimsweep mine, tiny", "slimsweep mine, other")
    assert len(first.colours) == 4 and list(second.colours) == [run_id(records[-1])]


def test_runs_of_one_technique_have_one_colour_and_the_dense_model_is_black():
    dense, *pruned = records = [record(), *curve("wanda"), record("magnitude", 0.5)]
    (view,) = views(records, [])
    colours = [view.colours[run_id(one)] for one in pruned]
    assert view.colours[run_id(dense)] == DENSE_COLOUR
    assert len(set(colours[:3])) == 1 and colours[3] != colours[0]


def test_names_hold_no_symbols():
    assert plain_name("a+b $x, y_1.2") == "a-b -x, y_1.2"
    assert title([]) == "slimsweep all records" and title(["a", "b"]) == "slimsweep a, b"


def test_notes_tell_runs_protocols_and_at_most_ten_warnings_of_a_kind(tmp_path):
    store = Store(tmp_path)
    far = [
        record("wanda", ratio, base_key=record()["key"], perplexity_wikitext2=1e5)
        for ratio in [0.9 + i / 1000 for i in range(12)]
    ]
    sweep(store, "mine", [record(), *far])
    found = {note.heading: note.sentences for note in notes(gather(store, ["mine"], with_figures=False))}
    assert found["Runs"][0] == "13 records of 13 jobs."
    assert any("wikitext2:test" in line for line in found["Protocols"])
    (longest,) = [lines for lines in found.values() if lines[-1] == "2 more: see `slim report`."]
    assert len(longest) == 11
