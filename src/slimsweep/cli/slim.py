"""The command `slim`: prepare datasets, read what sweeps have left. `save`, `export`, `demo` and `chat` load models."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from slimsweep.cli import exporting
from slimsweep.cli.chatting import chat
from slimsweep.cli.dashboards import dashboard
from slimsweep.cli.demonstrating import demo
from slimsweep.cli.doctor import doctor
from slimsweep.cli.drawing import figures
from slimsweep.cli.fetching import fetch
from slimsweep.cli.formats import As, Format, Holm, Margins, Shown, ShownAs, echo_json
from slimsweep.cli.outputs import ConfigDir, DataDir, Outputs, own_folders, store_of
from slimsweep.cli.publishing import publish
from slimsweep.cli.recommending import recommend
from slimsweep.cli.reporting import report
from slimsweep.cli.selecting import Sweep, sweep_names
from slimsweep.cli.tabling import table
from slimsweep.errors import SlimsweepError, StoreError
from slimsweep.paths import project_path
from slimsweep.records.store import JobStatus, Store


class Slim(TyperGroup):
    """Tells every known error in one line on standard error, exit status 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SlimsweepError as error:
            typer.echo(f"slim: {error}", err=True)
            raise typer.Exit(1) from error
        except PermissionError as error:  # figures and copies of models are written, where one may only read
            typer.echo(f"slim: {error.filename}: {error.strerror}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=Slim,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 120},
    help="Prepare datasets. Read records: status, tables, figures, trackers; save, export or try a record's model.",
)


def _dataset_names(incomplete: str) -> list[str]:
    from slimsweep.data.preparation.dataset import dataset_names

    return [name for name in dataset_names() if name.startswith(incomplete)]


def status(
    sweep: Annotated[str | None, typer.Argument(autocompletion=sweep_names)] = None,
    format: ShownAs = Shown.text,
    outputs: Outputs = None,
):
    """Done, running, failed and missing jobs of one sweep or of all, with the reason of each failure."""
    store = store_of(outputs)
    names = [sweep] if sweep else store.sweep_names()
    if format == Shown.json:
        echo_json([{"sweep": name, "jobs": [asdict(job) for job in store.status(name)]} for name in names])
        return
    if not names:
        raise StoreError(f"no sweep was launched into {store.outputs_dir} yet. Run: slimsweep +sweeps=unstructured")
    for name in names:
        jobs = store.status(name)
        counts = Counter(job.state for job in jobs)
        states = ("done", "running", "failed", "missing")
        typer.echo(f"{name}: {len(jobs)} jobs, " + ", ".join(f"{counts[state]} {state}" for state in states))
        _echo_jobs(jobs if sweep else [job for job in jobs if job.state in ("failed", "running")])


def _echo_jobs(jobs: Sequence[JobStatus]) -> None:
    width = max((len(job.label) for job in jobs), default=0)
    for job in jobs:
        typer.echo(f"  {job.key[:16]}  {job.state:7}  {job.label:{width}}  {job.reason}".rstrip())
        if job.state in ("failed", "running") and job.log:
            typer.echo(f"  {'':16}  {'':7}  log: {job.log}")


def show(
    key: Annotated[str, typer.Argument(help="Key of a record or its beginning, or a model's folder, GGUF or ONNX.")],
    format: Annotated[Shown, typer.Option("--format", help="A record is always shown as json.")] = Shown.json,
    outputs: Outputs = None,
) -> None:
    """One record as JSON, or the record of the run that made a model: every field, and why a null is null."""
    echo_json(exporting.shown(store_of(outputs), key))


def compare(
    first: Annotated[
        str | None,
        typer.Argument(autocompletion=sweep_names, help="A sweep, or the key of a record; default: every record."),
    ] = None,
    second: Annotated[
        str | None, typer.Argument(autocompletion=sweep_names, help="Another; default: the same in --against.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Outputs folder that holds the second one, or a file of --keep.")
    ] = None,
    moved: Annotated[
        bool, typer.Option("--moved", help="List each size, count and quality that is not as in --against.")
    ] = False,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(help="Relative difference that is allowed; FIELD=NUMBER for some; may be repeated."),
    ] = None,
    fail: Annotated[bool, typer.Option("--fail", help="End with status 1 where a number moved by more.")] = False,
    keep: Annotated[Path | None, typer.Option(help="Keep the numbers of FIRST in this new file instead.")] = None,
    margin: Margins = None,
    holm: Holm = False,
    format: As = Format.md,
    outputs: Outputs = None,
) -> None:
    """Compare two sweeps or records, item by item where kept; or list numbers that moved between versions."""
    from slimsweep.cli import comparing, moving
    from slimsweep.records.paired_table import Rules

    store = store_of(outputs)
    other = project_path(against) if against else None
    asked = moving.Asked(first, second, other, moved, fail, keep, tolerance or [], margin, holm)
    moving.refuse_mixtures(asked)
    if keep:
        typer.echo(moving.keep(store, first, project_path(keep)))
    elif asked.asks_for_moves:
        comparison = moving.moves(store, first, other, tolerance or [])
        typer.echo(moving.text_of(comparison, (str(against), str(store.outputs_dir)), format.value))
        if fail and comparison.faults:
            raise typer.Exit(1)
    else:
        stores = (store, comparing.other_store(other, store))
        typer.echo(comparing.compare(stores, (first, second or first), Rules.of(margin or [], holm), format.value))


