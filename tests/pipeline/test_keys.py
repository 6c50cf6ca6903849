"""What is in the key of a stage, and what is not."""

import dataclasses
import hashlib
import json

import pytest
from stages import experiment

from slimsweep.pipeline.keys import identity, name_of, stage_keys


def digests(tmp_path, *overrides: str) -> list[str]:
    return [key.digest for key in stage_keys(experiment(tmp_path, *overrides))]


def test_a_longer_chain_begins_with_the_keys_of_the_shorter(tmp_path):
    one = digests(tmp_path, "technique=wanda")
    two = digests(tmp_path, "technique=[wanda,rtn]")
    three = digests(tmp_path, "technique=[wanda,rtn,magnitude]")
    assert three[:2] == two and two[:1] == one and len(set(three)) == 3


def test_order_decides(tmp_path):
    assert not set(digests(tmp_path, "technique=[wanda,rtn]")) & set(digests(tmp_path, "technique=[rtn,wanda]"))


@pytest.mark.parametrize(
    ("chain", "change", "same"),
    [
        ("[magnitude,wanda]", "seed=1", 1),  # magnitude draws nothing and looks at no text
        ("[magnitude,wanda]", "calibration.tokens=16", 1),
        ("[wanda,magnitude]", "seed=1", 0),
        ("[wanda,magnitude]", "calibration.tokens=16", 0),
        ("[magnitude,random]", "seed=1", 1),
        ("[magnitude,random]", "calibration.tokens=16", 2),
        ("[magnitude,wanda]", "technique.wanda.ratio=0.1", 1),
        ("[magnitude,wanda]", "technique.magnitude.ratio=0.1", 0),
        ("[magnitude,wanda]", "model.seed=1", 0),
        ("[magnitude,wanda]", "dtype=float16", 0),
        ("[magnitude,wanda]", "evaluation.cost_tokens=32", 2),
        ("[magnitude,wanda]", "outputs_dir=elsewhere", 2),
        ("[magnitude,wanda]", "sweep=other", 2),
        ("[magnitude,wanda]", "model.name=renamed", 2),
        ("[magnitude,wanda]", "cache_limit_gb=1", 2),
        ("[magnitude,wanda]", "technique.wanda.relative_to=original", 2),  # its default
    ],
)
def test_what_changes_a_stage_changes_its_key_and_those_after_it(tmp_path, chain, change, same):
    before, after = (digests(tmp_path, f"technique={chain}", *more) for more in ((), (change,)))
    assert [one == other for one, other in zip(before, after, strict=True)] == [n < same for n in range(2)]


def test_a_raised_version_is_another_stage(tmp_path, monkeypatch):
    from slimsweep.techniques.pruning.wanda import Wanda

    before = digests(tmp_path, "technique=[magnitude,wanda]")
    monkeypatch.setattr(Wanda, "version", Wanda.version + 1)
    after = digests(tmp_path, "technique=[magnitude,wanda]")
    assert before[0] == after[0] and before[1] != after[1]


def test_another_name_in_the_chain_is_the_same_stage(tmp_path):
    named = digests(tmp_path, "technique=[]", "+technique@technique.mine=wanda")
    assert named == digests(tmp_path, "technique=wanda")


def test_a_digest_is_that_of_its_parts_chained(tmp_path):
    key = stage_keys(experiment(tmp_path, "technique=[wanda,rtn]"))[1]
    digest = ""
    for part in key.parts:
        content = {"upstream": digest, **part} if digest else part
        digest = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert key.digest == digest
    assert [sorted(part) for part in key.parts[1:]] == [["calibration", "seed", "stage"], ["stage"]]
    assert (key.model, key.label) == (
        "random",
        "wanda+rtn 0.5 calibration.sequences=2 calibration.tokens=32 seed=0",
    )


def test_a_file_that_moves_changes_no_identity(tmp_path):
    moved = experiment(tmp_path, "technique=[wanda,rtn]", "technique.rtn.group_size=32")
    before = [key.digest for key in stage_keys(moved)], moved.key, set(moved.asked)
    classes = [type(part) for part in (*(stage.technique for stage in moved.stages), *moved.metrics.values())]
    with pytest.MonkeyPatch.context() as patch:
        for kind in classes:
            patch.setattr(kind, "__module__", f"slimsweep.elsewhere.{kind.__module__.rsplit('.', 1)[-1]}")
        again = dataclasses.replace(moved)
        assert ([key.digest for key in stage_keys(again)], again.key, set(again.asked)) == before


def test_another_package_and_another_class_of_one_file_are_other_identities():
    one = type("Wanda", (), {"__module__": "slimsweep.techniques.wanda"})
    other = type("Wanda", (), {"__module__": "theirs.wanda"})
    second = type("Sparser", (), {"__module__": "slimsweep.techniques.wanda"})
    assert [name_of(kind) for kind in (one, other, second)] == ["wanda", "wanda", "wanda.Sparser"]
    packages = [identity(dataclasses.dataclass(kind)())["package"] for kind in (one, other)]
    assert packages == ["slimsweep", "theirs"]
