"""Settings of a sweep's jobs are those that Hydra composes for each one alone."""

import pytest
from conftest import PROJECT
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf

import slimsweep.cli.app  # registers the resolvers of conf/config.yaml
from hydra_plugins.slimsweep.composing import Composer

assert slimsweep.cli.app

JOBS = [
    ("technique=wanda", "ratio=0.5", "seed=1"),
    ("technique=wanda", "ratio=0.25", "technique.wanda.pattern=2:4", "+model.more=64"),
    ("seed=2", "technique=wanda", "~on_error"),
    ("technique=[magnitude,rtn]", "ratio=0.5", "technique.rtn.bits=3", "hydra.job.config.override_dirname.item_sep=+"),
    ("technique=[magnitude,rtn]", "+technique@technique.rtn_2=rtn", "technique.rtn_2.bits=8", "++seed=3"),
    ("+metric=[fidelity]", "evaluation=quick", "evaluation.corpora=[wikitext2]"),
    (),
]


@pytest.fixture(scope="module")
def loader():
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3", job_name="slimsweep"):
        yield GlobalHydra.instance().config_loader()


def master(loader: ConfigLoaderImpl):
    words = ["model=random", "ratio=0.3,0.5", "+hydra.job.env_set.MINE=1"]
    return loader.load_configuration("config", words, RunMode.MULTIRUN)


def test_each_job_is_what_hydra_composes(loader):
    whole = master(loader)
    composer = Composer(loader, whole)
    for job in [*JOBS, *reversed(JOBS)]:  # the second time each is a copy
        ours, theirs = composer.of(job), loader.load_sweep_config(whole, list(job))
        assert OmegaConf.to_container(ours) == OmegaConf.to_container(theirs), job
        assert OmegaConf.is_struct(ours) and OmegaConf.is_struct(theirs)


def test_a_job_is_changed_without_the_others(loader):
    composer = Composer(loader, master(loader))
    first = composer.of(["technique=wanda", "ratio=0.5"])
    first.technique.wanda.pattern = "2:4"
    assert composer.of(["technique=wanda", "ratio=0.5"]).technique.wanda.pattern != "2:4"


def test_values_that_do_not_fit_are_refused_as_by_hydra(loader):
    whole = master(loader)
    for word in ("technique.wanda.nonsense=1", "nonsense=1", "~nonsense", "technique@=wanda"):
        with pytest.raises(ConfigCompositionException) as ours:
            Composer(loader, whole).of(["technique=wanda", word])
        with pytest.raises(ConfigCompositionException) as theirs:
            loader.load_sweep_config(whole, ["technique=wanda", word])
        assert str(ours.value) == str(theirs.value)
