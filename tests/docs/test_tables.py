"""Tables of the site come from the code, and no technique, metric or figure is left out."""

import ast
import pkgutil
import re

import pytest
from conftest import PROJECT
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from site_pages import hook

import slimsweep.cli.app  # registers the resolvers of conf/config.yaml
import slimsweep.figures

assert slimsweep.cli.app

tables = hook("tables")
DOCS = PROJECT / "docs"
TECHNIQUES = sorted(path.stem for path in (PROJECT / "conf" / "technique").glob("*.yaml"))
METRICS = sorted(path.stem for path in (PROJECT / "conf" / "metric").glob("*.yaml"))
FIGURES = sorted(
    info.name
    for info in pkgutil.iter_modules(slimsweep.figures.__path__)
    if "\ndef draw(" in (PROJECT / "src" / "slimsweep" / "figures" / f"{info.name}.py").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_technique_has_a_page_in_the_overview_and_in_the_navigation(name):
    text = (DOCS / "techniques" / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    assert f"<!-- knobs: {name} -->" in text and f"<!-- source: {name} -->" in text
    assert f"({name}.md)" in (DOCS / "techniques" / "README.md").read_text(encoding="utf-8")
    assert f"techniques/{name}.md" in (PROJECT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "$$" in text or "The mathematics is that of" in text or "| loss | term |" in text
    assert "Source" in tables.source(name) or "**Source.**" in text


def test_no_page_is_of_a_technique_that_is_gone():
    assert sorted(path.stem for path in (DOCS / "techniques").glob("*.md") if path.stem != "README") == TECHNIQUES


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_told(name):
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert f"\n## {name}\n" in text and f"[`{name}`](#{name})" in text
    assert re.search(rf"<!-- (knobs|own): metric/{name} -->", text)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_in_the_gallery(name):
    assert f"`{name}`" in (DOCS / "gallery.md").read_text(encoding="utf-8")


def test_pictures_of_the_gallery_are_small():
    pictures = list((DOCS / "gallery").glob("*.png"))
    assert pictures and max(path.stat().st_size for path in pictures) < 150_000
    assert sum(path.stat().st_size for path in pictures) < 2_000_000


@pytest.fixture
def conf():
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3", job_name="test"):
        yield
    GlobalHydra.instance().clear()


@pytest.mark.parametrize("name", TECHNIQUES)
def test_knobs_are_those_that_a_job_gets(name, conf):
    config = compose("config", [f"technique={name}"]).technique[name]
    knobs = tables.knobs(PROJECT / "conf" / "technique" / f"{name}.yaml")
    assert {knob.name for knob in knobs} == set(config) - {"_target_"}
    for knob in knobs:
        assert OmegaConf.create(f"{knob.name}: {knob.default}")._get_node(knob.name) == config._get_node(knob.name)
    assert all(f"| `{knob.name}` |" in tables._knob_table(name) for knob in knobs)


def test_meanings_stand_behind_a_knob_or_above_it():
    (block,) = [knob for knob in tables.knobs(PROJECT / "conf/technique/gptq.yaml") if knob.name == "block_columns"]
    assert block.default == "128" and block.meaning.startswith("columns after which")
    (limit,) = [knob for knob in tables.knobs(PROJECT / "conf/metric/accuracy.yaml") if knob.name == "task_limit"]
    assert limit.meaning == "questions of each task; null asks all"
    assert tables._default(limit.default) == "`null`, or `evaluation.task_limit`"


def test_every_claim_is_shown():
    shown = tables.on_page_markdown("<!-- claims -->", None, None, None)
    claims = OmegaConf.load(PROJECT / "records" / "claims.yaml")
    assert all(tables._cell(claim.claim) in shown for claim in claims)
    assert shown.count("\n## ") + shown.startswith("## ") == len({claim.source for claim in claims}) == 5


def test_a_comment_that_names_no_table_stays():
    assert tables.on_page_markdown("<!-- matrix -->", None, None, None) == "<!-- matrix -->"


def test_hooks_import_nothing_of_the_package():
    for path in (DOCS / "hooks").glob("*.py"):
        names = [
            ast.unparse(node)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert not [name for name in names if "slimsweep" in name or "torch" in name]
