"""Measure the qualities of a record again, on exported files: what rounding to another format costs."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slimsweep.errors import ExportError, StoreError
from slimsweep.evaluation.base import Measurement
from slimsweep.evaluation.quantity import as_plain
from slimsweep.evaluation.size import Size
from slimsweep.export.base import Format, weight_files
from slimsweep.models.language_model import LanguageModel
from slimsweep.pipeline.experiment import Asked
from slimsweep.pipeline.keys import digest_of
from slimsweep.pipeline.rebuild import Rebuild
from slimsweep.pipeline.run import measure_alone
from slimsweep.records.exported import ORIGIN, exports_store
from slimsweep.records.quantities import in_group
from slimsweep.records.record import measurement
from slimsweep.records.table import Table
from slimsweep.reports.noise import digits

FROM_SHAPES = ("parameters", "gmacs")
"""Fields of the record that hold for the files too."""
ROUNDED = "the files store the weights in another form"


def asked_of_files(rebuild: Rebuild) -> dict[str, Asked]:
    """The measurements of quality that a record has and that can be made again, by identity; needs no weights.

    Raises:
        StoreError: there is none.
    """
    kept = rebuild.store.measured(rebuild.record["key"])
    found = {
        identity: one
        for identity, one in rebuild.experiment.asked.items()
        if identity in kept and one.metric.depends_on_values and _has_quality(one.metric)
    }
    if not found:
        raise StoreError(
            f"record {rebuild.record['key'][:8]} measured no quality that --measure could compare with. "
            "Run the experiment with evaluation=quick, or: slim amend SWEEP +metric=perplexity"
        )
    return found


def score(rebuild: Rebuild, format: Format, folder: Path, model: LanguageModel) -> tuple[dict[str, Any], list[str]]:
    """Measure exported files by the protocols of their record, and keep the result below it.

    Args:
        model: the model that was written; it may be changed.

    Returns the record of the files, and a line for each measurement that could not be made.

    Raises:
        StoreError: the record has no quality that could be measured.
    """
    asked, record = asked_of_files(rebuild), rebuild.record
    own, fields = exports_store(rebuild.store, record["key"]), described(rebuild, format)
    done, notes = [sizes(record, format, folder)], []
    read = format.read(folder, model)
    for identity, one in asked.items():
        try:
            done.append(measure_alone(rebuild.experiment, read, identity, one))
        except ExportError as error:
            notes.append(f"not measured: {one.name}: {error}")
    with own.claim(fields["key"]):
        own.begin(fields, [])
        for one in done:
            own.keep(fields["key"], one)
        return own.finish(fields["key"], [one["identity"] for one in done]), notes


def described(rebuild: Rebuild, format: Format) -> dict[str, Any]:
    """Fields of the record of files that are no measurement: those of the model, and the format as one more stage."""
    record, options = rebuild.record, dataclasses.asdict(format)
    model = rebuild.store.model(record["key"]) or record
    stage = {"technique": format.name, "name": format.name, "fields": options, "seconds": 0.0, "notes": {}}
    words = words_of(format)
    chain = [record["technique"]] if record["stages"] else []
    return model | {
        "key": digest_of({"record": record["key"], "format": format.name, "options": options}),
        ORIGIN: record["key"],
        "export": {"format": format.name, "options": options, "words": words},
        "technique": "+".join([*chain, " ".join([format.name, *words])]),
        "stages": [*model["stages"], stage],
        "weights_digest": None,
        "created": _now(),
        "reasons": model["reasons"] | {"weights_digest": ROUNDED},
    }


def words_of(format: Format) -> list[str]:
    """Options that are not the default ones, as `slim export` reads them: `type=Q4_0`."""
    given = {one.name: getattr(format, one.name) for one in dataclasses.fields(format)}
    changed = {name: value for name, value in given.items() if value != getattr(type(format)(), name)}
    return [f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in changed.items()]


def sizes(record: dict[str, Any], format: Format, folder: Path) -> dict[str, Any]:
    """Measurement of the files themselves, and what holds for their shapes."""
    values = {name: record[name] for name in FROM_SHAPES if record.get(name) is not None}
    values |= {
        "weight_bytes": format.weight_bytes(folder),
        "checkpoint_bytes": sum(file.stat().st_size for file in weight_files(folder)),
    }
    declared = as_plain(Size().quantities()) | record["quantities"]
    protocols = {name: record["protocols"][name] for name in FROM_SHAPES if name in (record.get("protocols") or {})}
    content = {
        "fields": dataclasses.asdict(format),
        "package": "slimsweep",
        "name": "files",
        "version": 1,
        "digests": {},
    }
    result = Measurement(values, protocols=protocols)
    return measurement("files", digest_of(content), content, result, 0.0, _now()) | {
        "quantities": {name: declared[name] for name in values if name in declared}
    }


def compared(before: dict[str, Any], files: dict[str, Any]) -> Table:
    """Each quality of a record beside that of its exported files."""
    table, shown = Table(), [one for one in in_group([files], "quality") if before.get(one.field) is not None]
    sized = [one for one in in_group([files], "cost") if one.field in ("weight_bytes", "checkpoint_bytes")]
    table.add("", [one.title for one in (*shown, *sized)], True)
    table.add("record", [digits(one, before[one.field]) for one in (*shown, *sized)])
    table.add("files", [digits(one, files[one.field]) for one in (*shown, *sized)])
    return table


def _has_quality(metric: Any) -> bool:
    return any(quantity.group == "quality" for quantity in metric.quantities())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
