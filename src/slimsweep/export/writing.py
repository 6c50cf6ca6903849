"""Steps of one export: refuse, write, add the record, verify in a new process, give the folder its name."""

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slimsweep.errors import ExportError, ModelError
from slimsweep.export.base import Content, Format
from slimsweep.export.checking import verified
from slimsweep.export.formats import refuse
from slimsweep.export.model_card import licence_of
from slimsweep.export.sample import sample_of
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.storage.saved_model import refuse_unless_empty, written_whole
from slimsweep.records.portable import portable
from slimsweep.records.record import RECORD_FILE


def refuse_folder(folder: Path) -> None:
    """Raise ExportError where an export would be written over something."""
    try:
        refuse_unless_empty(folder)
    except ModelError as error:
        raise ExportError(f"--output {error}") from error


def export(
    format: Format, model: LanguageModel, record: dict[str, Any], calibration: Callable[[], Batch], folder: Path
) -> list[str]:
    """Write a model in a format into a new or empty folder; returns lines that tell what was verified.

    The folder appears whole or not at all.

    Raises:
        ExportError: the folder is not empty, the format cannot express the model, or the files fail their check.
    """
    refuse_folder(folder)
    refuse(format, model)
    record = with_export(record, format)
    sample = sample_of(model)
    with written_whole(folder) as partial:
        format.write(Content(model=model, record=record, calibration=calibration), partial)
        (partial / RECORD_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")
        return verified(format, partial, sample)


def with_export(record: dict[str, Any], format: Format) -> dict[str, Any]:
    """A record without this machine's folders, with an entry `export`: format, options, time, licence of the base."""
    made = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"format": format.name, "options": dataclasses.asdict(format), "created": made}
    # The licence is read now: without its folder the base is not found again.
    return portable(record) | {"export": entry | {"licence": licence_of(record["config"]["model"])}}
