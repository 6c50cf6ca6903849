"""Hook of MkDocs: tables that are made from the code while the site is built, so that they cannot go stale.

A page has a comment such as `<!-- knobs: wanda -->` in the place of a table. Knobs, defaults and meanings are read from
the files of conf/, sources from docstrings, claims from records/claims.yaml. Nothing of slimsweep is imported.
"""

import ast
import inspect
import re
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import yaml

PROJECT = Path(__file__).resolve().parents[2]
CONF = PROJECT / "conf"
PLACE = re.compile(r"<!-- (\w+)(?:: ([\w/]+))? -->")
"""Comment of a page that a table replaces: its kind, and the name of what it tells."""
KNOB = re.compile(r"^(\w+): *(.*?)(?: +# (.*))?$")
"""Line of a YAML file of conf/: key, default, and meaning behind it."""


class Knob(NamedTuple):
    """One knob of a technique or metric."""

    name: str
    default: str
    meaning: str


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replace the comments of a page that name a table."""
    return PLACE.sub(lambda place: TABLES[place[1]](place[2] or "") if place[1] in TABLES else place[0], markdown)


def knobs(file: Path, is_whole: bool = True) -> list[Knob]:
    """Knobs of a YAML file of conf/, in the order of the files; those that it includes come first where it is whole."""
    lines = file.read_text(encoding="utf-8").splitlines()
    included = [line for line in lines if line.strip().startswith("- ") and line.endswith("@_here_")]
    found = {}
    for line in included if is_whole else ():
        name = line.strip(" -/").removesuffix("@_here_")
        found |= {knob.name: knob for knob in knobs(CONF / f"{name}.yaml")}
    above: list[str] = []
    for line in lines:
        if line.startswith("# "):
            above.append(line[2:])
        elif knob := KNOB.match(line):
            name, default, behind = knob.groups()
            if name not in ("_target_", "defaults"):
                found[name] = Knob(name, default, behind or " ".join(above) or found.get(name, ("", "", ""))[2])
            above = []
        elif line.strip() == "- _self_":
            above = []
    return list(found.values())


def _default(text: str) -> str:
    """A default as a reader types it; one that a profile may set names the profile's key."""
    if told := re.fullmatch(r"\$\{oc\.select:([\w.]+),(.*)\}", text):
        return f"`{told[2]}`, or `{told[1]}`"
    if told := re.fullmatch(r"\$\{(\w+)\}", text):
        return f"`{told[1]}` of the job"
    return f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def _file(name: str) -> Path:
    """File of conf/: `NAME` is a technique, `metric/NAME` a metric, `shared/NAME` a file that others include."""
    group, _, stem = name.rpartition("/")
    folder = CONF if group == "shared" else CONF / (group or "technique")
    return folder / f"{stem}.yaml"


def _knob_table(name: str, is_whole: bool = True) -> str:
    """Table of knobs, or a sentence where there are none."""
    found = knobs(_file(name), is_whole)
    if not found:
        return "It has no knobs." if is_whole else "It has no knobs of its own."
    rows = [f"| `{knob.name}` | {_default(knob.default)} | {_cell(knob.meaning)} |" for knob in found]
    return "\n".join(["| knob | default | meaning |", "|---|---|---|", *rows])


def docstring(name: str) -> str:
    """Docstring of the class that `technique/NAME` or `metric/NAME` makes."""
    target = yaml.safe_load(_file(name).read_text(encoding="utf-8"))["_target_"]
    module, _, owner = target.rpartition(".")
    tree = ast.parse((PROJECT / "src" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    (node,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == owner]
    return inspect.cleandoc(ast.get_docstring(node) or "")


def source(name: str) -> str:
    """Source of a technique, and its departures from it, as its docstring tells them; empty where it tells none."""
    found = re.search(r"Source: .*", docstring(name), re.DOTALL)
    text = " ".join(found[0].split()) if found else ""
    text = re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"(?<!/)doi:(10\.\S+?)(?=[.,]?(?:\s|$))", r"[doi:\1](https://doi.org/\1)", text)


def _source(name: str) -> str:
    """Paragraphs on the source and on the departures."""
    text, _, departures = source(name).partition("Departure")
    lines = [text.strip().replace("Source:", "**Source.**", 1)] if text else []
    if departures:
        told = departures.partition(":")[2].strip()
        lines.append(f"**Departures from it.** {told[:1].upper()}{told[1:]}")
    return "\n\n".join(lines)


def _claims(_: str) -> str:
    """Claims of the studies, a table for each."""
    claims = yaml.safe_load((PROJECT / "records" / "claims.yaml").read_text(encoding="utf-8"))
    parts = []
    for study, members in groupby(claims, key=lambda claim: claim["source"]):
        parts += [f"## {study}", "", "| claim | tested by |", "|---|---|"]
        for claim in members:
            tested = f"`make {claim['sweep']}`" if "sweep" in claim else f"not run: {claim['not_run']}"
            parts.append(f"| {_cell(claim['claim'])} | {_cell(tested)} |")
        parts.append("")
    return "\n".join(parts)


def _own(name: str) -> str:
    """Table of the knobs that others do not share."""
    return _knob_table(name, is_whole=False)


TABLES: dict[str, Callable[[str], str]] = {"knobs": _knob_table, "own": _own, "source": _source, "claims": _claims}
"""Kinds of tables that a page may name."""
