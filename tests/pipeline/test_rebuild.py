import json
from pathlib import Path

import pytest
import torch
from conftest import CACHE, PROJECT
from hydra.utils import instantiate
from omegaconf import OmegaConf
from reductions import CPU, logits
from typer.testing import CliRunner

import slimsweep as package
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.cli.slim import app
from slimsweep.errors import StoreError
from slimsweep.evaluation.perplexity import Perplexity
from slimsweep.evaluation.size import Size
from slimsweep.models.sources.base import ModelSource
from slimsweep.models.storage.checkpoint import MANIFEST
from slimsweep.pipeline.rebuild import Rebuild, differences, target_of
from slimsweep.records.store import Store
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.pruning.wanda import Wanda
from slimsweep.techniques.structured.glu import Glu

JOB = (
    "model=random",
    "evaluation.context_tokens=64",
    "evaluation.max_windows=2",
    "evaluation.tasks=[]",
    "calibration.sequences=2",
    "calibration.tokens=32",
    "tracker=none",
)
COST = ("model=random", "evaluation=cost", "tracker=none")
GLU = ("technique=glu", "ratio=0.25", "technique.glu.blocks=[1,1]")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "outputs")


@pytest.fixture
def recorded(slimsweep, store):
    """Run one job; returns its record."""

    def run(*arguments):
        answer = slimsweep(*arguments)
        assert answer.status == 0, answer.err
        return json.loads(Path(answer.out.strip().splitlines()[-1]).read_text())

    return run


@pytest.fixture
def save(store):
    return lambda *words: CliRunner().invoke(app, ["save", *map(str, words), "--outputs", str(store.outputs_dir)])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "saved"


def compressed(technique, dtype="float32"):
    """The model of conf/model/random.yaml after a technique that looks at no text."""
    config = OmegaConf.load(PROJECT / "conf" / "model" / "random.yaml")
    config.cache_dir = str(CACHE)
    model = instantiate(config, _convert_="all").load(getattr(torch, dtype), CPU)
    technique.apply(model, StageContext())
    return model


def edited(store, record, **values):
    """Replace fields of a record on disk, and of its measurements."""
    folder = store.folder(record["key"])
    (folder / "record.json").write_text(json.dumps(record | values))
    for path in (folder / "measurements").glob("*.json"):
        one = json.loads(path.read_text())
        one["values"] |= {name: value for name, value in values.items() if name in one["values"]}
        path.write_text(json.dumps(one))


def assert_refused(answer, folder, message):
    assert answer.exit_code == 1
    assert message in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert not folder.exists()
    assert [path.name for path in folder.parent.iterdir() if "partial" in path.name] == []


def test_a_structured_model_is_computed_again_and_saved(recorded, store, save, folder):
    record = recorded(*JOB, *GLU)
    assert not (store.folder(record["key"]) / "model").exists()
    answer = save(record["key"][:8], folder)
    assert answer.exit_code == 0, answer.stderr
    assert answer.stdout.splitlines() == [str(folder), f"load it with slimsweep.load({str(folder)!r})"]
    expected = compressed(Glu(ratio=0.25, blocks=(1, 1)), record["dtype"])
    assert torch.equal(logits(package.load(folder)), logits(expected))
    assert sum(value.numel() for value in package.load(folder).parameters()) == record["parameters"]


def test_a_masked_model_is_computed_again_and_saved(recorded, save, folder):
    record = recorded(*JOB, "technique=magnitude", "dtype=float32")
    answer = save(record["key"], folder)
    assert answer.stdout.splitlines() == [str(folder), f"load it with AutoModel...from_pretrained({str(folder)!r})"]
    assert not (folder / MANIFEST).exists()
    assert torch.equal(logits(package.load(folder)), logits(compressed(Magnitude(ratio=0.5))))


