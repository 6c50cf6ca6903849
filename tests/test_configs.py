"""Every YAML of conf/ and sweeps/ composes and instantiates; stems agree across the trees; docs name what exists."""

import dataclasses
from fnmatch import fnmatch

import pytest
from conftest import CACHE, PROJECT
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class
from omegaconf import OmegaConf

import slimsweep.cli.app  # registers the resolvers of conf/config.yaml
from slimsweep.pipeline.experiment import Experiment
from slimsweep.techniques.layerwise import LayerTargets
from slimsweep.techniques.pruning.base import PruningCounts
from slimsweep.techniques.quantization.base import PreservedSparsity, UniformGrid
from slimsweep.techniques.training.base import Training
from slimsweep.techniques.training.schedule import Schedule

assert slimsweep.cli.app

GROUPS = ("model", "technique", "calibration", "data", "evaluation", "tracker")
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
        config = compose("config", [f"technique={name}"]).technique[name]
        fields = {field.name for field in dataclasses.fields(get_class(config._target_))}
        spelled = set(config) - {"_target_"}
        assert spelled <= fields, name
        assert fields - spelled <= {"inputs"}, name  # means nothing to a technique that looks at no text


@pytest.mark.parametrize("name", sorted(stems("conf/metric", ".yaml")))
def test_a_metric_is_added_to_any_profile_and_spells_every_knob(name):
    overrides = ["model=random", "evaluation=cost", f"+metric={name}", f"cache_dir={CACHE}"]
    config = compose("config", overrides)
    metric = Experiment.of(config, overrides).metrics[name]
    fields = {field.name: field.default for field in dataclasses.fields(metric)}
    assert set(config.evaluation.metrics[name]) == {*fields, "_target_"}
    first = (PROJECT / "conf" / "metric" / f"{name}.yaml").read_text().splitlines()[0]
    assert first == f"# @package evaluation.metrics.{name}"
    assert config.evaluation.metrics[name]._target_.split(".")[-2] == name
    has_default = {name for name, default in fields.items() if default is not dataclasses.MISSING}
    assert {name: getattr(metric, name) for name in has_default} == {name: fields[name] for name in has_default}


def test_every_metric_declares_what_an_instance_measures():
    others = stems("conf/metric", ".yaml") - set(compose("config", ["evaluation=paper"]).evaluation.metrics)
    added = [f"+metric=[{','.join(sorted(others))}]"] if others else []
    overrides = ["model=random", "evaluation=paper", *added, f"cache_dir={CACHE}"]
    metrics = Experiment.of(compose("config", overrides), overrides).metrics
    assert set(metrics) == stems("conf/metric", ".yaml")
    for name, metric in metrics.items():
        patterns = [one.field for one in metric.declares]
        fields = [one.field for one in metric.quantities()]
        assert fields and all(any(fnmatch(field, pattern) for pattern in patterns) for field in fields), name
        assert set(metric.compared) <= set(fields)


SHARED = {"__init__", "base", "hessian_method", "importance", "layer_names", "layerwise", "oneshot", "rescaling"}
SHARED |= {"sparseml_run", "distillation", "generation", "kept_logits", "loop", "objective", "reasoning", "schedule"}
SHARED |= {"students", "teachers", "trainer", "written"}
"""Files of techniques/ that hold what several techniques share."""


def technique_files():
    files = (PROJECT / "src" / "slimsweep" / "techniques").rglob("*.py")
    return [path for path in files if path.stem not in SHARED]


SHARED_KNOBS = {
    "layerwise": LayerTargets,
    "pruner": PruningCounts,
    "quantizer": PreservedSparsity,
    "uniform_quantizer": UniformGrid,
    "schedule": Schedule,
    "training": Training,
}
"""Files beside config.yaml that YAMLs of techniques include, and the class that has their knobs."""


@pytest.mark.parametrize("file", SHARED_KNOBS)
def test_a_shared_knob_is_one_of_its_class_and_has_its_default(file):
    spelled = OmegaConf.to_container(OmegaConf.load(PROJECT / "conf" / f"{file}.yaml"))
    spelled.pop("defaults", None)
    defaults = {field.name: field.default for field in dataclasses.fields(SHARED_KNOBS[file])}
    assert spelled.pop("ratio", "${ratio}") == "${ratio}"
    for name, value in spelled.items():
        assert defaults[name] == (tuple(value) if isinstance(value, list) else value), name


def test_a_knob_of_one_file_is_repeated_only_with_another_default():
    for path in (PROJECT / "conf" / "technique").glob("*.yaml"):
        config = OmegaConf.load(path)
        bases = [base for base in config.get("defaults", []) if base != "_self_"]
        while bases:
            name = bases.pop().strip("/").removesuffix("@_here_")
            shared = OmegaConf.load(PROJECT / "conf" / f"{name}.yaml")
            repeated = (set(config) & set(shared)) - {"defaults"}
            assert not [knob for knob in repeated if config._get_node(knob) == shared._get_node(knob)], path.stem
            bases += [base for base in shared.get("defaults", []) if base != "_self_"]


def test_shared_knobs_are_no_choices():
    groups = {path.name for path in (PROJECT / "conf").iterdir() if path.is_dir()}
    choices = {"calibration", "data", "dataset", "evaluation", "metric", "model", "technique", "tracker"}
    assert groups == {"hydra", *choices}
    assert not [path for path in (PROJECT / "conf" / "technique").iterdir() if path.is_dir()]


def test_a_technique_of_another_package_includes_shared_knobs(tmp_path):
    (tmp_path / "technique").mkdir()
    text = "defaults:\n  - /pruner@_here_\n  - _self_\n_target_: theirs.Theirs\nknob: 3\n"
    (tmp_path / "technique" / "theirs.yaml").write_text(f"# @package technique.theirs\n{text}")
    overrides = [f"hydra.searchpath=[file://{tmp_path}]", "technique=theirs", "ratio=0.3"]
    knobs = OmegaConf.to_container(compose("config", overrides).technique.theirs, resolve=True)
    assert knobs.pop("knob") == 3 and knobs.pop("_target_") == "theirs.Theirs"
    assert knobs == {"ratio": 0.3, "pattern": "unstructured", "passes": 1, "include": ["*"], "exclude": []}


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
