"""The command `slim export`: the model of a record in a format of the export room."""

from pathlib import Path
from typing import Annotated

import typer

from slimsweep.paths import outputs_dir, project_path
from slimsweep.records.store import Store


def _format_names(incomplete: str) -> list[str]:
    from slimsweep.export.formats import formats

    return [name for name in formats() if name.startswith(incomplete)]


def export(
    key: Annotated[str, typer.Argument(help="Key of a record, or its beginning.")],
    options: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE: options of the format, such as int8=true for onnx.")
    ] = None,
    to: Annotated[str, typer.Option("--to", autocompletion=_format_names, help="Format of the files.")] = "hf",
    output: Annotated[Path, typer.Option(help="Where the files go; a new or empty folder.")] = Path("exported"),
    data_dir: Annotated[Path | None, typer.Option(envvar="SLIMSWEEP_DATA", help="Local copies of corpora.")] = None,
    outputs: Annotated[Path | None, typer.Option(help="Output folder with the record.")] = None,
) -> None:
    """The model of a record in a format of another program, verified in a new process; prints the folder last."""
    store = Store(project_path(outputs) if outputs else outputs_dir())
    for line in exported(store, key, (to, options or []), output, project_path(data_dir) if data_dir else None):
        typer.echo(line)
    typer.echo(output)


def exported(store: Store, prefix: str, to: tuple[str, list[str]], folder: Path, data_dir: Path | None) -> list[str]:
    """Export the model of a record; returns lines that tell what was verified.

    Args:
        to: the format's word, and its options as KEY=VALUE.

    Raises:
        ExportError: an unknown format or option, a full folder, a model that the format cannot express, failed checks.
        StoreError: no such record, or its model cannot be made again.
    """
    from slimsweep.cli.console import quiet_other_libraries

    quiet_other_libraries()
    from slimsweep.export.formats import format_of, refuse
    from slimsweep.export.writing import export as write_and_verify
    from slimsweep.export.writing import refuse_folder
    from slimsweep.pipeline.rebuild import Rebuild

    format = format_of(*to)
    refuse_folder(folder)
    rebuild = Rebuild(store, store.find(prefix), data_dir)
    refuse(format, rebuild.skeleton())
    return write_and_verify(format, rebuild.model(), rebuild.record, rebuild.calibration, folder)
