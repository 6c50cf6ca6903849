import subprocess
import sys

from made_up import record

from slimsweep.evaluation.quantity import Quantity
from slimsweep.records.points import over_seed
from slimsweep.records.quantities import builtin, in_group, of_kind, quantities_of, quantity

OWN = {"toy_a": {"field": "toy_a", "label": "toy", "group": "quality"}}


def test_a_record_of_an_older_version_is_read_by_what_the_metrics_declare():
    quality = in_group([record()], "quality")
    assert [(one.field, one.scale, one.title) for one in quality] == [
        ("perplexity_wikitext2", "log", "perplexity wikitext2"),
        ("accuracy_sentiment", "linear", "accuracy sentiment"),
    ]
    assert quality[1].error == "accuracy_stderr_sentiment"


def test_deviations_over_seeds_are_no_quantities():
    (row,) = over_seed([record("wanda", 0.5, seed, perplexity_wikitext2=10.0 + seed) for seed in (0, 1)])
    assert "perplexity_wikitext2_deviation" in row and "perplexity_wikitext2_deviation" not in quantities_of([row])


def test_what_a_record_declares_wins_and_what_it_measured_before_is_added():
    own = OWN | {"perplexity_b": {"field": "perplexity_b", "label": "theirs", "group": "quality"}}
    identities = {"toy_a": "1", "perplexity_b": "2", "accuracy_c": "3"}
    found = quantities_of([record(quantities=own, identities=identities)])
    assert found["perplexity_b"].label == "theirs" and found["toy_a"].label == "toy"
    assert found["accuracy_c"].label == "accuracy" and "perplexity_wikitext2" not in found


def test_the_nearest_pattern_declares_a_field():
    assert builtin("accuracy_stderr_boolq").group == "detail" and builtin("acc_norm_piqa").group == "detail"
    assert builtin("perplexity_x[max_windows=8]").title == "perplexity x[max_windows=8]"
    assert builtin("ratio") is None and builtin("seed") is None


def test_an_unknown_field_is_a_plain_number():
    assert quantity("more_x") == Quantity(field="more_x", label="more x")
    assert quantity("toy_a", [record(), record(quantities=OWN)]).label == "toy"


def test_todays_records_are_read_without_the_metrics_and_torch():
    code = (
        "import sys; from slimsweep.records.table import render; from slimsweep.records.points import over_seed;"
        f"one = {{'key': 'k', 'technique': 'wanda', 'quantities': {OWN}, 'identities': {{'toy_a': '1'}}}};"
        "one['toy_a'] = 2.0;"
        "print(render([one])); print(render(over_seed([one]))); assert 'torch' not in sys.modules"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0 and "toy a" in answer.stdout, answer.stderr


def test_quantities_of_a_kind_are_found_in_records_of_older_versions_too():
    old = record(perplexity_c4=12.0)
    assert [one.field for one in of_kind([old], "perplexity")] == ["perplexity_c4", "perplexity_wikitext2"]
    mine = record(quantities={"my_score": {"field": "my_score", "label": "mine", "kind": "perplexity"}}, my_score=1.0)
    assert [one.field for one in of_kind([mine], "perplexity")] == ["my_score"]
    assert of_kind([old], "temperature") == []
