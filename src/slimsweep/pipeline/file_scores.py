"""Measure the qualities of a record again, on exported files: what rounding to another format costs."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slimsweep.errors import ExportError, SlimsweepError, StoreError
from slimsweep.evaluation.base import Measurement
from slimsweep.evaluation.quantity import as_plain
from slimsweep.evaluation.size import Size
from slimsweep.export.base import Format, weight_files
from slimsweep.models.language_model import LanguageModel
from slimsweep.pipeline.compose import build
from slimsweep.pipeline.experiment import Asked
from slimsweep.pipeline.keys import digest_of, metric_identity
from slimsweep.pipeline.rebuild import Rebuild, target_of
from slimsweep.pipeline.run import measure_alone
from slimsweep.records.exported import ORIGIN, exports_store
from slimsweep.records.quantities import in_group
from slimsweep.records.record import measurement
from slimsweep.records.table import Table
from slimsweep.reports.noise import digits

FROM_SHAPES = ("parameters", "gmacs")
"""Fields of the record that hold for the files too."""
NOT_OF_FILES = ("load_seconds", "compress_seconds", "compress_spent_seconds", "weights_digest")
"""Fields of the record that say nothing of the files."""
REASON = "of the record that the files come from"


def asked_of_files(rebuild: Rebuild) -> dict[str, Asked]:
    """The measurements of quality that a record shows and that can be made again, by identity; needs no weights.

    Raises:
        StoreError: there is none.
    """
    record = rebuild.record
    measured = rebuild.store.measured(record["key"])
    shown = dict.fromkeys((record.get("identities") or {}).values())
    again = {identity: _again(rebuild, measured[identity]) for identity in shown if identity in measured}
    asked = {identity: one for identity, one in again.items() if one and _is_quality(one.metric)}
    if not asked:
        raise StoreError(
            f"record {record['key'][:8]} shows no quality that --measure could measure again. "
            "Run the experiment with evaluation=quick, or: slim amend SWEEP +metric=perplexity"
        )
    return asked


def _again(rebuild: Rebuild, measured: dict[str, Any]) -> Asked | None:
    """The metric of a measurement; None where its settings and texts do not give the same measurement here."""
    if known := rebuild.experiment.asked.get(measured["identity"]):
        return known
    # A later launch may have measured by other settings than those that the record was first launched with.
    content, faults = measured["metric"], []
    packages = rebuild.record["choices"].get("packages", [])
    try:
        target = target_of("metric", content["name"], packages, rebuild.folders.config_dir)
        metric = build(measured["name"], {"_target_": target, **content["fields"]}, faults)
        same = metric is not None and digest_of(metric_identity(metric, rebuild.experiment.corpora))
    except SlimsweepError:
        return None
    return Asked(measured["name"], metric, content) if same == measured["identity"] else None


def _is_quality(metric: Any) -> bool:
    return metric.depends_on_values and any(quantity.group == "quality" for quantity in metric.quantities())


def score(rebuild: Rebuild, format: Format, folder: Path, model: LanguageModel) -> tuple[dict[str, Any], list[str]]:
    """Measure exported files by the protocols of their record, and keep the result below it.

    Each measurement is written as soon as it is made.

    Args:
        model: the model that was written; it may be changed.

    Returns the record of the files, and a line for each measurement that could not be made.

    Raises:
        StoreError: the record has no quality that could be measured.
        ExportError: no measurement could be made on the files; they get no record.
    """
    asked, fields = asked_of_files(rebuild), model_fields(rebuild, format)
    store, key, done, notes = exports_store(rebuild.store, rebuild.record["key"]), fields["key"], [], []
    read = format.read(folder, model)
    with store.claim(key):
        store.begin(fields, [])
        for identity, one in asked.items():
            try:
                measured = measure_alone(rebuild.experiment, read, identity, one)
            except SlimsweepError as error:
                notes.append(f"not measured: {one.name}: {error}")
                continue
            store.keep(key, measured)
            done.append(identity)
        if not done:
            raise ExportError(f"no quality could be measured on these files. {'; '.join(notes)}")
        size = sizes(rebuild.record, format, folder)
        store.keep(key, size)
        return store.finish(key, [*done, size["identity"]]), notes


def model_fields(rebuild: Rebuild, format: Format) -> dict[str, Any]:
    """Fields of the files' record that no metric measures: those of the model, with the format as its last stage.

    Raises:
        StoreError: the record's own file of these fields is missing or damaged.
    """
    record, options = rebuild.record, dataclasses.asdict(format)
    model = rebuild.store.model(record["key"])
    if model is None:
        raise StoreError(f"model.json of record {record['key'][:8]} is missing or damaged: run the experiment again")
    stage = {"technique": format.name, "name": format.name, "fields": options, "seconds": 0.0, "notes": {}}
    words = words_of(format)
    chain = [record["technique"]] if record["stages"] else []
    return model | {
        "key": digest_of({"record": record["key"], "format": format.name, "options": options}),
        ORIGIN: record["key"],
        "export": {"format": format.name, "options": options, "words": words},
        "technique": "+".join([*chain, " ".join([format.name, *words])]),
        "stages": [*model["stages"], stage],
        "created": _now(),
        **dict.fromkeys(NOT_OF_FILES),
        "reasons": model["reasons"] | dict.fromkeys(NOT_OF_FILES, REASON),
    }


def words_of(format: Format) -> list[str]:
    """Options that are not the default ones, as `slim export` reads them: `type=Q4_0`."""
    given = {one.name: getattr(format, one.name) for one in dataclasses.fields(format)}
    changed = {name: value for name, value in given.items() if value != getattr(type(format)(), name)}
    return [f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in changed.items()]


def sizes(record: dict[str, Any], format: Format, folder: Path) -> dict[str, Any]:
    """Measurement of the files themselves, and what holds for their shapes."""
    values = {name: record[name] for name in FROM_SHAPES if record.get(name) is not None}
    weight_bytes = format.weight_bytes(folder)
    values |= {
        "weight_bytes": weight_bytes,
        "checkpoint_bytes": sum(file.stat().st_size for file in weight_files(folder)),
    }
    if record.get("compression_factor") and record.get("weight_bytes"):
        values["compression_factor"] = record["compression_factor"] * record["weight_bytes"] / weight_bytes
    declared = as_plain(Size().quantities()) | (record.get("quantities") or {})
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


def comparison(record: dict[str, Any], files: dict[str, Any]) -> Table:
    """Each quality of exported files beside that of their record, measured alike, and both sizes."""
    rows = []
    for one in in_group([files], "quality"):
        identity = files["identities"].get(one.field)
        same = [name for name, other in record["identities"].items() if other == identity]
        field = next((name for name in same if name.partition("[")[0] == one.field.partition("[")[0]), None)
        rows += [(one, record[field])] if field and None not in (record.get(field), files.get(one.field)) else []
    rows += [
        (one, record[one.field])
        for one in in_group([files], "cost")
        if one.field in ("weight_bytes", "checkpoint_bytes") and record.get(one.field) is not None
    ]
    table = Table()
    table.add("", [one.title for one, _ in rows], True)
    table.add("record", [digits(one, before) for one, before in rows])
    table.add("files", [digits(one, files[one.field]) for one, _ in rows])
    return table


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
