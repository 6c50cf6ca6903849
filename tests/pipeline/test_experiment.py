"""Keys and checks: what decides a result is in the key, nothing else; every fault is told before weights load."""

import pytest
from conftest import CACHE, PROJECT
from hydra import compose, initialize_config_dir

import slimsweep.cli.app  # registers the resolvers of conf/config.yaml
from slimsweep.errors import ConfigError
from slimsweep.pipeline.experiment import Experiment

assert slimsweep.cli.app


@pytest.fixture(scope="module", autouse=True)
def conf():
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3", job_name="test"):
        yield


def experiment(*overrides: str) -> Experiment:
    overrides = ["model=random", f"cache_dir={CACHE}", *overrides]
    return Experiment.of(compose("config", list(overrides)), overrides)


def key(*overrides: str) -> str:
    return experiment(*overrides).key


@pytest.mark.parametrize(
    ("chain", "irrelevant"),
    [
        ("technique=[]", "ratio=0.3"),
        ("technique=[]", "seed=7"),
        ("technique=magnitude", "seed=7"),
        ("technique=magnitude", "calibration=wikitext2"),
        ("technique=wanda", "outputs_dir=elsewhere"),
        ("technique=wanda", "tracker=none"),
        ("technique=wanda", "sweep=other"),
        ("technique=wanda", "on_error=stop"),
        ("technique=wanda", "model.name=renamed"),
        ("technique=wanda", "cache=off"),
        ("technique=wanda", "cache_limit_gb=1"),
        ("technique=wanda", "technique.wanda.passes=1"),
    ],
)
def test_what_cannot_change_the_result_is_not_in_the_key(chain, irrelevant):
    assert key(chain) == key(chain, irrelevant)


@pytest.mark.parametrize(
    ("chain", "relevant"),
    [
        ("technique=wanda", "ratio=0.3"),
        ("technique=wanda", "seed=7"),
        ("technique=wanda", "calibration.tokens=64"),
        ("technique=wanda", "technique.wanda.relative_to=remaining"),
        ("technique=wanda", "technique.wanda.passes=2"),
        ("technique=wanda", "dtype=float16"),
        ("technique=[]", "model.seed=1"),
        ("technique=[]", "model.shape.hidden_size=32"),
        ("technique=[]", "+model.trust_remote_code=true"),
    ],
)
def test_what_changes_the_result_changes_the_key(chain, relevant):
    assert key(chain) != key(chain, relevant)


def test_how_a_model_is_measured_is_no_part_of_its_key():
    first, other = experiment("technique=[]"), experiment("technique=[]", "evaluation.context_tokens=64")
    assert first.key == other.key and set(first.asked) != set(other.asked)


def test_order_is_part_of_a_chain():
    assert key("technique=[wanda,magnitude]") != key("technique=[magnitude,wanda]")
    assert experiment("technique=[wanda,magnitude]").chain == "wanda+magnitude"


def test_a_field_written_out_at_its_default_is_the_same_experiment():
    assert key("technique=wanda") == key("technique=wanda", "technique.wanda.relative_to=original")


def test_a_raised_version_is_another_experiment(monkeypatch):
    from slimsweep.techniques.pruning.wanda import Wanda

    before = key("technique=wanda")
    monkeypatch.setattr(Wanda, "version", Wanda.version + 1)
    assert key("technique=wanda") != before


def test_a_pattern_decides_the_ratio():
    assert key("technique=wanda", "technique.wanda.pattern='1:4'", "ratio=0.1") == key(
        "technique=wanda", "technique.wanda.pattern='1:4'", "ratio=0.6"
    )
    assert experiment("technique=wanda", "technique.wanda.pattern='1:4'").ratios == [0.75]


def test_a_second_name_repeats_a_technique():
    chain = experiment("technique=wanda", "+technique@technique.wanda_2=wanda").chain
    assert chain == "wanda+wanda"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["device=cuda:7"], "device='cuda:7'.*cpu"),
        (["model=local", "model.path=/no/such/folder"], "/no/such/folder"),
        (["technique=wanda", "technique.wanda.include=[nothing*]"], "nothing"),
        (["technique=wanda", "technique.wanda.pattern='2:3'", "model.shape.hidden_size=64"], "divisible by 3"),
        (["technique=wanda", "calibration=text", "calibration.path=/no/such/file.txt"], "/no/such/file.txt"),
        (["evaluation.corpora=[wikitxt2]"], "wikitext2"),
        (["evaluation.corpora=[ptb]", "evaluation.context_tokens=64"], "ptb"),
        (["evaluation.tasks=[sentment]"], "sentiment"),
    ],
)
def test_what_the_model_or_texts_cannot_do_is_found_before_weights_load(overrides, message, monkeypatch):
    monkeypatch.setattr("slimsweep.models.sources.base.ModelSource.load", None)
    with pytest.raises(ConfigError, match=message):
        experiment(*overrides).check()


@pytest.mark.parametrize(
    ("amx", "dots", "vendor", "dtype"),
    [
        (0, 0, "AuthenticAMD", "float32"),
        (0, 1, "AuthenticAMD", "bfloat16"),
        (0, 1, "GenuineIntel", "float32"),
        (0, 1, None, "float32"),
        (1, 1, "GenuineIntel", "bfloat16"),
    ],
)
def test_auto_takes_bfloat16_where_the_processor_is_fast_at_it(amx, dots, vendor, dtype, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: bool(amx))
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: bool(dots))
    monkeypatch.setattr("slimsweep.records.provenance.processor_vendor", lambda: vendor)
    assert experiment("technique=magnitude", "device=cpu").resolved_dtype == dtype
    assert experiment("technique=magnitude", "device=cpu", "dtype=float16").resolved_dtype == "float16"


def test_a_label_tells_jobs_of_unlike_calibration_apart():
    words = ("ratio=0.5", "calibration.sequences=2", "dtype=float32")
    assert experiment("technique=wanda", *words).label == "random wanda 0.5 calibration.sequences=2 seed=0"
    assert experiment("technique=magnitude", *words).label == "random magnitude 0.5"
    twice = experiment(
        "technique=wanda", "++calibration.sequences=4", "calibration.sequences=2", "calibration=wikitext2"
    )
    assert twice.label == "random wanda 0.5 calibration=wikitext2 calibration.sequences=2 seed=0"
    file = experiment("technique=wanda", "calibration=text", "calibration.path=/a/long/way/to/mine.txt")
    assert file.label == "random wanda 0.5 calibration=text calibration.path=mine.txt seed=0"
