"""Option `--outputs` of the commands that read records, and the folder or store that it names."""

from pathlib import Path
from typing import Annotated

import typer

from slimsweep.paths import outputs_dir, project_path
from slimsweep.records.store import Store

Outputs = Annotated[
    Path | None,
    typer.Option(help="Output folder; default: environment SLIMSWEEP_OUTPUTS, else `outputs` of the project."),
]


def outputs_folder(outputs: Path | None) -> Path:
    """The output folder as given; a relative one counts from the project."""
    return project_path(outputs) if outputs else outputs_dir()


def store_of(outputs: Path | None) -> Store:
    """The store of an output folder."""
    return Store(outputs_folder(outputs))
