"""Origin of a file or folder: the record of the run that made the model, from beside the weights or from metadata."""

import json
from pathlib import Path
from typing import Any

from slimsweep.errors import ExportError
from slimsweep.export.base import RECORD_KEY
from slimsweep.records.record import RECORD_FILE

SUFFIXES = (".gguf", ".onnx")
"""Files with metadata of their own, in the order in which a folder is looked through."""


def record_at(path: Path) -> dict[str, Any]:
    """The record in a folder, in a GGUF or ONNX file, or beside another file.

    A GGUF or ONNX file answers by its own metadata alone: what lies beside it may be of another model.

    Raises:
        ExportError: there is none, or it is damaged.
    """
    path = path.absolute()
    folder = path if path.is_dir() else path.parent
    files = [file for suffix in SUFFIXES for file in sorted(folder.glob(f"*{suffix}"))] if path.is_dir() else [path]
    is_alone = path.is_file() and path.suffix.lower() in SUFFIXES
    for text in [*map(_metadata, files), None if is_alone else _beside(folder)]:
        if text:
            try:
                return json.loads(text)
            except ValueError as error:
                raise ExportError(f"the record in {path} is damaged: {error}") from error
    if is_alone:
        raise ExportError(
            f"{path} holds no record: its metadata has no key {RECORD_KEY}, or the package that reads them is missing "
            f"(pip install 'slimsweep[export]'). A {RECORD_FILE} beside it is shown for the folder: slim show {folder}"
        )
    raise ExportError(
        f"{path} holds no record: neither a {RECORD_FILE} nor a GGUF or ONNX file with the key {RECORD_KEY}. Models "
        "that slimsweep saved or exported since version 0.2.0 have one."
    )


def _beside(folder: Path) -> str | None:
    file = folder / RECORD_FILE
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _metadata(file: Path) -> str | None:
    """Text under the key of records in a file's metadata; None where it has none, or cannot hold any."""
    try:
        if file.suffix.lower() == ".gguf":
            return _gguf_text(file)
        return _onnx_text(file) if file.suffix.lower() == ".onnx" else None
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ExportError(f"{file} cannot be read ({error}): it is damaged, or no {file.suffix[1:].upper()}") from error


def _gguf_text(file: Path) -> str | None:
    from gguf import GGUFReader

    field = GGUFReader(file).get_field(RECORD_KEY)
    return None if field is None else str(field.contents())


def _onnx_text(file: Path) -> str | None:
    """Metadata of a graph; its weights are not read."""
    try:
        import onnx
    except ImportError:
        return None
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(file, load_external_data=False)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    return next((one.value for one in model.metadata_props if one.key == RECORD_KEY), None)
