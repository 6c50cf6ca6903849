from functools import cache

import pytest
import yaml
from conftest import CACHE, PROJECT
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from made_up import record

import slimsweep.cli.app  # registers the resolvers of conf/config.yaml
from slimsweep.errors import StoreError
from slimsweep.pipeline.experiment import Experiment
from slimsweep.reports import claims, selection
from slimsweep.reports.claims import Claim, Measure

assert slimsweep.cli.app

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


def test_a_record_may_be_chosen_by_the_value_of_the_one_beside_it():
    one = claim(Measure("meteor", "quotient", at_least=0.6), given=(Measure("meteor", "beside", at_least=0.1),))
    for dense, other, word in ((0.02, 0.02, "not run"), (0.3, 0.05, "contradicted"), (0.3, 0.25, "supported")):
        assert judged(one, trained(meteor=dense), trained("wanda", 0.5, meteor=other)).word == word


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
    reason = "no record of the sweep mine measured gmacs by the protocol of one beside it: make mine"
    assert (verdict.word, verdict.reason) == ("not run", reason)
    verdict = judged(Claim("It runs.", "a study", not_run="no runtime here"))
    assert (verdict.word, verdict.reason) == ("not run", "no runtime here")
    assert "claim 1: no runtime here" in claims.table([verdict]).notes


def test_each_cause_of_a_claim_that_was_not_run_is_named():
    measure, wanda = Measure("perplexity_*", "quotient", at_most=2), trained("wanda", 0.5)
    assert judged(claim(measure)).reason == "the sweep mine has no record of wanda: make mine"
    assert judged(claim(measure), wanda).reason == (
        "the sweep mine has no record of dense to compare 1 with, with equal model: make mine"
    )
    other = trained(dtype="bfloat16")
    assert "with equal model and dtype" in judged(claim(measure, pair=("dtype",)), other, wanda).reason
    zero = judged(claim(measure), trained(perplexity_wikitext2=0.0), wanda)
    assert zero.reason.startswith("perplexity_* is 0 in the records of the sweep mine that others are divided by")
    named = judged(claim(measure, of={"model": ["a", "b"], "technique": "rtn", "rtn.group_size": None}))
    assert named.reason == "the sweep mine has no record of a or b, rtn, group size null: make mine"
    given = claim(measure, given=(Measure("parameters", "quotient", at_most=0.2),))
    assert judged(given, trained(), wanda).reason == (
        "none of 1 records of the sweep mine is one that the claim speaks of (parameters: quotient at most 0.2)"
    )
    assert judged(claim(measure), trained(protocol="other"), wanda).reason.startswith(
        "no record of the sweep mine measured perplexity_* by the protocol"
    )


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
    by = "value, quotient, difference or beside"
    for fault in ("needs a field and a limit", by, "unknown word 'sweep'", "has no sweep"):
        assert fault in str(error.value)
    assert "every or any" in str(error.value)


def test_times_of_two_jobs_and_two_measures_of_many_fields_are_refused(tmp_path):
    many = {"field": "perplexity_*", "by": "quotient", "at_most": 1}
    entries = [
        {"measures": [many | {"field": "latency_seconds"}], "pair": ["base_key", "threads"]},
        {"measures": [many, many | {"field": "accuracy_*"}]},
        {"measures": [many], "given": [many]},
        {"measures": [many | {"by": "value"}], "given": [{"field": "gmacs", "at_most": 1}]},
    ]
    given = {"claim": "a", "source": "s", "sweep": "x", "of": {}, "relative_to": {}}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump([given | entry for entry in entries]))
    faults = "add device and threads to pair.*more than one measure.*[*] in given.*are quotients"
    with pytest.raises(StoreError, match=faults):
        claims.read(tmp_path / "claims.yaml")
    (tmp_path / "claims.yaml").write_text(
        yaml.safe_dump([given | entries[0] | {"pair": ["base_key", "threads", "device"]}])
    )
    assert len(claims.read(tmp_path / "claims.yaml")) == 1


@pytest.fixture(scope="module")
def conf():
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3", job_name="test"):
        yield
    GlobalHydra.instance().clear()


def jobs_of(sweep):
    """Overrides of the jobs of a sweep with their chains as records name them."""
    grids = yaml.safe_load((PROJECT / "sweeps" / f"{sweep}.yaml").read_text())["hydra"]["sweeper"]["grids"]
    for grid in grids:
        overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in grid.items()])
        for batch in BasicSweeper.split_arguments(overrides, None):
            for job in batch:
                (chain,) = [
                    line.removeprefix("technique=").strip("[]") for line in job if line.startswith("technique=")
                ]
                stages = chain.split(",") if chain else []
                fitting = [line for line in job if not line.startswith("technique.") or line.split(".")[1] in stages]
                yield "+".join(stages) or "dense", (f"+sweeps={sweep}", f"cache_dir={CACHE}", *fitting)


@cache
def planned(overrides):
    """What the record of a job will say of its model and its stages."""
    experiment = Experiment.of(compose("config", list(overrides)), list(overrides))
    stages = [{"name": stage.name, "fields": vars(stage.technique)} for stage in experiment.stages]
    named = {"model": experiment.model.name, "technique": experiment.chain, "dtype": experiment.dtype}
    return named | {"ratio": (experiment.ratios or [None])[0], "pattern": experiment.pattern, "stages": stages}


FILTERS = [
    (one.sweep, where) for one in claims.read() if not one.not_run for where in (one.of, one.relative_to) if where
]
DISTINCT = {repr(case): case for case in FILTERS}


@pytest.mark.parametrize(("sweep", "where"), DISTINCT.values(), ids=DISTINCT)
def test_a_filter_of_a_claim_fits_a_job_of_its_sweep(sweep, where, conf):
    by_chain = {"technique": where["technique"]}
    named = [job for chain, job in jobs_of(sweep) if selection.matching([{"technique": chain}], by_chain)]
    assert named, "no job has such a chain"
    assert where == by_chain or any(selection.matching([planned(job)], where) for job in named)


def test_the_claims_of_the_project_name_sweeps_and_tools_without_a_runtime():
    known = claims.read()
    untested = " ".join(one.claim for one in known if one.not_run)
    assert all(tool in untested for tool in ("NNI", "TensorFlow Model Optimization", "TensorRT-LLM"))
    (bert,) = [one for one in known if one.claim == "Eight bits make BERT four times smaller."]
    assert bert.of["dtype"] == "float32"
    assert (PROJECT / "sweeps" / f"{bert.sweep}.yaml").is_file()
