"""A metric, a figure and a technique of another package appear everywhere; no file of this project is touched."""

import sys
from pathlib import Path

import pytest
from conftest import PROJECT
from small_jobs import SMALL
from typer.testing import CliRunner

from slimsweep.cli.slim import app
from slimsweep.records.store import Store
from slimsweep.records.tracking.published import curves_over_ratio

CONFIG = """
# @package evaluation.metrics.toy
_target_: theirs.measures.toy.Toy
factor: 1.0
"""
METRIC = '''
"""A metric of another package."""

from dataclasses import dataclass

from slimsweep.evaluation.base import Measurement, Metric
from slimsweep.evaluation.quantity import Quantity


@dataclass(frozen=True, kw_only=True)
class Toy(Metric):
    """Two plus the share of zeros, times a factor."""

    factor: float = 1.0

    def quantities(self):
        score = {"label": "toy score", "higher_is_better": False, "scale": "log", "group": "quality"}
        return [
            Quantity(field="toy_score", error="toy_error", tolerance=1e-6, **score),
            Quantity(field="toy_error", label="its error"),
            Quantity(field="toy_layers", label="toy layers", group="cost", heading="toys", format=".0f"),
        ]

    def measure(self, model, corpora):
        weights = [layer.weight for layer in model.targets().values()]
        zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
        values = {"toy_score": self.factor * (2 + zeros), "toy_error": 0.25, "toy_layers": len(weights)}
        return Measurement(values, {}, {"toy_score": f"toy:v1:factor={self.factor:g}"})
'''
COMPARES = """
    def compare(self, dense, model):
        return Measurement({"faster": 1.0})

"""
FIGURE = '''
"""A figure of another package."""

from slimsweep.figures.series import curves, log_quality
from slimsweep.figures.style import new_figure

SWEEPS = ("mine",)


def draw(records):
    return {f"toy_curve_{panel.stem}": _figure(panel, drawn) for panel, drawn in curves(records, log_quality)}


def _figure(panel, drawn):
    figure = new_figure()
    axes = figure.add_subplot()
    for line in drawn:
        axes.plot([point.x for point in line.points], [point.y for point in line.points], label=line.label)
    axes.set_ylabel(panel.quantity.axis())
    return figure
'''
TECHNIQUE = '''
"""A technique of another package."""

from dataclasses import dataclass
from typing import ClassVar

from slimsweep.blockwise.layer_method import Pruned
from slimsweep.numerics import masks
from slimsweep.techniques.pruning.base import Pruner


@dataclass(frozen=True, kw_only=True)
class LastColumns(Pruner):
    """Prune the last columns."""

    version: ClassVar[int] = 1

    def compress_layer(self, weight, prepared=None, generator=None, removed=None):
        keep = self.keep(-weight.new_tensor(range(weight.shape[1])).expand_as(weight), removed)
        return Pruned(masks.remove(weight, keep), keep)
'''
TECHNIQUE_CONFIG = """
# @package technique.last_columns
defaults:
  - /pruner@_here_
  - _self_
_target_: theirs.last_columns.LastColumns
"""
FILES = {
    "__init__.py": "",
    "conf/__init__.py": "",
    "conf/metric/toy.yaml": CONFIG.lstrip(),
    "measures/__init__.py": "",
    "measures/toy.py": METRIC.lstrip(),
    "figures/__init__.py": "",
    "figures/toy_curve.py": FIGURE.lstrip(),
    "last_columns.py": TECHNIQUE.lstrip(),
}
WITH_TOY = (
    *(argument for argument in SMALL if not argument.startswith("evaluation.")),
    *("hydra.searchpath=[pkg://theirs.conf]", "evaluation=cost", "+metric=toy"),
)
SWEEP = ("-m", *WITH_TOY, "technique=[],magnitude", "ratio=0.25,0.5")


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """Folder of an installed package with a metric and a figure."""
    folder = tmp_path / "site" / "theirs"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder
    forget_modules()


def forget_modules() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "theirs"]:
        del sys.modules[name]


@pytest.fixture
def figures_are_dots():
    """They are drawn here: another package's figure is to be saved, and one of these cannot be."""


@pytest.fixture
def slim(tmp_path):
    return lambda *words: CliRunner().invoke(app, [*words, "--outputs", str(tmp_path / "outputs")])


def project_files() -> dict[Path, int]:
    files = [path for folder in ("conf", "sweeps", "src") for path in (PROJECT / folder).rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in files if path.suffix != ".pyc"}


