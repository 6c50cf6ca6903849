"""Command `slim publish`: records, sweeps and their figures sent to trackers again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from slimsweep.cli.formats import Shown, ShownAs, echo_json
from slimsweep.cli.outputs import Outputs, store_of
from slimsweep.errors import ConfigError, FigureError, StoreError
from slimsweep.records.store import Store


def publish(
    names: Annotated[
        list[str] | None, typer.Argument(help="Sweeps, or keys of records; default: every record and sweep.")
    ] = None,
    tracker: Annotated[list[str] | None, typer.Option(help="A choice of conf/tracker; may be repeated.")] = None,
    project: Annotated[str | None, typer.Option(help="Project of W&B or Trackio.")] = None,
    entity: Annotated[str | None, typer.Option(help="W&B entity; default: yours.")] = None,
    mode: Annotated[
        str | None, typer.Option(help="W&B: auto (as W&B is set, else online with a key), online or offline.")
    ] = None,
    outputs: Outputs = None,
    format: ShownAs = Shown.text,
) -> None:
    """Send records to trackers again. A run of the same key is replaced, never doubled."""
    store = store_of(outputs)
    records, sweeps = chosen(store, names or [])
    given = {"project": project, "entity": entity, "mode": mode}
    mirror = mirror_of(tracker or ["wandb"], {name: value for name, value in given.items() if value}, records)
    if not records:
        raise StoreError(f"{store.outputs_dir} holds no record to publish. Run: slimsweep +sweeps=unstructured")
    owners = _owners(store)
    sent = sum(mirror.publish(record, owners.get(record["key"], []), store.outputs_dir) for record in records)
    sent_sweeps = [
        name
        for name in sweeps
        if mirror.publish_sweep(name, store.sweep_records(name), _drawn(store, name), store.outputs_dir)
    ]
    if format == Shown.json:
        echo_json(
            {"published": sent, "records": len(records), "published_sweeps": sent_sweeps, "sweeps": sweeps},
        )
    else:
        of_sweeps = f", {len(sent_sweeps)} of {len(sweeps)} sweeps" if sweeps else ""
        typer.echo(f"{sent} of {len(records)} records published{of_sweeps}")
    if sent < len(records) or len(sent_sweeps) < len(sweeps):
        raise typer.Exit(1)


def chosen(store: Store, names: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Records of the named sweeps and keys, each once, and the sweeps; all where nothing is named.

    Raises:
        StoreError: a name is no sweep, and no or several keys begin with it.
    """
    if not names:
        return store.records(), store.sweep_names()
    found: dict[str, dict[str, Any]] = {}
    known, sweeps = store.sweep_names(), []
    for name in names:
        is_key = name not in known and set(name) <= set("0123456789abcdef")
        records = [store.find(name)] if is_key else store.sweep_records(name)
        sweeps += [] if is_key else [name]
        missing = 0 if is_key else len(store.sweep_jobs(name)) - len(records)
        if missing:
            typer.echo(f"{name}: {missing} jobs have no record yet; see: slim status {name}", err=True)
        found |= {record["key"]: record for record in records}
    return list(found.values()), sweeps


def mirror_of(names: Sequence[str], given: dict[str, Any], records: Sequence[dict[str, Any]]) -> Any:
    """The trackers of some names as one; each gets those of the given settings that it has.

    Raises:
        ConfigError: a tracker is unknown or would publish nothing, or none has one of the settings.
    """
    from slimsweep.pipeline.tracker_choice import fields_of, tracker_of
    from slimsweep.records.tracking.several import Several

    packages = [name for one in records for name in (one.get("choices") or {}).get("packages") or []]
    packages = list(dict.fromkeys(packages))
    if len(names) == 1:
        return tracker_of(names[0], given, packages)
    known = {name: fields_of(name, packages) for name in names}
    idle = [setting for setting in given if not any(setting in fields for fields in known.values())]
    if idle:
        raise ConfigError([f"none of {', '.join(names)} has a setting {', '.join(idle)}"])
    found = []
    for name, fields in known.items():
        own = {setting: value for setting, value in given.items() if setting in fields}
        found.append(tracker_of(name, own, packages))
    return Several(trackers=tuple(found))


def _owners(store: Store) -> dict[str, list[str]]:
    """Names of the sweeps of every key, each sweep's list read once."""
    owners: dict[str, list[str]] = {}
    for name in store.sweep_names():
        for job in store.sweep_jobs(name):
            owners.setdefault(job.key, []).append(name)
    return owners


def _drawn(store: Store, sweep: str) -> list[Path]:
    """Figures of one sweep, in a folder of their own; none where it measured nothing to draw."""
    from slimsweep.figures import render

    try:
        return render(store, sweeps=[sweep], folder=store.outputs_dir / "figures" / sweep)
    except FigureError as error:
        typer.echo(f"slim: {error}", err=True)
        return error.drawn
    except StoreError:
        return []
