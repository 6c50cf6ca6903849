"""Saving of a dashboard on a W&B server: a workspace or report of the same name is updated, never doubled."""

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

from slimsweep.errors import TrackerError
from slimsweep.records.tracking.credentials import failure_text
from slimsweep.records.tracking.wandb import Wandb
from slimsweep.reports.dashboards.views import Note, View

PACKAGE, EXTRA = "wandb_workspaces", "slimsweep[dashboards]"
NAME_CHARACTERS = 11
"""Length of a view's id in its address."""


def faults(tracker: Wandb) -> list[str]:
    """Reasons why no dashboard can be saved, each with what to type."""
    import importlib.util

    missing = importlib.util.find_spec(PACKAGE) is None
    needs = [f"`slim dashboard` needs the package wandb-workspaces, which is not installed: pip install '{EXTRA}'"]
    return [*(needs if missing else []), *tracker.online_faults()]


def save(tracker: Wandb, title: str, views: Sequence[View], notes: Sequence[Note]) -> dict[str, Any]:
    """Save the workspaces of some views and their report; their addresses, and what was there before.

    Raises:
        TrackerError: the server cannot be reached, or refuses the key, the entity or the project.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # no crash reports to a third party
    os.environ.setdefault("WANDB_SILENT", "true")  # its lines would stand between the addresses
    from slimsweep.reports.dashboards import workspaces

    def reached(what: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # whatever a third party raises, the message says what to do
            raise TrackerError(
                f"Weights & Biases: {what}: {failure_text(error)}. Check --entity and --project (or WANDB_ENTITY, "
                "WANDB_PROJECT), WANDB_BASE_URL, and the key by `wandb login --relogin`"
            ) from error

    project, entity = tracker.destination()
    api = reached("cannot log in", _api)
    entity = entity or reached("cannot read the default entity", lambda: api.default_entity)
    if not entity:
        raise TrackerError("Weights & Biases: the key has no default entity: give --entity TEAM, or set WANDB_ENTITY")
    made = workspaces.report(title, views, notes, (entity, project))
    report = reached("cannot save the report", lambda: _save_report(api, made))
    saved = [
        reached(f"cannot save the workspace {view.name!r}", lambda view=view: _save_view(view, entity, project))
        for view in views
    ]
    return {"entity": entity, "project": project, "report": report, "workspaces": saved}


def _api() -> Any:
    import wandb

    return wandb.Api()


def _save_report(api: Any, made: Any) -> dict[str, Any]:
    """Save a report. One of the same title keeps its address and the comments of its readers."""
    import wandb_workspaces.reports.v2 as reports

    path = f"{made.entity}/{made.project}"
    is_known = any(project.name == made.project for project in api.projects(made.entity))
    same = [one for one in api.reports(path) if one.display_name == made.title] if is_known else []
    if same:
        earlier = reports.Report.from_url(f"https://report/{path}/reports/x--{same[0].id}")
        earlier.blocks, earlier.description, earlier.width = made.blocks, made.description, made.width
        made = earlier
    made.save()
    return {"title": made.title, "url": made.url, "updated": bool(same)}


def _save_view(view: View, entity: str, project: str) -> dict[str, Any]:
    """Save the workspace of a view. Its id is made from its name, so that it is found again."""
    import wandb_workspaces.workspaces as saved

    from slimsweep.reports.dashboards import workspaces

    made = workspaces.workspace(view, entity, project)
    name = hashlib.sha256(view.name.encode()).hexdigest()[:NAME_CHARACTERS]
    earlier = _earlier(saved, f"https://workspace/{entity}/{project}?nw={name}")
    if earlier:
        earlier.sections, earlier.settings, earlier.runset_settings = made.sections, made.settings, made.runset_settings
    else:
        made._internal_name = f"nw-{name}-v"
    return {"name": view.name, "url": (earlier or made).save().url, "updated": earlier is not None}


def _earlier(saved: Any, address: str) -> Any:
    """Workspace at an address; None where there is none yet. The host of the address is not read."""
    try:
        return saved.Workspace.from_url(address)
    except ValueError as error:
        if "Workspace `" in str(error) and "not found" in str(error):
            return None
        raise
