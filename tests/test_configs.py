"""Every YAML of conf/ and sweeps/ composes and instantiates; stems agree across the trees; docs name what exists."""

import dataclasses

import pytest
from conftest import CACHE, PROJECT
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class
from omegaconf import OmegaConf

import slimsweep.cli.app  # registers the resolvers of conf/config.yaml
from slimsweep.pipeline.experiment import Experiment

assert slimsweep.cli.app

GROUPS = ("model", "technique", "calibration", "evaluation", "tracker")
SWEEPS = sorted(path.stem for path in (PROJECT / "sweeps").glob("*.yaml"))


def stems(folder: str, suffix: str) -> set[str]:
    return {path.stem for path in (PROJECT / folder).glob(f"*{suffix}")}


@pytest.fixture(autouse=True)
def conf():
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3", job_name="test"):
        yield
    GlobalHydra.instance().clear()


@pytest.mark.parametrize(
    "choice",
    [f"{group}={name}" for group in GROUPS for name in sorted(stems(f"conf/{group}", ".yaml"))],
)
def test_every_choice_composes_and_instantiates(choice):
    needed = {
        "model=hub": ["model.id=ORG/NAME"],
        "model=local": [f"model.path={PROJECT}"],
        "calibration=text": [f"calibration.path={PROJECT / 'README.md'}"],
    }
    overrides = [choice, f"cache_dir={CACHE}", *needed.get(choice, [])]
    experiment = Experiment.of(compose("config", overrides), overrides)
    group, name = choice.split("=")
    if group == "technique":
        assert experiment.chain == name
    if group == "evaluation":
        assert set(experiment.metrics) >= {"size", "cost"}


@pytest.mark.parametrize("name", sorted(stems("conf/model", ".yaml") - {"hub", "local"}))
def test_every_named_model_carries_a_shape_that_counts_without_weights_or_network(name):
    overrides = [f"model={name}", "model.weights=meta", "evaluation=cost", f"cache_dir={CACHE}"]
    experiment = Experiment.of(compose("config", overrides), overrides)
    assert not experiment.model.faults()
    assert experiment.model.skeleton().original_parameters > 0


def test_every_technique_yaml_spells_every_knob():
    for name in stems("conf/technique", ".yaml"):
        config = OmegaConf.load(PROJECT / "conf" / "technique" / f"{name}.yaml")
        fields = {field.name for field in dataclasses.fields(get_class(config._target_))}
        spelled = set(config) - {"_target_"}
        assert spelled <= fields, name
        assert fields - spelled <= {"inputs"}, name  # means nothing to a technique that looks at no text


SHARED = {"__init__", "base", "hessian_method", "importance", "layer_names", "oneshot", "rescaling", "sparseml_run"}
"""Files of techniques/ that hold what several techniques share."""


def technique_files():
    files = (PROJECT / "src" / "slimsweep" / "techniques").rglob("*.py")
    return [path for path in files if path.stem not in SHARED]


def test_technique_stems_agree_in_code_conf_and_tests():
    conf = stems("conf/technique", ".yaml")
    tests = [path.stem.removeprefix("test_") for path in (PROJECT / "tests" / "techniques").rglob("test_*.py")]
    assert sorted(path.stem for path in technique_files()) == sorted(conf)  # no word names two techniques
    assert sorted(stem for stem in tests if stem in conf) == sorted(conf)


def test_every_technique_yaml_targets_its_own_file_and_package():
    modules = {path.stem: path.relative_to(PROJECT / "src").with_suffix("") for path in technique_files()}
    for path in (PROJECT / "conf" / "technique").glob("*.yaml"):
        first = path.read_text().splitlines()[0]
        assert first == f"# @package technique.{path.stem}"
        assert OmegaConf.load(path)._target_.rpartition(".")[0] == ".".join(modules[path.stem].parts)


def test_tests_mirror_the_package():
    """Each source file has its test, but for those of one line and those shown by others' tests."""
    shown_elsewhere = {"__init__", "errors", "run"}  # run: test_app
    missing = []
    for path in (PROJECT / "src" / "slimsweep").rglob("*.py"):
        parts = path.relative_to(PROJECT / "src" / "slimsweep")
        if path.stem in shown_elsewhere or "families" in parts.parts:
            continue
        if not (PROJECT / "tests" / parts.parent / f"test_{path.stem}.py").is_file():
            missing.append(str(parts))
    assert not missing


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_is_named_as_its_file_and_says_where_it_belongs(name):
    lines = (PROJECT / "sweeps" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert OmegaConf.create("\n".join(lines)).sweep == name
