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


def known(packages: Iterable[str] = ()) -> tuple[dict[str, ModuleType], dict[str, str]]:
    """Figures by name, and the reasons why others cannot be drawn, by name.

    Figures are the files of this folder, and those of the folder `figures` of other packages. One that is broken takes
    no other with it.

    Raises:
        FigureError: a package is not installed.
    """
    figures: dict[str, ModuleType] = {}
    faults: dict[str, str] = {}
    for place in dict.fromkeys([__name__, *(f"{package.split('.')[0]}.figures" for package in packages)]):
        for path in _modules_in(place, faults):
            name, module = path.rpartition(".")[2], _imported(path, faults)
            if not hasattr(module, "draw"):
                continue
            if name in figures:
                faults[name] = f"two figures are called {name}: {figures[name].__file__} and {module.__file__}"
            elif not isinstance(getattr(module, "SWEEPS", None), tuple):
                faults[name] = f"figure {path} does not say which sweeps it reads: give it SWEEPS = (NAME, ...)"
            else:
                figures[name] = module
    return figures, faults


def _modules_in(place: str, faults: dict[str, str]) -> list[str]:
    """Dotted names of the modules of a folder of figures; none where its package has no such folder."""
    owner = place.partition(".")[0]
    if importlib.util.find_spec(owner) is None:
        raise FigureError(
            f"package {owner!r}, which may hold figures, is not installed here: install it, or leave it out"
        )
    is_there = _imported(owner, faults) is not None and importlib.util.find_spec(place) is not None
    folder = _imported(place, faults) if is_there else None
    return [f"{place}.{info.name}" for info in pkgutil.iter_modules(folder.__path__)] if folder else []


def _imported(path: str, faults: dict[str, str]) -> ModuleType | None:
    """A module; None where it cannot be imported, which is then among the faults."""
    try:
        return importlib.import_module(path)
    except Exception as error:  # whatever importing somebody's module raises
        if path.startswith(f"{__name__}."):
            raise
        faults[path.rpartition(".")[2]] = f"figure {path} cannot be imported: {type(error).__name__}: {error}"
        return None


def packages_of(records: Iterable[dict[str, Any]]) -> list[str]:
    """Packages with configs that records were made with and that are installed here; they may hold figures too."""
    named = (package for record in records for package in (record.get("choices") or {}).get("packages") or [])
    owners = dict.fromkeys(package.split(".")[0] for package in named)
    return [owner for owner in owners if importlib.util.find_spec(owner) is not None]


def sweeps_of(name: str, packages: Sequence[str] = ()) -> tuple[str, ...]:
    """Sweeps that a figure, or a single file of one, reads.

    Raises:
        StoreError: there is no such figure.
        FigureError: it is broken.
    """
    figures, faults = known(packages)
    owner = _owner(name, [*figures, *faults])
    refuse_broken({owner: faults[owner]} if owner in faults else {})
    return figures[owner].SWEEPS


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
        FigureError: figures of other packages are broken. The others are drawn before it is raised, and it has their
            paths.
    """
    from slimsweep.figures.style import paper_style

    figures, faults = known([*packages, *packages_of(store.records())])
    chosen = {name: _owner(name, [*figures, *faults]) for name in names} or {name: name for name in figures}
    broken = {owner: faults[owner] for owner in chosen.values() if owner in faults} if names else faults
    written: list[Path] = []
    with paper_style():
        for name, owner in chosen.items():
            if names and owner in broken:
                continue
            read = sweeps or figures[owner].SWEEPS
            records = _records(store, read, required=bool(sweeps))
            try:
                paths, stems = _written(figures[owner], name, records, folder or store.outputs_dir / "figures")
            except Exception as error:  # whatever somebody's figure raises; ours are tested, and raise what they raise
                if figures[owner].__name__ == f"{__name__}.{owner}":
                    raise
                broken[owner] = f"figure {figures[owner].__name__} failed: {type(error).__name__}: {error}"
                continue
            if names and not paths:
                raise StoreError(_nothing(name, stems, read, store))
            written += paths
    refuse_broken(broken, written)
    if not written:
        read = sweeps or list(dict.fromkeys(sweep for module in figures.values() for sweep in module.SWEEPS))
        raise StoreError(_nothing("any figure", [], read, store))
    return written


def refuse_broken(faults: dict[str, str], drawn: Sequence[Path] = ()) -> None:
    """Raise a FigureError that names every broken figure; nothing where there is none."""
    if faults:
        raise FigureError("; ".join(faults.values()), drawn)


def _written(module: ModuleType, name: str, records: list[dict], folder: Path) -> tuple[list[Path], list[str]]:
    """Paths of the files of a figure, or of the one called `name`; and the stems of all that it draws."""
    from slimsweep.figures.style import save

    drawn: dict[str, Any] = module.draw(records)
    wanted = {stem: figure for stem, figure in drawn.items() if name in (module.__name__.rpartition(".")[2], stem)}
    return [path for stem, figure in wanted.items() for path in save(figure, folder, stem)], list(drawn)


def _owner(name: str, figures: Sequence[str]) -> str:
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