def test_a_metric_and_a_figure_of_another_package_appear_everywhere(slimsweep, slim, theirs, tmp_path):
    before = project_files()
    answer = slimsweep(*SWEEP, "sweep=mine")
    assert answer.status == 0, answer.err
    records = Store(tmp_path / "outputs").sweep_records("mine")
    assert [round(one["toy_score"] - 2, 2) for one in records] == [0.0, 0.25, 0.5]

    table = slim("table", "mine").stdout
    assert "toy score" in table and "2.50 ± 0.25" in table and "toys 14" in table  # two blocks of seven layers
    assert "toy_score: toy:v1:factor=1" in table and table in answer.out
    assert curves_over_ratio(records) == {"toy_score": {"random magnitude": [(0.25, 2.25), (0.5, 2.5)]}}

    assert (tmp_path / "outputs" / "figures" / "toy_curve_toy_score.pdf").is_file()  # at the end of the sweep
    assert "ratio_curve_toy_score.pdf" in slim("figures", "ratio_curve", "--sweep", "mine").stdout
    drawn = slim("figures", "toy_curve")
    assert [line.rsplit("/", 1)[-1] for line in drawn.stdout.split()] == [
        *("toy_curve_toy_score.pdf", "toy_curve_toy_score.png"),
    ]
    assert slim("figures", "--sweeps", "toy_curve_toy_score").stdout == "mine\n"
    assert "toy_curve: mine\n" in slim("figures", "--sweeps").stdout

    assert slimsweep(*SWEEP, "sweep=doubled", "evaluation.metrics.toy.factor=2.0").status == 0
    compared = slim("compare", "mine", "doubled").stdout
    assert "toy score A" in compared and "toy score B" in compared and compared.count("+100.0 %") == 3
    assert "these must not be compared" in compared
    assert project_files() == before


def test_the_model_of_a_record_is_compared_by_their_quantity_too(slimsweep, slim, theirs, tmp_path):
    assert slimsweep(*WITH_TOY, "technique=magnitude").status == 0
    (record,) = Store(tmp_path / "outputs").records()
    saved = slim("save", record["key"][:8], str(tmp_path / "saved"))
    assert saved.exit_code == 0, saved.stderr
    (theirs / "measures" / "toy.py").write_text(METRIC.replace("2 + zeros", "3.0 + zeros"))
    forget_modules()
    other = slim("save", record["key"][:8], str(tmp_path / "again"))
    assert other.exit_code == 1 and "toy_score 3.5 instead of 2.5" in other.stderr


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "Did you mean: toy?"),
        ({"measures/toy.py": METRIC.replace("def quantities", "def fields")}, "abstract method quantities"),
        ({"measures/toy.py": "import nothing_like_it\n" + METRIC}, "nothing_like_it"),
        (
            {"measures/toy.py": METRIC.replace('field="toy_layers"', 'field="toy_*"')},
            "toy_* needs a name in place of *",
        ),
        ({"measures/toy.py": METRIC.replace('field="toy_layers"', 'field="toy_score"')}, "are called toy_score"),
        ({"measures/toy.py": METRIC.replace(".0f", "d")}, "format of toy_layers='d': give one that Python has"),
        ({"measures/toy.py": METRIC + COMPARES}, "it has a `compare`, but `compared` names no field"),
        ({"measures/toy.py": METRIC + COMPARES + "    compared = ('faster',)\n"}, "it compares faster, of which"),
        ({"conf/metric/toy.yaml": CONFIG.lstrip().split("\n", 1)[1]}, "does not start with `# @package"),
        ({"conf/metric/toy.yaml": CONFIG.lstrip() + "factr: 2\n"}, "factr is no setting. Did you mean: factor?"),
    ],
    ids=[
        "unknown",
        "no quantities",
        "broken",
        "a pattern for a field",
        "one field twice",
        "no such format",
        "compares",
        "compares an unknown",
        "no package",
        "mistyped knob",
    ],
)
def test_a_faulty_metric_is_told_before_weights_load(slimsweep, theirs, tmp_path, monkeypatch, changed, message):
    for name, text in changed.items():
        (theirs / name).write_text(text)
    monkeypatch.setattr("slimsweep.pipeline.chain.load", lambda _: pytest.fail("weights were loaded"))
    words = WITH_TOY if changed else [word.replace("metric=toy", "metric=toi") for word in WITH_TOY]
    answer = slimsweep(*words, "technique=magnitude")
    assert answer.status == 1 and message in answer.err and "Traceback" not in answer.err
    assert not (tmp_path / "outputs" / "records").exists()


def test_a_field_without_a_quantity_is_named(slimsweep, theirs):
    (theirs / "measures" / "toy.py").write_text(METRIC.replace('"toy_error": 0.25', '"toy_error": 0.25, "extra": 1'))
    answer = slimsweep(*WITH_TOY, "technique=magnitude")
    assert answer.status == 1
    assert "metric toy measured extra, but its quantities() declares toy_score, toy_error, toy_layers" in answer.err


