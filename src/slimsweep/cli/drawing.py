"""The command `slim figures`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from slimsweep.cli.formats import Shown, ShownAs, echo_json
from slimsweep.cli.outputs import Outputs, store_of
from slimsweep.cli.selecting import sweep_names
from slimsweep.errors import FigureError

Packages = Annotated[
    list[str] | None,
    typer.Option(
        envvar="SLIMSWEEP_PACKAGES",
        help="Package with a folder `figures` of its own; packages that made the records are found without it.",
    ),
]


def figures(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Figures, or single files of them; default: every one that the records of its own sweeps allow."
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(autocompletion=sweep_names, help="Read this sweep instead, into the same files; may be repeated."),
    ] = None,
    sweeps: Annotated[
        bool, typer.Option("--sweeps", help="Print which sweeps the figures read; draw nothing.")
    ] = False,
    package: Packages = None,
    format: ShownAs = Shown.text,
    outputs: Outputs = None,
) -> None:
    """Figures from records, PDF and PNG; prints their paths."""
    from slimsweep.figures import known, packages_of, refuse_broken, render, sweeps_of

    store = store_of(outputs)
    if not sweeps:
        try:
            drawn = render(store, names or [], sweep or [], packages=package or [])
        except FigureError as error:
            _echo_paths(error.drawn)
            raise
        if format == Shown.json:
            echo_json(drawn)
        else:
            _echo_paths(drawn)
        return
    packages = [*(package or []), *packages_of(store.records())]
    figures, faults = known(packages)
    if format == Shown.json:
        echo_json({name: list(sweeps_of(name, packages)) for name in names or figures})
        return
    for name in names or figures:
        read = " ".join(sweeps_of(name, packages))
        typer.echo(read if names and len(names) == 1 else f"{name}: {read}")
    refuse_broken({} if names else faults)


def _echo_paths(paths: Sequence[Path]) -> None:
    for path in paths:
        typer.echo(path)
