"""Model card: what was done to a model, its sizes and scores, how it is loaded, and the licence of its base."""

import re
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from slimsweep.paths import project_path
from slimsweep.records.portable import portable
from slimsweep.records.quantities import in_group

CARD = "README.md"
SIZES = ("parameters", "nonzero_parameters", "sparsity", "weight_bytes", "bits_per_weight", "compression_factor")
PACKAGES = ("slimsweep", "torch", "transformers")
SHORT_ID = r"[A-Za-z0-9][\w.+-]{0,39}"
"""Licence as one word, such as `apache-2.0`; packages may hold a whole text in its place."""
UNKNOWN = "not stated by the weights that were read; look it up before you publish this model"


def model_card(record: dict[str, Any], loading: str) -> str:
    """README.md of an exported model.

    Args:
        loading: lines of Python that load it.
    """
    licence = record["export"]["licence"] if "export" in record else licence_of(record["config"]["model"])
    record = portable(record)
    model = record["config"]["model"]
    base = base_of(model, record["model"])
    head = {"library_name": "transformers", "tags": ["slimsweep", *record["technique"].split("+")]}
    head |= {"base_model": model["id"]} if model.get("id") else {}
    head |= {"license": licence.lower()} if licence else {}  # the hub knows them in lower case
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
        f"# {record['model']}, {record['technique']}\n",
        f"A compressed copy of {base}, made by slimsweep. `record.json` holds everything that was measured.\n",
        _steps(record),
        _sizes(record),
        _scores(record),
        f"## Loading\n\n```python\n{loading}\n```\n",
        f"## Licence\n\nThe licence of the base model holds for this copy too. Licence of the base: "
        f"{licence or UNKNOWN}.\n",
    ]
    return "\n".join(part for part in parts if part)


def base_of(model: dict[str, Any], name: str) -> str:
    """The base model in words: its hub id with revision, its package, or its name."""
    if model.get("id"):
        return f"`{model['id']}`" + (f" at revision `{model['revision']}`" if model.get("revision") else "")
    return f"`{name}` from the Python package `{model['package']}`" if model.get("package") else f"`{name}`"


def licence_of(model: dict[str, Any]) -> str | None:
    """Licence that the base states: as one word beside its weights or by its Python package; None: neither."""
    if model.get("package"):
        stated = _package_licence(model["package"])
    else:
        card = _card_beside(model)
        found = re.search(r"^license:[ \t]*(\S+)", card.read_text(encoding="utf-8"), re.MULTILINE) if card else None
        stated = found[1].strip("'\"") if found else None
    return stated if stated and re.fullmatch(SHORT_ID, stated) else None


def _card_beside(model: dict[str, Any]) -> Path | None:
    """README.md of the base, where it is on this disk."""
    if model.get("path"):
        folder = project_path(model["path"])
        folder = folder if folder.is_dir() else folder.parent
        return folder / "README.md" if (folder / "README.md").is_file() else None
    if model.get("id"):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model["id"], "README.md", revision=model.get("revision"))
        return Path(cached) if isinstance(cached, str) else None
    return None


def _package_licence(package: str) -> str | None:
    """Licence in the metadata of the package that carries the weights."""
    try:
        found = metadata.metadata(package.partition(".")[0])
    except metadata.PackageNotFoundError:
        return None
    return found.get("License-Expression") or found.get("License") or None


def _steps(record: dict[str, Any]) -> str:
    """Section with one line a stage: technique, settings, achieved sparsity."""
    lines = ["## What was done\n"]
    for number, stage in enumerate(record["stages"], 1):
        knobs = ", ".join(f"{name}={_text(value)}" for name, value in stage["fields"].items())
        zeros = f" Exact zeros in its layers: {stage['sparsity']:.1%}." if stage.get("sparsity") else ""
        lines.append(f"{number}. `{stage['technique']}` with {knobs or 'no settings'}.{zeros}")
    if not record["stages"]:
        lines.append("Nothing: this is the dense model.")
    seed = "" if record["seed"] is None else f" Seed {record['seed']}."
    versions = ", ".join(f"{name} {(record.get('versions') or {}).get(name)}" for name in PACKAGES)
    lines.append(f"\nRecord `{record['key'][:16]}`, dtype {record['dtype']}, {versions}.{seed}\n")
    return "\n".join(lines)


def _sizes(record: dict[str, Any]) -> str:
    """Table of the achieved sizes, in base units."""
    known = {name: record[name] for name in SIZES if record.get(name) is not None}
    rows = [f"| {name.replace('_', ' ')} | {_number(value)} |" for name, value in known.items()]
    return "\n".join(["## Achieved sizes\n", "| quantity | value |", "|---|---:|", *rows]) + "\n" if rows else ""


def _number(value: int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _scores(record: dict[str, Any]) -> str:
    """Table of the qualities, each with the protocol it was measured by."""
    rows = [
        f"| {one.title} | {one.text(record[one.field])} | `{record['protocols'].get(one.field, 'none')}` |"
        for one in in_group([record], "quality")
        if record.get(one.field) is not None
    ]
    if not rows:
        return "## Scores\n\nNo quality was measured.\n"
    head = ["## Scores\n", "| score | value | protocol |", "|---|---:|---|"]
    return "\n".join([*head, *rows]) + "\n"


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
