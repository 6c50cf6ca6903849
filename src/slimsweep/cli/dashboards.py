"""The command `slim dashboard`: a W&B workspace and a W&B report on sweeps, made or updated as code."""

from typing import Annotated, Any

import typer

from slimsweep.cli.formats import Shown, ShownAs, echo_json
from slimsweep.cli.outputs import Outputs, store_of
from slimsweep.cli.selecting import records_of
from slimsweep.errors import TrackerError
from slimsweep.records.tracking.wandb import Wandb


def dashboard(
    sweeps: Annotated[list[str] | None, typer.Argument(help="Names of sweeps; default: every record.")] = None,
    project: Annotated[
        str | None, typer.Option(help="W&B project of the runs; default: that of `slim publish`.")
    ] = None,
    entity: Annotated[str | None, typer.Option(help="W&B entity; default: yours.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the panels and send nothing; needs no key and no package.")
    ] = False,
    format: ShownAs = Shown.text,
    outputs: Outputs = None,
) -> None:
    """W&B workspace of each model and W&B report, on what `slim publish` sends; updated when run again."""
    from slimsweep.reports.dashboards.views import notes, title, views
    from slimsweep.reports.dashboards.wandb_server import faults, save
    from slimsweep.reports.report import gather

    tracker = tracker_for(project, entity)
    if not dry_run and (reasons := faults(tracker)):
        raise TrackerError("\n".join(reasons) + "\nWith --dry-run the panels are printed and nothing is sent.")
    store, names = store_of(outputs), list(dict.fromkeys(sweeps or []))
    content = gather(store, names, with_figures=False)
    shown, text = views(records_of(store, names), names), notes(content)
    if dry_run:
        _echo_specification(tracker, {"title": title(names), "views": shown, "notes": text}, format)
        return
    saved = save(tracker, title(names), shown, text)
    if format == Shown.json:
        echo_json(saved)
        return
    for kind, one in (("report", saved["report"]), *(("workspace", one) for one in saved["workspaces"])):
        typer.echo(f"{kind} {'updated' if one['updated'] else 'created'}: {one['url']}")


def tracker_for(project: str | None, entity: str | None) -> Wandb:
    """The W&B tracker with the settings of its YAML and the given ones, which need not be able to publish here."""
    from slimsweep.pipeline.tracker_choice import fields_of

    fields = fields_of("wandb")
    options = {name: value for name, value in {"project": project, "entity": entity}.items() if value}
    return Wandb(**{"project": fields["project"], "entity": fields["entity"]} | options).with_options(options)


def _echo_specification(tracker: Wandb, content: dict[str, Any], format: Shown) -> None:
    from dataclasses import asdict

    project, entity = tracker.destination()
    if format == Shown.json:
        shown = [view.plain() for view in content["views"]]
        text = [asdict(note) for note in content["notes"]]
        echo_json({"entity": entity, "project": project, "title": content["title"], "notes": text, "views": shown})
        return
    typer.echo(f"{content['title']}, in project {project} of {entity or 'the default entity of your key'}")
    for view in content["views"]:
        typer.echo(f"\n{view.name}: {len(view.colours)} runs")
        for section in view.sections:
            typer.echo(f"  {section.name}")
            for panel in section.panels:
                keys = " over ".join(filter(None, (", ".join(panel.y), panel.x)))
                group = f", a line for each {panel.group_by}" if panel.group_by else ""
                typer.echo(f"    {panel.kind:7}  {panel.title}: {keys}{group}")
