"""Options on folders that several commands have, and what they name."""

from pathlib import Path
from typing import Annotated

import typer

from slimsweep.paths import OwnFolders, outputs_dir, project_path
from slimsweep.records.store import Store

Outputs = Annotated[
    Path | None,
    typer.Option(help="Output folder; default: environment SLIMSWEEP_OUTPUTS, else `outputs` of the project."),
]
DataDir = Annotated[Path | None, typer.Option(envvar="SLIMSWEEP_DATA", help="Local copies of corpora.")]
ConfigDir = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Folder of configs that the jobs were launched with."),
]
"""A relative one counts from the working directory, as that of `slimsweep --config-dir` does."""


def outputs_folder(outputs: Path | None) -> Path:
    """The output folder as given; a relative one counts from the project."""
    return project_path(outputs) if outputs else outputs_dir()


def store_of(outputs: Path | None) -> Store:
    """The store of an output folder."""
    return Store(outputs_folder(outputs))


def own_folders(data_dir: Path | None, config_dir: Path | None) -> OwnFolders:
    """The folders of `--data-dir` and `--config-dir`; a relative data folder counts from the project."""
    return OwnFolders(project_path(data_dir) if data_dir else None, config_dir)
