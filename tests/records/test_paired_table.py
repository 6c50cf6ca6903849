import json

import numpy as np
import pytest
from made_up import record

from slimsweep.errors import StoreError
from slimsweep.evaluation.base import Measurement
from slimsweep.evaluation.outcomes import Outcomes
from slimsweep.records.paired_table import Rules, against_base, compared, plain, refuse_other_protocols, table_of
from slimsweep.records.record import measurement
from slimsweep.records.store import Store
from slimsweep.records.table import markdown

QUALITY = ("quality",)


def right(*values, items="a"):
    return {"accuracy_sentiment": Outcomes(np.array(values, dtype=np.uint8), "mean", items)}


def pair(**values):
    return record(), record("wanda", 0.5, **values)


def kept(store, key, values, field="accuracy_sentiment", identity="1" * 64):
    """Write a model and one measurement of it, as a job does."""
    outcomes = {field: Outcomes(np.array(values, dtype=np.uint8), "mean", "a")}
    result = Measurement({field: float(np.mean(values))}, {}, {field: "protocol"}, outcomes)
    quantities = {field: {"field": field, "label": "accuracy", "higher_is_better": True, "group": "quality"}}
    one = measurement("accuracy", identity, {"fields": {}}, result, 1.0, "now") | {"quantities": quantities}
    made = record("dense" if key == "ba" * 32 else "wanda", None if key == "ba" * 32 else 0.5)
    store.begin(made | {"key": key, "base_key": "ba" * 32}, [])
    store.keep(key, one)
    return store.finish(key, [identity])


def test_a_row_tells_flips_difference_interval_and_p():
    (one,) = compared(*pair(), right(1, 1, 1, 1, 0, 0), right(0, 0, 1, 1, 1, 0), QUALITY)
    table = table_of([one], Rules(), ("base", "model"))
    cells = dict(zip(table.headings, table.rows[0], strict=True))
    assert (cells["better"], cells["worse"], cells["same"]) == ("1", "2", "3")
    assert cells["difference"] == "-0.167" and " to " in cells["95% interval"] and cells["p"] == "1.0000"
    assert cells["A"] == "dense" and cells["B"] == "wanda 0.5"
    assert any("McNemar" in note and "accuracy_sentiment" in note for note in table.notes)


def test_holm_and_a_margin_are_columns_where_they_are_asked_for():
    found = [
        *compared(*pair(), right(*[1] * 40), right(*[0] * 9, *[1] * 31), QUALITY),
        *compared(*pair(), right(*[1] * 40), right(*[1] * 40), QUALITY),
    ]
    plainly = table_of(found, Rules(), ("a", "b"))
    assert "p (Holm)" not in plainly.headings and any("2 comparisons" in note for note in plainly.notes)
    rules = Rules.of(["0.5", "accuracy_*=0.1"], True)
    table = table_of(found, rules, ("a", "b"))
    assert table.columns[table.headings.index("p")] == ["0.0039", "1.0000"]
    assert table.columns[table.headings.index("p (Holm)")] == ["0.0078", "1.0000"]
    assert table.columns[table.headings.index("equivalent")] == ["no (±0.1)", "yes (±0.1)"]
    assert any("corrected for 2 comparisons" in note for note in table.notes)
    rows = json.loads(json.dumps(plain(found, rules), allow_nan=False))
    assert [row["equivalent"] for row in rows] == [False, True] and rows[0]["p_holm"] == pytest.approx(2 * 0.00390625)
    assert "| point" not in markdown(table) and rows[0]["worse"] == 9


def test_different_protocols_are_refused_and_both_are_named():
    first, second = pair(protocol="wikitext2:test:ctx=2048")
    with pytest.raises(StoreError, match=r"dense .* and wanda 0.5 .*ctx=512.* and by wikitext2:test:ctx=2048"):
        refuse_other_protocols(first, second)
    first, second = (one | {"protocols": {"accuracy_sentiment": one["key"]}} for one in pair())
    assert compared(first, second, right(1), right(1), QUALITY) == []  # of two sweeps: the table of points says why


def test_different_items_are_refused_and_both_are_named():
    with pytest.raises(StoreError, match=r"accuracy_sentiment is of other items \(a and b\)"):
        compared(*pair(), right(1, 0), right(1, 0, items="b"), QUALITY)


def test_quantities_without_outcomes_are_left_out():
    assert compared(*pair(), right(1, 0), {}, QUALITY) == []


def test_records_are_compared_with_their_base_by_the_same_measurement(tmp_path):
    store = Store(tmp_path)
    base, model = kept(store, "ba" * 32, [1, 1, 0, 0]), kept(store, "cd" * 32, [1, 0, 0, 1])
    (one,), without = against_base(store, [base, model])
    assert without == []
    assert one.second["key"] == model["key"] and (one.result.better, one.result.worse) == (1, 1)
    other = kept(store, "ef" * 32, [1, 1, 1, 1], identity="2" * 64)
    with pytest.raises(StoreError, match="measure both with the same evaluation"):
        against_base(store, [other])
    (_,), without = against_base(store, [model, other])
    assert [record["key"] for record in without] == [other["key"]]
    with pytest.raises(StoreError, match="nothing to compare"):
        against_base(store, [base])


def test_a_base_without_a_record_names_what_to_run(tmp_path):
    store = Store(tmp_path)
    model = kept(store, "cd" * 32, [1, 0])
    with pytest.raises(StoreError, match=r"the base of wanda 0.5 .*slimsweep technique=\[\]"):
        against_base(store, [model])


@pytest.mark.parametrize("given", ["0", "much", "bleu=-1", "nan"])
def test_a_margin_that_is_none_is_refused(given):
    with pytest.raises(StoreError, match="--margin .*give a number above 0"):
        Rules.of([given], False)
