"""The command `slim export`: the model of a record in a format of the export room."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from slimsweep.cli.outputs import ConfigDir, DataDir, Outputs, own_folders, store_of
from slimsweep.errors import ExportError, StoreError
from slimsweep.paths import OwnFolders, config_root
from slimsweep.records.exported import exports
from slimsweep.records.store import Store
from slimsweep.records.table import SHOWN_KEY

PAIRS = (("sparsegpt", "eora"), ("wanda", "rtn"), ("llm_pruner", "dynamic_int8"), ("glu", "nf4"))
"""Chains of two stages in the matrix; `eora` repairs what an earlier stage lost and cannot stand alone."""


def _format_names(incomplete: str) -> list[str]:
    from slimsweep.export.formats import formats

    return [name for name in formats() if name.startswith(incomplete)]


def export(
    key: Annotated[str | None, typer.Argument(help="Key of a record, or its beginning.")] = None,
    options: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE: options of the format, such as int8=true for onnx.")
    ] = None,
    to: Annotated[str, typer.Option("--to", autocompletion=_format_names, help="Format of the files.")] = "hf",
    output: Annotated[Path | None, typer.Option(help="Where the files go; a new or empty folder.")] = None,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Print which formats express each technique on each family instead.")
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure the record's qualities again on the files, so that `slim recommend` can choose them. "
            "Without --output no file is kept.",
        ),
    ] = False,
    data_dir: DataDir = None,
    config_dir: ConfigDir = None,
    outputs: Outputs = None,
) -> None:
    """The model of a record in a format of another program, verified in a new process. Prints the folder last."""
    store = store_of(outputs)
    if matrix:
        typer.echo(matrix_text(store.outputs_dir / "cache"))
        return
    if key is None or (output is None and not measure):
        raise ExportError(
            "give the key of a record and a folder: slim export KEY --to FORMAT --output FOLDER "
            "(`slim table` lists keys, `slim export --matrix` formats)"
        )
    folders = own_folders(data_dir, config_dir)
    with nullcontext(output) if output else TemporaryDirectory(prefix="slimsweep-export-") as place:
        for line in exported(store, key, (to, options or []), Path(place), folders, measure):
            typer.echo(line)
    typer.echo(output or "no file was kept: give --output FOLDER to keep them")


def shown(store: Store, place: str) -> dict[str, Any]:
    """The record, or that of exported files, whose key starts with `place`; else that of the model at this path.

    Raises:
        ExportError: a folder or file without a record.
        StoreError: no such record and no such path.
    """
    try:
        return store.find(place)
    except StoreError:
        for record in store.records():
            for one in exports(store, record):
                if len(place) >= SHOWN_KEY and one["key"].startswith(place):
                    return one
        if not Path(place).exists():
            raise
    from slimsweep.export.origin import record_at

    return record_at(Path(place))


def exported(
    store: Store, prefix: str, to: tuple[str, list[str]], folder: Path, folders: OwnFolders, measure: bool = False
) -> Iterator[str]:
    """Export the model of a record; gives lines that tell what was verified, and measured, as soon as it was.

    Args:
        to: the format's word, and its options as KEY=VALUE.
        measure: measure the record's qualities again on the files.

    Raises:
        ExportError: an unknown format or option, a full folder, a model that the format cannot express, failed checks.
        StoreError: no such record, or its model cannot be made again.
    """
    from slimsweep.cli.console import quiet_other_libraries

    quiet_other_libraries()
    from slimsweep.export.formats import format_of, refuse
    from slimsweep.export.writing import export as write_and_verify
    from slimsweep.export.writing import refuse_folder
    from slimsweep.pipeline.file_scores import asked_of_files, comparison, score
    from slimsweep.pipeline.rebuild import Rebuild
    from slimsweep.records.table import markdown

    format = format_of(*to)
    refuse_folder(folder)
    rebuild = Rebuild(store, store.find(prefix), folders)
    refuse(format, rebuild.skeleton())
    if format.reads_calibration:  # a record that cannot give it is refused before weights load
        rebuild.calibration()
    if measure:
        asked_of_files(rebuild)  # a record without any is refused before weights load
    model = rebuild.model()
    yield from write_and_verify(format, model, rebuild.record, rebuild.calibration, folder)
    if measure:
        files, notes = score(rebuild, format, folder, model)
        yield from [*notes, "", markdown(comparison(rebuild.record, files)), ""]
        yield "`slim recommend` now counts these files as one more experiment."


def matrix_text(cache_dir: Path) -> str:
    """The matrix technique x family x format as Markdown."""
    from slimsweep.export.matrix import markdown, matrix

    return markdown(matrix(chains(techniques()), str(cache_dir)))


def chains(known: dict[str, Any]) -> dict[str, list[Any]]:
    """Chains of the matrix: each technique alone, those with a pattern at 2:4 too, and a few of two stages.

    Args:
        known: techniques by name, as `techniques` returns them.
    """
    found = {name: [technique] for name, technique in known.items() if name != "eora"}
    found |= {
        f"{name} 2:4": [replace(technique, pattern="2:4", ratio=0.5)]
        for name, technique in known.items()
        if hasattr(technique, "pattern")
    }
    return found | {f"{first}+{second}": [known[first], known[second]] for first, second in PAIRS}


def techniques() -> dict[str, Any]:
    """Every technique of conf/technique with the settings of its YAML and a ratio of 0.3, by name."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    import slimsweep.cli.app  # noqa: F401  registers what conf/config.yaml asks for
    from slimsweep.pipeline.experiment import Experiment

    folder, found = config_root() / "conf", {}
    with initialize_config_dir(str(folder), version_base="1.3", job_name="matrix"):
        for file in sorted((folder / "technique").glob("*.yaml")):
            words = [f"technique={file.stem}", "ratio=0.3", "cache_dir=."]
            (stage,) = Experiment.of(compose("config", words), words).stages
            found[file.stem] = stage.technique
    GlobalHydra.instance().clear()
    return found
