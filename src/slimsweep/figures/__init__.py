"""Figures of a paper, from records only. One file per figure; a new file here is a new figure.

A figure is a module with SWEEPS and `draw(records)`. SWEEPS names the sweeps it reads unless told otherwise. `draw`
returns Figures by file stem, none where the records measured nothing that it shows.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from slimsweep.errors import StoreError
from slimsweep.hints import allowed_names
from slimsweep.records.store import Store


def known() -> dict[str, ModuleType]:
    """Every figure by name, found by looking through this package."""
    modules = {info.name: importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)}
    return {name: module for name, module in modules.items() if hasattr(module, "draw")}


def render(
    store: Store, names: Sequence[str] = (), sweeps: Sequence[str] = (), folder: Path | None = None
) -> list[Path]:
    """Draw figures as PDF and PNG; returns the paths written.

    Args:
        names: figures (`ratio_curve`) or single files of one (`ratio_curve_wikitext2`); none means all that
            the records allow.
        sweeps: whose records to read instead of each figure's own SWEEPS.
        folder: where to write; None means outputs/figures.

    Raises:
        StoreError: an unknown name or sweep, or no records for what was asked.
    """
    from slimsweep.figures.style import paper_style, save

    figures = known()
    chosen = {name: _owner(name, figures) for name in names} or {name: name for name in figures}
    written: list[Path] = []
    with paper_style():
        for name, owner in chosen.items():
            read = sweeps or figures[owner].SWEEPS
            drawn = figures[owner].draw(_records(store, read, required=bool(sweeps)))
            wanted = {stem: figure for stem, figure in drawn.items() if name in (owner, stem)}
            if names and not wanted:
                raise StoreError(_nothing(name, list(drawn), read, store))
            for stem, figure in wanted.items():
                written += save(figure, folder or store.outputs_dir / "figures", stem)
    if not written:
        read = sweeps or list(dict.fromkeys(sweep for module in figures.values() for sweep in module.SWEEPS))
        raise StoreError(_nothing("any figure", [], read, store))
    return written


def _owner(name: str, figures: dict[str, ModuleType]) -> str:
    """The figure a name belongs to: its own, or the longest one it begins with."""
    owners = [owner for owner in figures if name == owner or name.startswith(f"{owner}_")]
    if owners:
        return max(owners, key=len)
    raise StoreError(f"there is no figure {name!r}. {allowed_names(name, figures, 'Figures')}")


def _records(store: Store, sweeps: Sequence[str], required: bool) -> list[dict[str, Any]]:
    """Records of several sweeps, each once; sweeps that were never launched are left out unless required."""
    launched = set(store.sweep_names())
    names = [name for name in sweeps if required or name in launched]
    return list({record["key"]: record for name in names for record in store.sweep_records(name)}.values())


def _nothing(name: str, stems: list[str], sweeps: Sequence[str], store: Store) -> str:
    if stems:
        return f"the records of {', '.join(sweeps)} give no {name!r}, but: {', '.join(stems)}"
    launched = ", ".join(store.sweep_names()) or "none"
    return (
        f"no record of {', '.join(sweeps)} measured what {name} shows. Run: slimsweep +sweeps={sweeps[0]}, "
        f"or name another sweep with --sweep (launched here: {launched})."
    )