def test_what_the_stage_cache_holds_is_not_computed_again(recorded, store, save, folder, monkeypatch):
    monkeypatch.setattr("slimsweep.pipeline.stage_cache.writing.WORTH_BYTES_PER_SECOND", 1e15)
    record = recorded(*COST, *GLU, "cache=on", f"cache_dir={store.outputs_dir / 'cache'}")
    expected = logits(compressed(Glu(ratio=0.25, blocks=(1, 1)), record["dtype"]))
    monkeypatch.setattr(ModelSource, "load", None)
    answer = save(record["key"][:8], folder)
    assert answer.exit_code == 0, answer.stderr
    assert torch.equal(logits(package.load(folder)), expected)


def test_calibration_and_seed_of_the_record_are_used_again(recorded, store, save, folder):
    job = (*COST, "technique=wanda", "calibration.sequences=2", "calibration.tokens=32", "seed=3", "save_model=true")
    record = recorded(*job)
    kept = store.folder(record["key"]) / "model"
    kept.rename(kept.with_name("kept"))
    assert save(record["key"], folder).exit_code == 0
    rebuilt, first = (logits(package.load(path)) for path in (folder, kept.with_name("kept")))
    assert torch.equal(rebuilt, first)
    assert Wanda(ratio=0.5).requirements.calibration


def test_a_model_kept_beside_its_record_is_copied_not_computed(recorded, store, save, folder, monkeypatch):
    record = recorded(*COST, *GLU, "save_model=true")
    kept = store.folder(record["key"]) / "model"
    expected = logits(compressed(Glu(ratio=0.25, blocks=(1, 1)), record["dtype"]))
    assert torch.equal(logits(package.load(kept)), expected)
    monkeypatch.setattr(ModelSource, "load", None)  # a second computation would call it
    assert save(record["key"], folder).exit_code == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in kept.iterdir()
    }
    assert torch.equal(logits(package.load(folder)), expected)


def test_what_is_kept_changes_no_key_and_nothing_is_kept_unasked(recorded, store, save, folder):
    record = recorded(*COST, "technique=magnitude")
    again = recorded(*COST, "technique=magnitude", "save_model=true")
    assert again == record
    assert not (store.folder(record["key"]) / "model").exists()
    assert save(record["key"], folder).exit_code == 0


@pytest.mark.parametrize("job", [("save_model=true",), ()])
def test_a_folder_that_is_not_empty_is_refused(recorded, save, folder, job):
    record = recorded(*COST, "technique=magnitude", *job)
    folder.mkdir()
    (folder / "mine").write_text("mine")
    answer = save(record["key"], folder)
    assert answer.exit_code == 1
    assert "not an empty folder" in answer.stderr
    assert [path.name for path in folder.iterdir()] == ["mine"]
    (folder / "mine").unlink()
    assert save(record["key"], folder).exit_code == 0
    assert (folder / "config.json").is_file()


