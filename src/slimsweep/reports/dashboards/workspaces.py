"""Panels, views and notes in the classes of `wandb-workspaces`: a W&B workspace for each view, and one report."""

from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as reports
import wandb_workspaces.workspaces as workspaces
from wandb_workspaces import expr

from slimsweep.records.tracking.wandb import LONGEST_TAG
from slimsweep.reports.dashboards.panels import Panel
from slimsweep.reports.dashboards.views import Note, View

COLUMNS, WIDTH, HEIGHT = 3, 8, 6
"""Panels of a row, and the cells of one panel: W&B's grid has 24 columns."""
MOST_BARS = 100
LONGEST_TITLE = 128


def workspace(view: View, entity: str, project: str) -> workspaces.Workspace:
    """Workspace of a view. Its runs are not grouped: W&B draws the mean of a group as one point of a scatter plot."""
    sections = [
        workspaces.Section(
            name=one.name,
            panels=[drawn(panel) for panel in one.panels],
            is_open=True,
            layout_settings=workspaces.SectionLayoutSettings(columns=COLUMNS, rows=-(-len(one.panels) // COLUMNS)),
        )
        for one in view.sections
    ]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=view.name,
        sections=sections,
        settings=workspaces.WorkspaceSettings(max_runs=max(10, len(view.colours))),
        runset_settings=workspaces.RunsetSettings(
            filters=runs_of(view),
            run_settings={run: workspaces.RunSettings(color=colour) for run, colour in view.colours.items()},
            pinned_columns=["config:technique.value", "config:ratio.value"],
        ),
    )


def report(title: str, views: Sequence[View], notes: Sequence[Note], place: tuple[str, str]) -> reports.Report:
    """Report of the same views, after what is to be known of the runs; `place` is entity and project."""
    blocks: list[Any] = [reports.TableOfContents()]
    for note in notes:
        blocks += [reports.H2(note.heading), reports.UnorderedList(list(note.sentences))]
    for view in views:
        blocks.append(reports.H1(view.model))
        for section in view.sections:
            blocks += [reports.H2(section.name), _grid(view, section.panels)]
    entity, project = place
    description = "Made by `slim dashboard`, which replaces this text and these panels when it runs again."
    return reports.Report(
        entity=entity,
        project=project,
        title=title[:LONGEST_TITLE],
        description=description,
        blocks=blocks,
        width="fluid",
    )


def runs_of(view: View) -> str:
    """Filter of a view's runs: those of records, not those of sweeps or of failed jobs."""
    chosen = [expr.Metric("JobType") == "experiment", expr.Config("model") == view.model]
    if view.sweeps:  # each run is tagged with the sweeps of its record
        chosen.append(expr.Tags().isin([sweep[:LONGEST_TAG] for sweep in view.sweeps]))
    return expr.filterexpr_list_to_string(chosen)


def drawn(panel: Panel, place: int | None = None) -> Any:
    """Panel in W&B's classes; `place` counts the panels of a grid."""
    layout = {} if place is None else {"layout": _layout(place)}
    if panel.kind == "scatter":
        return reports.ScatterPlot(
            title=panel.title,
            x=reports.SummaryMetric(panel.x),
            y=reports.SummaryMetric(panel.y[0]),
            log_y=panel.has_log_y,
            running_ymin=panel.front == "lowest",
            running_ymax=panel.front == "highest",
            **layout,
        )
    if panel.kind == "bar":
        return reports.BarPlot(
            title=panel.title,
            metrics=list(panel.y),
            title_x=panel.y_title,  # bars lie: their length is the value
            max_runs_to_show=MOST_BARS,
            max_bars_to_show=MOST_BARS,
            **layout,
        )
    grouping = {"groupby": reports.Config(panel.group_by), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    return reports.LinePlot(
        title=panel.title,
        x=panel.x,
        y=list(panel.y),
        title_x=panel.x_title,
        title_y=panel.y_title,
        log_y=panel.has_log_y,
        smoothing_type="none",
        **(grouping if panel.group_by else {}),
        **layout,
    )


def _grid(view: View, panels: Sequence[Panel]) -> reports.PanelGrid:
    """Panels on the runs of a view; a run set that names no project has that of its report."""
    settings = {run: reports.RunSettings(color=colour) for run, colour in view.colours.items()}
    runs = reports.Runset(name=view.model, filters=runs_of(view), run_settings=settings)
    return reports.PanelGrid(runsets=[runs], panels=[drawn(panel, place) for place, panel in enumerate(panels)])


def _layout(place: int) -> reports.Layout:
    return reports.Layout(x=place % COLUMNS * WIDTH, y=place // COLUMNS * HEIGHT, w=WIDTH, h=HEIGHT)