def amend(
    sweep: Sweep,
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="What every job gets beside its own settings: +metric=fidelity, seed=1,2, dry_run=true."),
    ] = None,
    config_dir: ConfigDir = None,
    outputs: Outputs = None,
) -> None:
    """Run a sweep's jobs again with further metrics, seeds or settings: tell what is missing, and run that."""
    from slimsweep.cli.amending import launch

    launch(store_of(outputs), sweep, settings or [], config_dir)


def save(
    key: Annotated[str, typer.Argument(help="Key of a record, or its beginning.")],
    folder: Annotated[Path, typer.Argument(help="Where the model goes; a new or empty folder.")],
    data_dir: DataDir = None,
    config_dir: ConfigDir = None,
    outputs: Outputs = None,
) -> None:
    """The model of a record as safetensors: the one that was kept, or computed again and compared."""
    from slimsweep.pipeline.rebuild import save as save_again

    store = store_of(outputs)
    is_plain = save_again(store, store.find(key), folder, own_folders(data_dir, config_dir))
    load = f"AutoModel...from_pretrained({str(folder)!r})" if is_plain else f"slimsweep.load({str(folder)!r})"
    typer.echo(f"{folder}\nload it with {load}")


def prepare(
    name: Annotated[
        str | None,
        typer.Argument(autocompletion=_dataset_names, help="A dataset, or a YAML file of yours; default: list them."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="KEY=VALUE: a setting of the dataset, such as tokenizer=8000 or filters.words=[3,200]."),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(envvar="SLIMSWEEP_DATA", help="Local copies; they win.")] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="The cache_dir of jobs; default: `cache` in outputs.")] = None,
    outputs: Outputs = None,
) -> None:
    """Clean, split and store a dataset for training and evaluation; prints its counts, and its folder last."""
    from slimsweep.cli.preparation import list_datasets, prepare_dataset
    from slimsweep.data.corpora import Corpora

    folder = project_path(cache_dir) if cache_dir else store_of(outputs).outputs_dir / "cache"
    corpora = Corpora(project_path(data_dir) if data_dir else None, folder)
    if name is None:
        list_datasets(corpora)
    else:
        prepare_dataset(name, settings or [], corpora)


def migrate(
    folder: Annotated[Path, typer.Argument(help="Output folder of an older version.")],
    data_dir: DataDir = None,
    config_dir: ConfigDir = None,
) -> None:
    """Rewrite records of an older version under today's keys, once; their results and W&B runs stay."""
    from slimsweep.pipeline.migration import migrate as rewrite

    store = Store(project_path(folder))
    done = rewrite(store, own_folders(data_dir, config_dir))
    typer.echo(f"{len(done.keys)} records have new keys, {len(done.left)} could not be rewritten")
    for key, reason in done.left.items():
        typer.echo(f"  {key[:16]}  {reason}", err=True)
    if done.left:
        raise typer.Exit(1)


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all that no running job holds.")] = False,
    cache_dir: Annotated[Path | None, typer.Option(help="The cache_dir of jobs; default: `cache` in outputs.")] = None,
    format: ShownAs = Shown.text,
    outputs: Outputs = None,
) -> None:
    """List cached stages: technique, model, size and time of last use. A chain goes on from the longest it finds."""
    from slimsweep.cli.caching import clear_lines, content, list_lines

    folder = project_path(cache_dir) if cache_dir else store_of(outputs).outputs_dir / "cache"
    if format == Shown.json:
        in_use = clear_lines(folder)[1] if clear else ""
        echo_json(content(folder) | ({"in_use": in_use} if clear else {}))
        return
    if not clear:
        typer.echo("\n".join(list_lines(folder)))
        return
    lines, in_use = clear_lines(folder)
    typer.echo("\n".join(lines))
    if in_use:
        typer.echo(in_use, err=True)


COMMANDS = (
    *(doctor, fetch, prepare, status, table, figures, show, compare, report, recommend),
    *(exporting.export, save, demo, chat, amend, publish, dashboard, cache, migrate),
)
"""All commands in the order of their use, which is that of the help."""
TAKES_SETTINGS = {"ignore_unknown_options": True}
"""Unknown words that begin with - reach the command, which tells how a setting is written."""

for _command in COMMANDS:
    app.command(context_settings=TAKES_SETTINGS if _command is amend else None)(_command)


if __name__ == "__main__":
    app()