@pytest.mark.parametrize("job", [("save_model=true",), ()])
@pytest.mark.parametrize("target", ["file", "file/saved"])
def test_a_place_that_cannot_be_a_folder_is_refused(recorded, save, tmp_path, job, target):
    record = recorded(*COST, "technique=magnitude", *job)
    (tmp_path / "file").write_text("mine")
    answer = save(record["key"], tmp_path / target)
    assert isinstance(answer.exception, SystemExit)
    assert "name another" in answer.stderr.lower()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_copy_that_fails_half_way_leaves_nothing(recorded, save, folder, monkeypatch):
    record = recorded(*COST, "technique=magnitude", "save_model=true")

    def fail(_source, target, **_settings):
        Path(target).mkdir(exist_ok=True)
        (Path(target) / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copytree", fail)
    assert_refused(save(record["key"], folder), folder, "No space left on device")


def test_a_record_with_another_perplexity_is_refused(recorded, store, save, folder):
    record = recorded(*JOB, "technique=magnitude")
    measured = record["perplexity_movie_reviews"]
    edited(store, record, perplexity_movie_reviews=measured * 1.002)
    assert_refused(save(record["key"], folder), folder, f"perplexity_movie_reviews {measured} instead of")
    edited(store, record, perplexity_movie_reviews=None)
    assert_refused(save(record["key"], folder), folder, "instead of None")
    edited(store, record, perplexity_movie_reviews=measured * 1.0005)  # as another machine may round
    assert save(record["key"], folder).exit_code == 0


def test_weights_that_are_those_of_the_record_need_no_measurement(recorded, store, monkeypatch):
    record = recorded(*JOB, "technique=magnitude")
    other = record | {"weights_digest": "0" * 64}
    edited(store, record, perplexity_movie_reviews=record["perplexity_movie_reviews"] * 2)
    with pytest.raises(StoreError, match="instead of") as caught:
        Rebuild(store, other).model(trusts_digest=True)
    assert "saved" not in str(caught.value)  # a demo and a chat save nothing
    monkeypatch.setattr("slimsweep.pipeline.rebuild.measure", None)  # measuring would call it
    Rebuild(store, record).model(trusts_digest=True)


@pytest.mark.parametrize("field", ["sparsity", "parameters", "nonzero_parameters"])
def test_a_record_with_other_counts_is_refused(recorded, store, save, folder, field):
    record = recorded(*COST, "technique=magnitude")
    edited(store, record, **{field: record[field] * 1.0001})
    assert_refused(save(record["key"], folder), folder, f"{field} {record[field]} instead of")


def test_a_record_of_shapes_alone_is_refused(recorded, save, folder):
    record = recorded(*COST, "technique=magnitude", "model.weights=meta")
    assert_refused(save(record["key"], folder), folder, "model.weights=meta")


def test_another_version_of_a_technique_must_give_the_same_weights(recorded, save, folder, monkeypatch):
    record = recorded(*COST, "technique=magnitude", "cache=off")
    monkeypatch.setattr(Magnitude, "version", Magnitude.version + 1)
    monkeypatch.setattr("slimsweep.numerics.masks.keep_highest_of_all", lambda score, dropped: score < score.median())
    assert_refused(save(record["key"], folder), folder, "which now give other weights")
    monkeypatch.undo()
    monkeypatch.setattr(Magnitude, "version", Magnitude.version + 2)
    assert save(record["key"], folder).exit_code == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["technique"]["magnitude"].update(ratio=0.4),
        lambda config: config["model"].update(seed=1),
    ],
)
def test_a_record_of_other_settings_is_refused(recorded, store, save, folder, change):
    record = recorded(*COST, "technique=magnitude")
    change(record["config"])
    edited(store, record)
    assert_refused(save(record["key"], folder), folder, "give the key")


def test_a_record_in_another_dtype_is_refused(recorded, store, save, folder):
    record = recorded(*COST, "technique=magnitude", "dtype=float32")
    edited(store, record, dtype="bfloat16")
    assert_refused(save(record["key"], folder), folder, "give the key")


def test_a_record_whose_settings_cannot_be_is_refused(recorded, store, save, folder):
    record = recorded(*COST, "technique=magnitude")
    record["config"]["technique"]["magnitude"]["ratio"] = 1.5
    edited(store, record)
    answer = save(record["key"], folder)
    assert answer.exit_code == 1
    assert "ratio=1.5" in answer.stderr
    assert not folder.exists()


def test_a_record_holds_in_whatever_dtype_auto_was(recorded, store, save, folder):
    record = recorded(*COST, *GLU, "dtype=bfloat16")
    record["config"]["dtype"] = "auto"  # whose meaning follows the machine
    edited(store, record)
    assert save(record["key"], folder).exit_code == 0
    assert package.load(folder).dtype == torch.bfloat16


def test_an_unknown_record_is_one_line(save, folder):
    assert_refused(save("0000", folder), folder, "no record starts with '0000'")


def test_keeping_a_model_of_shapes_alone_is_a_fault_before_anything_loads(slimsweep, store, monkeypatch):
    monkeypatch.setattr(ModelSource, "load", None)
    answer = slimsweep(*COST, "technique=magnitude", "model.weights=meta", "save_model=true")
    assert answer.status == 1
    assert "save_model=true, but model.weights=meta has no weights to save" in answer.err
    assert not store.records_dir.exists()


