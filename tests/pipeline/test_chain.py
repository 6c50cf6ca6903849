"""Chains restored and computed come to the same, bit for bit; what is damaged, foreign or unwritable does no harm."""

import dataclasses
import itertools
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import PROJECT
from filelock import FileLock
from huggingface_hub.errors import StrictDataclassError
from reductions import logits
from stages import comparable, experiment, restored

from slimsweep.models.language_model import weights_digest
from slimsweep.models.sources.base import ModelSource
from slimsweep.pipeline import chain as compression
from slimsweep.pipeline.chain import compress
from slimsweep.pipeline.experiment import Stage
from slimsweep.pipeline.keys import stage_keys
from slimsweep.pipeline.stage_cache import entry as stage_entry
from slimsweep.pipeline.stage_cache.entry import ENTRY, _digest
from slimsweep.techniques.base import Requirements, StageReport, Technique
from slimsweep.techniques.pruning.sparsegpt import SparseGPT

CHAINS = {
    "pruned": ("technique=sparsegpt",),
    "packed": ("technique=rtn", "technique.rtn.group_size=32"),
    "pruned, then packed": ("technique=[sparsegpt,rtn]",),
    "packed, then pruned": ("technique=[rtn,sparsegpt]", "technique.rtn.grid=minimum"),
    "narrower": ("technique=llm_pruner", "technique.llm_pruner.level=channel", "ratio=0.25"),
    "uneven, then packed": (
        "technique=[glu,rtn]",
        "technique.glu.blocks=[1,1]",
        "ratio=0.25",
        "technique.rtn.group_size=32",
    ),
    "packed, then fewer blocks": (
        *("technique=[magnitude,rtn,layers]", "technique.layers.ratio=0.34", "technique.layers.protect_first=0"),
        "model.shape.num_hidden_layers=3",
    ),
    "in 16 bits": ("technique=[magnitude,half,rtn]",),
    "twice": ("technique=random", "technique.random.relative_to=remaining", "technique.random.passes=2"),
}


@pytest.fixture(autouse=True)
def everything_is_worth_keeping(monkeypatch):
    monkeypatch.setattr("slimsweep.pipeline.stage_cache.writing.WORTH_BYTES_PER_SECOND", 1e15)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def nothing_loads(monkeypatch):
    """After a call, a dense model that is loaded or a stage that is applied is an error."""

    def switch():
        monkeypatch.setattr(ModelSource, "load", None)
        monkeypatch.setattr("slimsweep.pipeline.chain.apply", None)

    return switch


@pytest.mark.parametrize(
    ("chain", "dtype"),
    [(chain, "float32") for chain in CHAINS] + [("pruned, then packed", "bfloat16"), ("narrower", "float16")],
)
def test_what_is_restored_is_what_was_computed_bit_for_bit(chain, dtype, cache, nothing_loads):
    chain = CHAINS[chain]
    plain = compress(experiment(cache, *chain, f"dtype={dtype}", "cache=off"))
    assert not (cache / "stages").exists()
    first = compress(experiment(cache, *chain, f"dtype={dtype}"))
    nothing_loads()
    again = compress(experiment(cache, *chain, f"dtype={dtype}"))
    assert comparable(first) == comparable(plain) == comparable(again)
    assert torch.equal(logits(again.model), logits(plain.model))
    assert not any(restored(first)) and all(restored(again))
    assert [stage["seconds"] for stage in again.stages] == [stage["seconds"] for stage in first.stages]


EVERY = {path.stem for path in (PROJECT / "conf" / "technique").glob("*.yaml")}


# distill_reasoning refuses a teacher that solves nothing, as one of random weights.
@pytest.mark.parametrize("technique", sorted(EVERY - {"distill_reasoning"}))
def test_what_any_technique_leaves_is_restored_bit_for_bit(technique, cache, nothing_loads, sparseml_environment):
    blocks = "model.shape.num_hidden_layers=8"  # the default range of llm_pruner leaves the first four and last two
    own = [f"technique.sparseml.path={sparseml_environment}"] if technique == "sparseml" else []
    trains = (PROJECT / "src" / "slimsweep" / "techniques" / "training" / f"{technique}.py").is_file()
    own += [f"technique.{technique}.tokens=600", "data.tokens=32"] if trains else []
    chain = f"[magnitude,{technique}]" if technique == "eora" else technique  # which puts back what was lost
    made = experiment(cache, f"technique={chain}", blocks, "dtype=float32", "ratio=0.25", *own)
    first = compress(made)
    nothing_loads()
    again = compress(made)
    assert comparable(again) == comparable(first) and all(restored(again))
    assert torch.equal(logits(again.model), logits(first.model))


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_a_chain_goes_on_from_what_another_left(chain, cache, monkeypatch):
    longer = experiment(cache, *chain, "+technique@technique.last=wanda", "technique.last.ratio=0.7")
    plain = compress(dataclasses.replace(longer, cache=False))
    compress(experiment(cache, *chain))
    monkeypatch.setattr(ModelSource, "load", None)
    went_on = compress(longer)
    assert comparable(went_on) == comparable(plain)
    assert torch.equal(logits(went_on.model), logits(plain.model))
    assert restored(went_on) == [True] * (len(longer.stages) - 1) + [False]


