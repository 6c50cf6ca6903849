"""Figures of a paper, from records only. One file per figure; a new file here is a new figure.

A figure is a module with SWEEPS and `draw(records)`. SWEEPS names the sweeps it reads unless told otherwise. `draw`
returns Figures by file stem, none where the records measured nothing that it shows.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from slimsweep.errors import FigureError, StoreError
from slimsweep.hints import allowed_names
from slimsweep.records.store import Store


def known(packages: Iterable[str] = ()) -> dict[str, ModuleType]:
    """Every figure by name: the files of this folder, and those of the folder `figures` of other packages.

    Raises:
        FigureError: a package is not installed, its figure cannot be imported, or two figures have one name.
    """
    found: dict[str, ModuleType] = {}
    for place in dict.fromkeys([__name__, *(f"{package.split('.')[0]}.figures" for package in packages)]):
        for name, module in _figures_in(place).items():
            if name in found:
                raise FigureError(f"two figures are called {name}: {found[name].__file__} and {module.__file__}")
            found[name] = module
    return found


def _figures_in(place: str) -> dict[str, ModuleType]:
    """Figures among the modules of a package; none where it has no such folder."""
    owner = place.partition(".")[0]
    if importlib.util.find_spec(owner) is None:
        raise FigureError(
            f"package {owner!r}, which may hold figures, is not installed here: install it, or leave it out"
        )
    if importlib.util.find_spec(place) is None:
        return {}
    folder = importlib.import_module(place)
    names = [f"{place}.{info.name}" for info in pkgutil.iter_modules(folder.__path__)]
    modules = {name.rpartition(".")[2]: _imported(name) for name in names}
    figures = {name: module for name, module in modules.items() if hasattr(module, "draw")}
    for name, module in figures.items():
        if not hasattr(module, "SWEEPS"):
            raise FigureError(f"figure {place}.{name} does not say which sweeps it reads: give it SWEEPS = (NAME, ...)")
    return figures


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever importing somebody's module raises
        raise FigureError(f"figure {name} cannot be imported: {type(error).__name__}: {error}") from error


def _drawn(module: ModuleType, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of one module by file stem.

    Raises:
        FigureError: a figure of another package fails; ours are tested, and raise what they raise.
    """
    try:
        return module.draw(records)
    except Exception as error:
        if module.__name__.startswith(f"{__name__}."):
            raise
        raise FigureError(f"figure {module.__name__} failed: {type(error).__name__}: {error}") from error


def packages_of(records: Iterable[dict[str, Any]]) -> list[str]:
    """Packages with configs that records were made with and that are installed here; they may hold figures too."""
    named = (package for record in records for package in (record.get("choices") or {}).get("packages") or [])
    owners = dict.fromkeys(package.split(".")[0] for package in named)
    return [owner for owner in owners if importlib.util.find_spec(owner) is not None]


def sweeps_of(name: str, packages: Sequence[str] = ()) -> tuple[str, ...]:
    """Sweeps that a figure, or a single file of one, reads.

    Raises:
        StoreError: there is no such figure.
    """
    figures = known(packages)
    return tuple(figures[_owner(name, figures)].SWEEPS)


def render(
    store: Store,
    names: Sequence[str] = (),
    sweeps: Sequence[str] = (),
    folder: Path | None = None,
    packages: Sequence[str] = (),
) -> list[Path]:
    """Draw figures as PDF and PNG; returns the paths written.

    Args:
        names: figures (`ratio_curve`) or single files of one (`ratio_curve_wikitext2`); none means all that
            the records allow.
        sweeps: whose records to read instead of each figure's own SWEEPS.
        folder: where to write; None means outputs/figures.
        packages: packages with figures beside ours and beside those of the records' configs.

    Raises:
        StoreError: an unknown name or sweep, or no records for what was asked.
    """
    from slimsweep.figures.style import paper_style, save

    figures = known([*packages, *packages_of(store.records())])
    chosen = {name: _owner(name, figures) for name in names} or {name: name for name in figures}
    written: list[Path] = []
    with paper_style():
        for name, owner in chosen.items():
            read = sweeps or figures[owner].SWEEPS
            drawn = _drawn(figures[owner], _records(store, read, required=bool(sweeps)))
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