def test_a_model_left_by_a_killed_job_is_replaced(recorded, slimsweep, store):
    key = slimsweep(*COST, "technique=magnitude", "dry_run=true").out.split()[0]
    left = store.folder(key) / "model"
    left.mkdir(parents=True)
    (left / "config.json").write_text("half")
    record = recorded(*COST, "technique=magnitude", "save_model=true")
    assert store.folder(record["key"]) == left.parent
    expected = logits(compressed(Magnitude(ratio=0.5), record["dtype"]))
    assert torch.equal(logits(package.load(left)), expected)


def test_a_job_whose_model_cannot_be_kept_leaves_no_record(slimsweep, store, monkeypatch):
    def fail(_model, _folder):
        raise StoreError("no room")

    monkeypatch.setattr("slimsweep.pipeline.run.save", fail)
    answer = slimsweep(*COST, "technique=magnitude", "save_model=true")
    assert answer.status == 1
    assert store.records() == []


VALUES = {"sparsity": 0.5, "parameters": 100, "nonzero_parameters": 60, "perplexity_a": 10.0, "weight_bytes": 400}
QUANTITIES = [*Size().quantities(), *(one.named("a") for one in Perplexity.declares)]


@pytest.mark.parametrize(
    ("changed", "faults"),
    [
        ({}, []),
        ({"weight_bytes": 1}, []),  # follows from the other counts
        ({"perplexity_a": 10.009}, []),
        ({"perplexity_a": 10.02}, ["perplexity_a 10.02 instead of 10.0"]),
        ({"perplexity_a": None}, ["perplexity_a None instead of 10.0"]),
        ({"parameters": 101, "sparsity": 0.51}, ["parameters 101 instead of 100", "sparsity 0.51 instead of 0.5"]),
        ({"nonzero_parameters": 61}, ["nonzero_parameters 61 instead of 60"]),
    ],
)
def test_counts_agree_exactly_and_perplexities_to_a_thousandth(changed, faults):
    assert differences(VALUES, VALUES | changed, QUANTITIES) == faults


@pytest.mark.parametrize("measured", [float("inf"), float("nan")])
def test_a_perplexity_that_was_not_finite_may_be_so_again(measured):
    assert differences(VALUES | {"perplexity_a": None}, VALUES | {"perplexity_a": measured}, QUANTITIES) == []


def test_a_technique_of_another_package_is_found_by_the_packages_of_the_record(tmp_path, monkeypatch):
    folder = tmp_path / "theirs_with_conf" / "conf" / "technique"
    folder.mkdir(parents=True)
    (folder / "own.yaml").write_text("# @package technique.own\n_target_: theirs_with_conf.own.Own\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert target_of("technique", "own", ["theirs_with_conf.conf"]) == "theirs_with_conf.own.Own"
    with pytest.raises(StoreError, match="technique=own of this record is not among the choices"):
        target_of("technique", "own", ["not_installed.conf"])


def test_shapes_carry_the_tokenizer_and_nothing_to_compare_by_is_found_before_weights(recorded, store, monkeypatch):
    rebuild = Rebuild(store, recorded(*COST, "technique=magnitude"))
    assert rebuild.skeleton().is_meta and rebuild.skeleton().tokenizer("a")["input_ids"]
    monkeypatch.setattr("slimsweep.pipeline.rebuild.compared", lambda quantities: [])
    with pytest.raises(StoreError, match="has other weights here, and measured nothing to compare by"):
        Rebuild(store, rebuild.record | {"weights_digest": "0" * 64}).model(trusts_digest=True)
    rebuild.model(trusts_digest=True)
    monkeypatch.setattr("slimsweep.pipeline.rebuild.compress", None)  # loading would call it
    with pytest.raises(StoreError, match=r"record \w{8} measured nothing to compare by"):
        rebuild.model()
