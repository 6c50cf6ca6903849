"""The command `slim report`: one file on the records of sweeps, as an HTML page or as Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from slimsweep.atomic import whole_file
from slimsweep.cli.outputs import Outputs, store_of
from slimsweep.errors import StoreError
from slimsweep.records.store import Store


def report(
    sweeps: Annotated[list[str] | None, typer.Argument(help="Names of sweeps; default: every record.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The file; default: `reports/SWEEPS.html` in the output folder.")
    ] = None,
    format: Annotated[
        Literal["html", "md"] | None,
        typer.Option(help="html: one interactive page; md: for an issue. Default: as named."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file, if it is there.")] = False,
    figures: Annotated[bool, typer.Option(help="Draw the figures that the records allow.")] = True,
    outputs: Outputs = None,
) -> None:
    """One self-contained file on sweeps: charts, table, jobs, layers, protocols, warnings, figures."""
    store = store_of(outputs)
    kind = format or ("md" if output and output.suffix == ".md" else "html")
    path = output or store.outputs_dir / "reports" / f"{'_'.join(sweeps or ['all'])}.{kind}"
    write(store, sweeps or [], path, kind, (overwrite, figures))
    typer.echo(path)


def write(store: Store, sweeps: Sequence[str], path: Path, kind: str, flags: tuple[bool, bool]) -> None:
    """Write a report; `flags` are whether a file may be replaced, and whether figures are drawn.

    The figures of a Markdown file lie beside it, in a folder of its name.

    Raises:
        StoreError: the file or the folder of its figures is there, there is no record, or nothing can be written.
    """
    from slimsweep.reports.report import gather

    overwrite, with_figures = flags
    folder = path.with_name(f"{path.stem}_figures")
    beside = [folder] if kind == "md" and with_figures else []
    if taken := [one for one in (path, *beside) if one.exists() and not overwrite]:
        raise StoreError(f"{taken[0]} is there already: give another --output, or --overwrite")
    if path.is_dir():
        raise StoreError(f"--output {path} is a folder: give the name of a file, such as {path / 'report.html'}")
    content = gather(store, sweeps, with_figures)
    if kind == "html":
        from slimsweep.reports.report_page import page

        files = {path: page(content).encode()}
    else:
        from slimsweep.reports.report_markdown import text

        pngs = {folder / f"{name}.png": png for name, png in content.figures.items()}
        addresses = {file.stem: f"{folder.name}/{file.name}".replace(" ", "%20") for file in pngs}
        files = pngs | {path: text(content, addresses).encode()}
    try:
        for file, data in files.items():
            with whole_file(file) as partial:
                partial.write_bytes(data)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}. Give another --output") from error