def test_a_package_with_figures_is_named_where_no_record_names_it(slim, theirs, monkeypatch):
    unknown = slim("figures", "--sweeps", "toy_curve")
    assert unknown.exit_code == 1 and "there is no figure 'toy_curve'" in unknown.stderr
    assert slim("figures", "--sweeps", "toy_curve", "--package", "theirs").stdout == "mine\n"
    monkeypatch.setenv("SLIMSWEEP_PACKAGES", "theirs")
    assert slim("figures", "--sweeps", "toy_curve").stdout == "mine\n"
    mistyped = slim("figures", "--sweeps", "toy_curv")
    assert mistyped.exit_code == 1 and "Did you mean: toy_curve" in mistyped.stderr
    missing = slim("figures", "--sweeps", "--package", "not_installed_here")
    assert missing.exit_code == 1 and "'not_installed_here', which may hold figures, is not inst" in missing.stderr
    (theirs / "figures" / "ratio_curve.py").write_text(FIGURE)
    twice = slim("figures", "--sweeps")
    assert twice.exit_code == 1 and "two figures are called ratio_curve" in twice.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_like_it\n", "figure theirs.figures.toy_curve cannot be imported: ModuleNotFoundError"),
        (FIGURE.replace("SWEEPS =", "READS ="), "figure theirs.figures.toy_curve does not say which"),
        (FIGURE.replace("return {", "return nothing or {"), "figure theirs.figures.toy_curve failed: NameError"),
    ],
    ids=["import", "sweeps", "draw"],
)
def test_a_broken_figure_of_another_package_takes_no_sweep_with_it(slimsweep, slim, theirs, tmp_path, text, message):
    (theirs / "figures" / "toy_curve.py").write_text(text)
    answer = slimsweep("-m", *WITH_TOY, "technique=[]", "sweep=mine")
    assert answer.status == 0, answer.err
    assert f"not all figures were drawn, `slim figures` tries again: {message}" in answer.out
    assert (tmp_path / "outputs" / "sweeps" / "mine" / ".complete").is_file()
    told = slim("figures", "toy_curve")
    assert told.exit_code == 1 and told.stderr.startswith(f"slim: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_like_it\n", "figure theirs.figures.broken cannot be imported: ModuleNotFoundError"),
        (FIGURE.replace('("mine",)', '"mine"'), "figure theirs.figures.broken does not say which"),
        (FIGURE.replace("return {", "return nothing or {"), "figure theirs.figures.broken failed: NameError"),
        (
            FIGURE.replace("return figure", "figure.savefig = None\n    return figure"),
            "figure theirs.figures.broken failed: Ty",
        ),
    ],
    ids=["import", "sweeps", "draw", "save"],
)
def test_a_broken_figure_leaves_the_others_drawn(slimsweep, slim, theirs, tmp_path, text, message):
    (theirs / "figures" / "broken.py").write_text(text)
    assert slimsweep("-m", *WITH_TOY, "technique=[],magnitude", "sweep=mine").status == 0
    folder = tmp_path / "outputs" / "figures"
    assert (folder / "toy_curve_toy_score.pdf").is_file()
    for path in folder.iterdir():
        path.unlink()
    told = slim("figures")
    assert told.exit_code == 1 and told.stderr.startswith(f"slim: {message}")
    assert "toy_curve_toy_score.pdf" in told.stdout and (folder / "toy_curve_toy_score.png").is_file()
    assert slim("figures", "toy_curve").exit_code == 0
    named = slim("figures", "broken", "toy_curve")
    assert named.exit_code == 1 and message in named.stderr and "toy_curve_toy_score.pdf" in named.stdout


def test_a_broken_folder_of_figures_leaves_ours(slim, theirs):
    (theirs / "figures" / "__init__.py").write_text("import nothing_like_it\n")
    told = slim("figures", "--sweeps", "--package", "theirs")
    assert told.exit_code == 1 and "ratio_curve: unstructured\n" in told.stdout
    assert "figure theirs.figures cannot be imported: ModuleNotFoundError" in told.stderr


def test_the_model_of_a_technique_in_a_folder_comes_back_with_that_folder(
    slimsweep, slim, theirs, tmp_path, monkeypatch
):
    from slimsweep.demo import page

    folder = tmp_path / "configs"
    (folder / "technique").mkdir(parents=True)
    (folder / "technique" / "last_columns.yaml").write_text(TECHNIQUE_CONFIG.lstrip())
    launched = slimsweep(f"--config-dir={folder}", *SMALL, "technique=last_columns", "ratio=0.25")
    assert launched.status == 0, launched.err
    (record,) = Store(tmp_path / "outputs").records()
    served = []
    monkeypatch.setattr(page, "serve", lambda *arguments: served.append(arguments))
    commands = {
        "save": (record["key"], str(tmp_path / "saved")),
        "export": (record["key"], "--to", "hf", "--output", str(tmp_path / "exported")),
        "chat": (record["key"], "--prompt", "a", "--tokens", "2"),
        "demo": (record["key"], "--no-open"),
    }
    for command, words in commands.items():
        refused = slim(command, *words)
        assert refused.exit_code == 1 and "technique=last_columns of this record is not among" in refused.stderr
        assert "give this option here too" in refused.stderr and not served
        found = slim(command, *words, "--config-dir", str(folder))
        assert found.exit_code == 0, (command, found.stderr)
    assert len(served) == 1 and (tmp_path / "saved" / "record.json").is_file()
    missing = slim("save", record["key"], str(tmp_path / "again"), "--config-dir", str(tmp_path / "none"))
    assert missing.exit_code == 2 and "does not exist" in missing.stderr