def test_what_a_quantizer_follows_is_not_pruned_again(cache, monkeypatch, caplog):
    compress(experiment(cache, "technique=sparsegpt"))
    then_packed = experiment(cache, "technique=[sparsegpt,rtn]")
    monkeypatch.setattr(SparseGPT, "apply", None)
    monkeypatch.setattr("slimsweep.pipeline.chain.calibrate", None)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        compress(then_packed)
    said = [message.split(" (")[0].split(" in ")[0] for message in caplog.messages]
    assert [line for line in said if line.endswith(("restored", "computed"))] == [
        "sparsegpt: restored",
        "rtn: computed",
    ]


def test_what_another_process_computes_meanwhile_is_taken_from_it(cache, monkeypatch):
    made = experiment(cache, "technique=[magnitude,wanda,rtn]")
    plain = compress(dataclasses.replace(made, cache=False))
    apply = compression.apply

    def overtaken(own, stage, token_ids, done):
        apply(own, stage, token_ids, done)
        monkeypatch.setattr(compression, "apply", apply)
        compress(dataclasses.replace(made, stages=made.stages[:2], cache_dir=cache / "theirs"))
        (entry,) = (cache / "theirs" / "stages").glob(f"{stage_keys(made)[1].digest}*")
        entry.rename(cache / "stages" / entry.name)

    monkeypatch.setattr(compression, "apply", overtaken)
    found = compress(made)
    assert comparable(found) == comparable(plain)
    assert restored(found) == [False, True, False]


def test_an_entry_that_began_with_other_weights_is_not_gone_on_from(cache, monkeypatch, caplog):
    made = experiment(cache, "technique=[magnitude,wanda]")
    plain = compress(dataclasses.replace(made, cache=False))
    apply = compression.apply

    def overtaken(own, stage, token_ids, done):
        apply(own, stage, token_ids, done)
        monkeypatch.setattr(compression, "apply", apply)
        compress(dataclasses.replace(made, cache_dir=cache / "theirs"))
        first, second = (cache / "theirs" / "stages" / key.digest for key in stage_keys(made))
        (before, after) = (json.loads((folder / ENTRY).read_text())["content"] for folder in (first, second))
        assert before["state"]["upstream_digest"] is None
        assert after["state"]["upstream_digest"] == before["weights_digest"]
        rewrite(second, state=after["state"] | {"upstream_digest": "0" * 64})
        second.rename(cache / "stages" / second.name)

    monkeypatch.setattr(compression, "apply", overtaken)
    found = compress(made)
    assert restored(found) == [False, False] and comparable(found) == comparable(plain)
    assert "the stage before it left other weights than it began with" in caplog.text


def test_each_stage_says_what_it_was_computed_on(cache, monkeypatch):
    first = compress(experiment(cache, "technique=magnitude")).stages[0]["computed_on"]
    assert list(first) == ["device", "threads", "git_commit", "torch", "slimsweep"]
    assert (first["device"], first["threads"], first["torch"]) == ("cpu", torch.get_num_threads(), version("torch"))
    other = {"device": "another machine"}
    monkeypatch.setattr(compression, "computed_on", lambda _device: other)
    longer = experiment(cache, "technique=[magnitude,rtn]")
    found = compress(longer)
    assert [stage["computed_on"] for stage in found.stages] == [first, other]
    assert comparable(found) == comparable(compress(dataclasses.replace(longer, cache=False)))


def test_a_chain_ends_in_the_middle_of_a_longer_one(cache):
    compress(experiment(cache, "technique=[magnitude,wanda,rtn]"))
    shorter = compress(experiment(cache, "technique=[magnitude,wanda]"))
    assert restored(shorter) == [True, True]
    assert comparable(shorter) == comparable(compress(experiment(cache, "technique=[magnitude,wanda]", "cache=off")))


def test_a_stage_of_another_name_in_its_chain_is_restored_under_the_new_one(cache):
    compress(experiment(cache, "technique=[magnitude,wanda]"))
    named = ("technique=[]", "+technique@technique.first=magnitude", "+technique@technique.then=wanda")
    found = compress(experiment(cache, *named))
    assert all(restored(found))
    assert comparable(found) == comparable(compress(experiment(cache, *named, "cache=off")))
    assert [stage["name"] for stage in found.stages] == ["first", "then"]
    assert [entry["stage"] for entry in found.layers] == ["first", "then"]
    assert set(found.stages[0]["sparsity_after"]) == {"first", "then"}


