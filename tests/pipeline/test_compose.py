"""Settings that cannot be are refused by name, all at once."""

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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["technique=[wanda,wanda]"], r"'wanda' 2 times.*technique.wanda_2=wanda"),
        (["+technique.sparsegpt.block_columns=64"], "nothing to apply them to"),
        (["technique=wanda", "+technique.wanda.patern=1"], "patern is no setting. Did you mean: pattern"),
        (["technique=wanda", "ratio=1.0"], r"ratio=1\b.*\[0, 1\)"),
        (["technique=wanda", "ratio=-0.1"], r"ratio=-0.1"),
        (["technique=wanda", "ratio=half"], "(?s)ratio.*half"),
        (["technique=wanda", "technique.wanda.pattern='5:4'"], "5:4"),
        (["seed=-1"], "seed=-1"),
        (["dtype=int3"], "dtype='int3'.*bfloat16"),
        (["on_error=ignore"], "on_error='ignore'"),
        (["sweep=../x"], "sweep='../x'"),
        (["seed=99999999999999999999"], "seed=9999"),
        (["cache=maybe"], "cache='maybe': give on or off"),
        (["cache=1"], "cache=1: give on or off"),
        (["cache=null"], "cache is not set"),
        (["cache_limit_gb=0"], "cache_limit_gb=0: give a number of GB above 0; cache=off keeps nothing"),
        (["cache_limit_gb=-1.5"], "cache_limit_gb=-1.5"),
        (["cache_limit_gb=much"], "cache_limit_gb='much'"),
        (["cache_limit_gb=true"], "cache_limit_gb=True"),
        (["cache_limit_gb=.inf"], "cache_limit_gb"),
        (["outputs_dir=null"], "outputs_dir is not set"),
        (["+evaluation.contex_tokens=9"], "contex_tokens is no setting of this profile. Did you mean: context_tokens"),
        (["+sweeps_=1"], "sweeps_ is no setting"),
        (["+sweeps.a=1"], "@package _global_"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(overrides, message):
    with pytest.raises(ConfigError, match=message):
        experiment(*overrides)


def test_a_package_that_python_does_not_find_says_what_to_type():
    lost = ["technique=wanda", "technique.wanda._target_=theirs.row_norm.RowNorm"]
    with pytest.raises(ConfigError, match=r"(?s)no package 'theirs'.*pip install -e .*PYTHONPATH=FOLDER slimsweep"):
        experiment(*lost)
    with pytest.raises(ConfigError) as error:
        experiment("technique=wanda", "technique.wanda._target_=slimsweep.nowhere.Wanda")
    assert "PYTHONPATH" not in str(error.value)


def test_all_faults_are_told_at_once():
    with pytest.raises(ConfigError) as error:
        experiment("technique=wanda", "ratio=2", "seed=-1", "dtype=int3")
    assert len(error.value.faults) == 3


@pytest.mark.parametrize(
    ("word", "is_on"), [("on", True), ("off", False), ("true", True), ("false", False), ("Off", False)]
)
def test_the_cache_is_a_switch(word, is_on):
    assert experiment(f"cache={word}").cache is is_on


def test_the_cache_is_on_and_its_limit_10_gb():
    made = experiment("technique=wanda")
    assert (made.cache, made.cache_limit_bytes) == (True, 10_000_000_000)
    assert experiment("cache_limit_gb=0.5").cache_limit_bytes == 500_000_000
    assert "cache" not in str(made.config)


def test_records_keep_no_folder_for_outputs_corpora_or_cache():
    assert str(PROJECT) not in str(experiment("technique=wanda").config)
