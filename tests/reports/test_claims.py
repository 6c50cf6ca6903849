import pytest
import yaml
from conftest import PROJECT
from made_up import record

from slimsweep.errors import StoreError
from slimsweep.reports import claims
from slimsweep.reports.claims import Claim, Measure

SWEEP = "mine"


def trained(*arguments, **values):
    return record(*arguments, weights="trained", **values)


def claim(*measures, **fields):
    given = {"of": {"technique": "wanda"}, "relative_to": {"technique": "dense"}}
    return Claim("It holds.", "a study", sweep=SWEEP, measures=measures, **(given | fields))


def judged(one, *records):
    (verdict,) = claims.judge([one], {SWEEP: list(records)})
    return verdict


def test_a_quotient_within_its_limit_supports_a_claim():
    records = trained(), trained("wanda", 0.5, perplexity_wikitext2=12.0)  # 10 and 12
    measure = Measure("perplexity_*", "quotient", at_most=1.25)
    verdict = judged(claim(measure), *records)
    assert verdict.word == "supported" and verdict.decisive.values == (1.2,)
    assert judged(claim(Measure("perplexity_*", "quotient", at_most=1.1)), *records).word == "contradicted"


def test_every_record_must_pass_unless_any_is_enough():
    records = trained(), *(trained("wanda", 0.5, seed, perplexity_wikitext2=11.0 + seed) for seed in (0, 1))
    measure = Measure("perplexity_wikitext2", "quotient", at_most=1.15)
    every, any_one = judged(claim(measure), *records), judged(claim(measure, need="any"), *records)
    assert every.word == "contradicted" and every.decisive.values == (1.2,)  # the worst
    assert any_one.word == "supported" and any_one.decisive.values == (1.1,)  # the best


def test_measures_of_a_claim_hold_for_one_record_together():
    small = trained("wanda", 0.5, perplexity_wikitext2=30.0, parameters=100)
    good = trained("wanda", 0.1, perplexity_wikitext2=10.0, parameters=900)
    measures = Measure("parameters", "quotient", at_most=0.2), Measure("perplexity_*", "quotient", at_most=1.1)
    assert judged(claim(*measures, need="any"), trained(), small, good).word == "contradicted"
    both = trained("wanda", 0.2, perplexity_wikitext2=10.5, parameters=150)
    assert judged(claim(*measures, need="any"), trained(), small, good, both).decisive.values == (0.15, 1.05)


def test_a_record_without_what_is_given_says_nothing_of_a_claim():
    large, small = trained("wanda", 0.1, parameters=900), trained("wanda", 0.5, parameters=100)
    one = claim(
        Measure("accuracy_*", "quotient", at_least=0.9), given=(Measure("parameters", "quotient", at_most=0.2),)
    )
    assert judged(one, trained(), large).word == "not run"
    assert [trial.record for trial in judged(one, trained(), large, small).trials] == [small]


def test_records_are_paired_by_ratio_and_protocol():
    records = [trained("wanda", ratio, perplexity_wikitext2=20.0) for ratio in (0.3, 0.5)]
    others = [trained("magnitude", 0.3, perplexity_wikitext2=10.0), trained("magnitude", 0.5, protocol="other")]
    one = claim(Measure("perplexity_*", "quotient", at_most=2), relative_to={"technique": "magnitude"}, pair=("ratio",))
    assert [trial.values for trial in judged(one, *records, *others).trials] == [(2.0,)]


def test_another_model_is_compared_only_where_the_claim_names_it():
    student = trained("wanda", 0.5, model="student", parameters=400)
    measure = Measure("parameters", "quotient", at_most=0.5)
    assert judged(claim(measure), trained(), student).word == "not run"
    named = claim(measure, relative_to={"technique": "dense", "model": "tiny"})
    assert judged(named, trained(), student).decisive.values == (0.4,)


def test_differences_distances_and_plain_values():
    records = trained(), trained("wanda", 0.5, accuracy_sentiment=0.65)
    assert judged(claim(Measure("accuracy_*", "difference", at_least=-0.06)), *records).word == "supported"
    assert judged(claim(Measure("accuracy_*", "difference", apart=0.06)), *records).word == "contradicted"
    assert judged(claim(Measure("sparsity", at_least=0.5), relative_to=None), *records).word == "supported"


def test_a_claim_without_records_or_without_a_test_is_not_run_with_its_reason():
    verdict = judged(claim(Measure("gmacs", "quotient", at_most=1)), trained(), trained("wanda", 0.5))
    assert (verdict.word, verdict.reason) == ("not run", "no record of the sweep mine measured it: make mine")
    verdict = judged(Claim("It runs.", "a study", not_run="no runtime here"))
    assert (verdict.word, verdict.reason) == ("not run", "no runtime here")
    assert "claim 1: no runtime here" in claims.table([verdict]).notes


def test_the_table_shows_the_value_beside_its_threshold():
    verdict = judged(claim(Measure("perplexity_*", "quotient", at_most=1.25)), trained(), trained("wanda", 0.5, 0))
    table = claims.table([verdict])
    row = dict(zip(table.headings, table.rows[0], strict=True))
    assert row["threshold"] == "perplexity *: quotient at most 1.25" and row["verdict"] == "contradicted"
    assert row["measured"] == "perplexity wikitext2 x 3.5 (tiny, wanda 0.5 seed 0)"
    assert claims.rows([verdict])[0]["measured"] == [3.5]


def test_every_fault_of_the_file_is_told_at_once(tmp_path):
    entries = [
        {"claim": "a", "source": "s", "sweep": "x", "of": {}, "measures": [{"field": "gmacs", "by": "sum"}]},
        {"claim": "b", "source": "s", "not_run": "why", "sweep": "x"},
        {"claim": "c", "source": "s", "of": {}, "need": "most", "measures": [{"field": "gmacs", "at_most": 1}]},
    ]
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(entries))
    with pytest.raises(StoreError) as error:
        claims.read(tmp_path / "claims.yaml")
    for fault in ("needs a field and a limit", "value, quotient or difference", "unknown word 'sweep'", "has no sweep"):
        assert fault in str(error.value)
    assert "every or any" in str(error.value)


def test_the_claims_of_the_project_name_sweeps_and_tools_without_a_runtime():
    known = claims.read()
    untested = " ".join(one.claim for one in known if one.not_run)
    assert all(tool in untested for tool in ("NNI", "TensorFlow Model Optimization", "TensorRT-LLM"))
    (bert,) = [one for one in known if one.claim == "Eight bits make BERT four times smaller."]
    assert bert.of["dtype"] == "float32"
    assert (PROJECT / "sweeps" / f"{bert.sweep}.yaml").is_file()
