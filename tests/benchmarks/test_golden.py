"""What the ruler calls identical and what moved, and that it measures every technique."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest
from conftest import PROJECT
from made_up import record

BENCHMARKS = PROJECT / "benchmarks"


def script(name: str):
    """A file of benchmarks/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


golden = script("golden_comparison")
experiments = script("golden_experiments")


def fields(**values) -> dict:
    """The compared fields of a made-up record."""
    return golden.record_fields(record("wanda", 0.5, **values))


def verdict(base: dict, head: dict, *allow: str):
    return golden.Verdict("wanda", golden.Result(base), golden.Result(head), frozenset(allow))


def test_times_versions_and_settings_are_not_compared():
    base = fields(weights_digest="ab")
    head = fields(weights_digest="ab", key="other", compress_seconds=9.0, peak_memory_bytes=7, git_commit="ffff")
    found = golden.compare(base, head)
    assert not found.moved
    assert {"weights_digest", "sparsity", "nonzero_parameters", "perplexity_wikitext2"} <= set(found.same)
    assert verdict(base, head).word == "identical"


def test_the_last_bit_of_a_float_is_a_move_with_both_values():
    found = golden.compare(fields(perplexity_wikitext2=0.3), fields(perplexity_wikitext2=0.1 + 0.2))
    assert found.moved == {"perplexity_wikitext2": (0.3, 0.30000000000000004)}
    assert "accuracy_sentiment" in found.same


@pytest.mark.parametrize(
    ("base", "head", "moved"),
    [
        ({"gmacs": None}, {"gmacs": None}, {}),
        ({"gmacs": None}, {}, {}),
        ({"gmacs": None}, {"gmacs": 1.0}, {"gmacs": (None, 1.0)}),
        ({"gmacs": 1.0}, {"gmacs": None}, {"gmacs": (1.0, None)}),
        ({"gmacs": 1.0}, {}, {"gmacs": (1.0, "missing")}),
        ({}, {"gmacs": 1.0}, {}),
        ({"gmacs": 0.0}, {"gmacs": -0.0}, {"gmacs": (0.0, -0.0)}),
    ],
)
def test_null_and_missing_fields(base, head, moved):
    found = golden.compare(base, head)
    assert repr(found.moved) == repr(moved)
    assert found.same == ()
    assert found.new == (("gmacs",) if head.get("gmacs") and not base else ())


def test_nan_equals_nan_and_no_number():
    base, head = (json.loads('{"perplexity_c4": NaN}') for _ in range(2))
    assert golden.compare(base, head).same == ("perplexity_c4",)
    assert list(golden.compare(base, {"perplexity_c4": 1.0}).moved) == ["perplexity_c4"]


def test_stages_are_compared_each_in_its_place():
    def chain(zeros: int) -> dict:
        stages = [{"name": "a", "zeros": 3, "seconds": 1.0}, {"name": "b", "zeros": zeros, "restored": False}]
        return golden.record_fields(record("a+b", stages=stages))

    assert golden.compare(chain(5), chain(6)).moved == {"stages.1.zeros": (5, 6)}


def test_a_field_is_found_under_its_name_at_head(monkeypatch):
    monkeypatch.setitem(golden.RENAMED, "zeros", "zero_weights")
    found = golden.compare({"0.stages.1.zeros": 5, "gmacs": 1.0}, {"0.stages.1.zero_weights": 5, "gmacs": 1.0})
    assert found == golden.Comparison(same=("0.stages.1.zero_weights", "gmacs"), moved={})


def test_only_what_is_named_may_move():
    base, head = fields(), fields(parameters=1, weight_bytes=2)
    assert verdict(base, head).is_fault
    assert verdict(base, head, "gptq", "wanda.parameters").is_fault
    assert not verdict(base, head, "wanda").is_fault
    assert not verdict(base, head, "wanda.parameters", "wanda.weight_bytes").is_fault
    assert "| parameters | 1000 | 1 |" in golden.table([verdict(base, head, "wanda")])


def test_a_failure_at_head_cannot_be_allowed_and_one_at_the_base_can():
    ran, failed = golden.Result(fields()), golden.Result(failure="out of luck")
    assert golden.Verdict("wanda", ran, failed, frozenset({"wanda"})).is_fault
    assert golden.Verdict("wanda", failed, failed, frozenset({"wanda"})).is_fault
    assert golden.Verdict("wanda", failed, ran).is_fault
    assert not golden.Verdict("wanda", failed, ran, frozenset({"wanda"})).is_fault


def test_nothing_compared_is_a_fault():
    assert verdict({"gmacs": None}, {"gmacs": None}, "wanda").word == "FAILED"


def test_every_technique_has_an_experiment_or_a_reason_why_not():
    launches = [word for one in experiments.EXPERIMENTS for launch in one.launches for word in launch]
    chains = [word.removeprefix("technique=") for word in launches if word.startswith("technique=")]
    covered = {name for chain in chains for name in re.findall(r"\w+", chain)}
    known = {path.stem for path in (PROJECT / "conf" / "technique").glob("*.yaml")}
    assert covered.isdisjoint(experiments.EXCEPTIONS)
    assert covered | set(experiments.EXCEPTIONS) == known
    assert all(experiments.EXCEPTIONS.values())


def test_names_of_experiments_differ():
    names = [one.name for one in experiments.EXPERIMENTS]
    assert len(set(names)) == len(names)


def test_a_side_may_spell_a_setting_its_own_way():
    one = experiments.Experiment("twice", (("technique=wanda",),), base=("a.of=x",), head=("a.relative_to=x",))
    assert one.overrides("base", 0)[-1] == "a.of=x"
    assert one.overrides("head", 0)[-1] == "a.relative_to=x"


def test_a_worker_refuses_an_entry_point_of_another_checkout_and_goes_on(tmp_path):
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text(
            "import pathlib, sys\n"
            "def main():\n"
            "    folder = pathlib.Path(sys.argv[1])\n"
            "    folder.mkdir()\n"
            "    (folder / 'record.json').write_text('{}')\n"
            "    if sys.argv[2:]: sys.exit('not so')\n"
        )

    def ran(entry: str, *overrides: list[str]) -> list[dict]:
        launches = [
            {"name": f"{place}", "overrides": words, "outputs": words[0], "log": str(tmp_path / "log")}
            for place, words in enumerate(overrides)
        ]
        spec = tmp_path / "launches.json"
        spec.write_text(json.dumps({"root": str(tmp_path / "ours"), "entry": entry, "launches": launches}))
        process = subprocess.run(
            [sys.executable, BENCHMARKS / "golden_worker.py", spec],
            env={"PYTHONPATH": f"{tmp_path / 'ours'}:{tmp_path / 'theirs'}"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return [json.loads(line) for line in process.stdout.splitlines()]

    failed, passed = ran("ours:main", [str(tmp_path / "a"), "now"], [str(tmp_path / "b")])
    assert (failed["failure"], passed["failure"]) == ("not so", None)
    assert list(passed["written"]) == [str(tmp_path / "b" / "record.json")]
    (refused,) = ran("theirs:main", [str(tmp_path / "c")])
    assert refused["failure"].startswith("theirs was imported from ")
    assert refused["written"] == {}