def test_times_tell_what_the_chain_costs_and_what_this_job_spent(cache, monkeypatch):
    clock = itertools.count(0.0, 10.0)
    every_interval_takes_10_s = SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr("slimsweep.pipeline.chain.time", every_interval_takes_10_s)
    first = compress(experiment(cache, "technique=[magnitude,rtn]"))
    assert (first.load_seconds, first.compress_seconds, first.spent_seconds) == (10, 20, 40)  # and keeping each
    second = compress(experiment(cache, "technique=[magnitude,rtn]"))
    assert (second.load_seconds, second.compress_seconds, second.spent_seconds) == (10, 20, 10)
    third = compress(experiment(cache, "technique=[magnitude,rtn,wanda]"))
    assert (third.load_seconds, third.compress_seconds, third.spent_seconds) == (10, 30, 30)
    dense = compress(experiment(cache, "technique=[]"))
    assert (dense.load_seconds, dense.compress_seconds, dense.spent_seconds) == (10, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Dice(Technique):
    """Draws from torch's own chance, as a technique of somebody else may."""

    layers: Sequence[str] = ()

    @property
    def requirements(self):
        return Requirements(seed=True)

    def faults(self, skeleton):
        return []

    def plan(self, skeleton):
        return StageReport([])

    def apply(self, model, context):
        for layer in model.targets().values():
            layer.weight += torch.rand(layer.weight.shape)
        return StageReport([])


def test_chance_is_the_same_whether_earlier_stages_were_computed_or_not(cache):
    one, two = (
        dataclasses.replace(experiment(cache, "dtype=float32"), stages=stages)
        for stages in ((Stage("a", Dice()),), (Stage("a", Dice()), Stage("b", Dice(layers=("x",)))))
    )
    plain = compress(dataclasses.replace(two, cache=False))
    after = torch.rand(3)
    compress(one)
    torch.rand(5)
    found = compress(two)
    assert restored(found) == [True, False]
    assert weights_digest(found.model) == weights_digest(plain.model)
    assert torch.equal(torch.rand(3), after)


@pytest.mark.parametrize(
    "overrides", [("technique=wanda", "model.weights=meta"), ("technique=[]",), ("technique=wanda", "cache=off")]
)
def test_what_there_is_nothing_to_keep_of_leaves_no_folder(overrides, cache):
    compress(experiment(cache, *overrides))
    assert not (cache / "stages").exists()


def test_models_with_code_of_their_own_are_not_kept(cache):
    compress(experiment(cache, "technique=wanda", "+model.trust_remote_code=true"))
    assert not (cache / "stages").exists()


def flip(path, place=-7):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def rewrite(folder, **changes):
    """Another content of an entry, with the digest that belongs to it."""
    content = json.loads((folder / ENTRY).read_text())["content"] | changes
    (folder / ENTRY).write_text(json.dumps({"digest": _digest(content), "content": content}))


def replaced(name, **changes):
    """Make of an entry another that accounts for every byte, with other values in one of its JSON files."""

    def damage(folder):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        files = json.loads((folder / ENTRY).read_text())["content"]["files"]
        rewrite(folder, files=files | stage_entry._file_digests([file]))

    return damage


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "weights cut short": (lambda folder: cut(folder / "model.safetensors"), "model.safetensors has other bytes"),
    "a flipped bit in the weights": (lambda folder: flip(folder / "model.safetensors"), "model.safetensors has other"),
    "a flipped bit in the header": (lambda folder: flip(folder / "model.safetensors", 20), "model.safetensors has"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "missing or added: model.safetensors"),
    "another config": (lambda folder: flip(folder / "config.json", 30), "config.json has other bytes"),
    "no manifest": (lambda folder: (folder / "slimsweep.json").unlink(), "missing or added: slimsweep.json"),
    "one file more": (lambda folder: (folder / "packed.safetensors").touch(), "added: packed.safetensors"),
    "another count": (lambda folder: flip(folder / ENTRY, -400), ENTRY),
    "half a file": (lambda folder: cut(folder / ENTRY), ""),
    "no account": (lambda folder: (folder / ENTRY).unlink(), "No such file"),
    "an account of nothing": (lambda folder: (folder / ENTRY).write_text("[]"), f"{ENTRY} has other bytes"),
    "an empty folder": (lambda folder: [path.unlink() for path in folder.iterdir()], "No such file"),
    "another format": (lambda folder: rewrite(folder, format=99), "its format is 99, not 4"),
    "weights of another digest": (lambda folder: rewrite(folder, weights_digest="0" * 64), "reads back as other"),
    "another dtype": (lambda folder: rewrite(folder, dtype="bfloat16"), "reads back as other weights"),
    "a manifest that does not fit": (replaced("slimsweep.json", channels=63), "do not fit their slimsweep.json"),
    "a config of an unknown function": (replaced("config.json", hidden_act="none"), "config.json cannot be read"),
    "a config that is refused": (replaced("config.json", num_attention_heads=5), "config.json cannot be read"),
    "a config of an unknown family": (replaced("config.json", model_type="none"), "config.json cannot be read"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_said_computed_anew_and_never_used(damage, reason, cache, caplog):
    made = experiment(cache, "technique=magnitude", "dtype=float32")
    plain = compress(made)
    (folder,) = (cache / "stages").glob("?" * 64)
    damage(folder)
    found = compress(made)
    assert restored(found) == [False] and comparable(found) == comparable(plain)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("magnitude 0.5: what the stage cache holds under") and reason in warning
    assert "computed anew" in warning and "\n" not in warning
    again = compress(made)
    assert restored(again) == [True] and comparable(again) == comparable(plain)


def test_an_entry_of_something_else_is_not_taken_for_this(cache, caplog):
    mine, other = (experiment(cache, "technique=magnitude", f"ratio={ratio}") for ratio in (0.5, 0.3))
    plain = compress(dataclasses.replace(mine, cache=False))
    compress(other)
    (theirs,) = (cache / "stages").glob("?" * 64)
    shutil.copytree(theirs, cache / "stages" / stage_keys(mine)[0].digest)
    found = compress(mine)
    assert restored(found) == [False] and comparable(found) == comparable(plain)
    assert "it was written for another key" in caplog.text
    assert restored(compress(other)) == [True]


def test_a_damaged_end_of_a_chain_leaves_its_beginning(cache, caplog):
    made = experiment(cache, "technique=[magnitude,rtn]")
    plain = compress(made)
    flip(cache / "stages" / stage_keys(made)[1].digest / "packed.safetensors")
    found = compress(made)
    assert restored(found) == [True, False] and comparable(found) == comparable(plain)


def test_a_folder_that_cannot_be_made_is_told_and_does_no_harm(cache, caplog):
    cache.mkdir()
    (cache / "stages").write_text("mine")
    found = compress(experiment(cache, "technique=magnitude"))
    assert comparable(found) == comparable(compress(experiment(cache, "technique=magnitude", "cache=off")))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "cannot be used" in warning and "goes on without it" in warning and "cache_dir=FOLDER" in warning
    assert (cache / "stages").read_text() == "mine"


def test_a_disk_without_room_is_told_once_and_does_no_harm(cache, monkeypatch, caplog):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: usage._replace(free=2**20))
    found = compress(experiment(cache, "technique=[magnitude,rtn]"))
    assert comparable(found) == comparable(compress(experiment(cache, "technique=[magnitude,rtn]", "cache=off")))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "to write and 1.0 MB free" in warning and "nothing is lost" in warning
    assert [path.name for path in (cache / "stages").iterdir()] == ["locks"]


@pytest.mark.parametrize("lock", ["leftovers", "eviction", "a stage's own"])
def test_a_lock_that_cannot_be_made_is_told_once_and_does_no_harm(lock, cache, monkeypatch, caplog):
    acquire = FileLock.acquire

    def without_room(self, *args, **settings):
        if Path(self.lock_file).stem == lock or (lock == "a stage's own" and len(Path(self.lock_file).stem) == 64):
            raise OSError(28, "No space left on device")
        return acquire(self, *args, **settings)

    made = experiment(cache, "technique=[magnitude,rtn]")
    plain = compress(made)
    monkeypatch.setattr(FileLock, "acquire", without_room)
    found = compress(made)
    assert comparable(found) == comparable(plain) and restored(found) == [False, False]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "No space left on device" in warning and "goes on without it" in warning
    monkeypatch.undo()
    assert len(list((cache / "stages").glob("?" * 64))) == 2


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        ValueError("this config cannot be written"),
        StrictDataclassError("this config cannot be written"),
    ],
)
def test_a_write_that_fails_half_way_leaves_nothing_and_does_no_harm(error, cache, monkeypatch, caplog):
    def fail(_model, folder):
        (folder / "model.safetensors").write_text("half")
        raise error

    made = experiment(cache, "technique=magnitude")
    monkeypatch.setattr(stage_entry, "save_with_manifest", fail)
    found = compress(made)
    assert str(error) in caplog.text
    assert [path.name for path in (cache / "stages").iterdir()] == ["locks"]
    monkeypatch.undo()
    assert comparable(found) == comparable(compress(made))
