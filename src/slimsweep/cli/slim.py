"""The command `slim`: prepare datasets, read what sweeps have left. `save`, `export`, `demo` and `chat` load models."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from slimsweep.cli import exporting
from slimsweep.cli.chatting import chat
from slimsweep.cli.dashboards import dashboard
from slimsweep.cli.demonstrating import demo
from slimsweep.cli.doctor import doctor
from slimsweep.cli.fetching import fetch
from slimsweep.cli.formats import Shown, ShownAs, echo_json
from slimsweep.cli.outputs import ConfigDir, DataDir, Outputs, own_folders, store_of
from slimsweep.cli.publishing import publish
from slimsweep.cli.recommending import recommend
from slimsweep.cli.reporting import report
from slimsweep.cli.selecting import records_of
from slimsweep.errors import FigureError, SlimsweepError, StoreError
from slimsweep.paths import project_path
from slimsweep.records.store import JobStatus, Store

Format = StrEnum("Format", ["md", "csv", "json", "latex", "github"])
Over = StrEnum("Over", ["seed"])
Against = StrEnum("Against", ["base"])


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
    help="Prepare datasets. Read records: status, tables, figures, trackers; save, export or try a record's model.",
)


def _sweep_names(incomplete: str) -> list[str]:
    return [name for name in store_of(None).sweep_names() if name.startswith(incomplete)]


def _dataset_names(incomplete: str) -> list[str]:
    from slimsweep.data.preparation.dataset import dataset_names

    return [name for name in dataset_names() if name.startswith(incomplete)]


app.command()(fetch)
app.command()(dashboard)
app.command()(doctor)
app.command()(publish)
app.command()(recommend)
app.command()(report)
app.command()(demo)
app.command()(chat)
Sweep = Annotated[str, typer.Argument(autocompletion=_sweep_names, help="Name of a sweep launched before.")]
Sweeps = Annotated[
    list[str] | None,
    typer.Argument(autocompletion=_sweep_names, help="Names of sweeps; default: every record."),
]
Packages = Annotated[
    list[str] | None,
    typer.Option(
        envvar="SLIMSWEEP_PACKAGES",
        help="Package with a folder `figures` of its own; those whose configs made the records are found without it.",
    ),
]
As = Annotated[
    Format, typer.Option("--format", help="md, latex and github show chosen columns, csv and json every field.")
]

Margins = Annotated[
    list[str] | None,
    typer.Option(
        "--margin",
        help="Equivalent within so much, in units of the quantity; FIELD=NUMBER for some; may be repeated.",
    ),
]
Holm = Annotated[bool, typer.Option("--holm", help="Correct each p for the number of comparisons.")]


@app.command()
def status(
    sweep: Annotated[str | None, typer.Argument(autocompletion=_sweep_names)] = None,
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


@app.command()
def table(
    sweeps: Sweeps = None,
    format: As = Format.md,
    over: Annotated[Over | None, typer.Option(help="Mean and standard deviation over this axis.")] = None,
    literature: Annotated[bool, typer.Option("--literature", help="Published values beside ours.")] = False,
    claims: Annotated[bool, typer.Option("--claims", help="Claims of publications, tested by our records.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Every column, not the rows and columns of the sweep's study.")
    ] = False,
    against: Annotated[
        Against | None, typer.Option(help="Compare each record with its base, item by item, instead.")
    ] = None,
    margin: Margins = None,
    holm: Holm = False,
    files: Annotated[bool, typer.Option("--files", help="Exported files that were measured, too.")] = False,
    query: Annotated[
        str | None, typer.Option(help="SQL over the table `records` instead: SELECT technique, ratio FROM records.")
    ] = None,
    outputs: Outputs = None,
) -> None:
    """Records as a table; json is a list of flat records on standard output."""
    from slimsweep.cli.querying import echo_query, refuse_beside_query
    from slimsweep.records.exported import with_exports
    from slimsweep.records.points import over_seed
    from slimsweep.records.table import layout, render
    from slimsweep.reports import study_table

    store, is_data = store_of(outputs), format in (Format.csv, Format.json)
    if query is not None:
        refuse_beside_query({"--against": against, "--literature": literature, "--claims": claims})
    if literature and claims and is_data:
        raise typer.BadParameter(
            f"--format {format.value} is one document: give --literature or --claims", param_hint="--format"
        )
    if literature or claims:
        kinds = [name for name, is_asked in (("literature", literature), ("claims", claims)) if is_asked]
        _echo_reports(store, sweeps, kinds, format)
        return
    records = with_exports(store, records_of(store, sweeps)) if files else records_of(store, sweeps)
    if against:
        _echo_against(store, records, (margin, holm), format)
        return
    records = over_seed(records) if over else records
    if query is not None:
        echo_query(records, query, format.value)
        return
    study = study_table.of_sweep(sweeps[0]) if sweeps and len(sweeps) == 1 and not (plain or is_data) else None
    text = layout(study_table.table(study, records), format.value) if study else render(records, format.value)
    typer.echo(text)


def _echo_against(
    store: Store, records: Sequence[dict[str, Any]], rules: tuple[list[str] | None, bool], format: Format
) -> None:
    """Print how records differ from their bases, item by item."""
    from slimsweep.cli.comparing import against
    from slimsweep.records.paired_table import Rules

    typer.echo(against(store, records, Rules.of(rules[0] or [], rules[1]), format.value))


def _echo_reports(store: Store, sweeps: Sequence[str] | None, kinds: Sequence[str], format: Format) -> None:
    """Print published values, claims, or both, each beside the records of the named sweeps or of all."""
    from slimsweep.records.table import layout, render
    from slimsweep.reports import claims, literature

    records = {name: store.sweep_records(name) for name in sweeps or store.sweep_names()}
    every = {record["key"]: record for found in records.values() for record in found} if sweeps else {}
    for kind in kinds:
        if kind == "literature":
            found = literature.compare(literature.read(), list(every.values()) if sweeps else store.records())
            rows, table = literature.rows(found), literature.table(found)
        else:
            verdicts = claims.judge(claims.read(), records)
            rows, table = claims.rows(verdicts), claims.table(verdicts)
        is_data = format in (Format.csv, Format.json)
        typer.echo(render(rows, format.value) if is_data else layout(table, format.value))


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="Key of a record or its beginning, or a model's folder, GGUF or ONNX.")],
    format: Annotated[Shown, typer.Option("--format", help="A record is always shown as json.")] = Shown.json,
    outputs: Outputs = None,
) -> None:
    """One record as JSON, or the record of the run that made a model: every field, and why a null is null."""
    echo_json(exporting.shown(store_of(outputs), key))


@app.command()
def figures(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Figures or single files of them; default: all that the records of their own sweeps allow."
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=_sweep_names, help="Read this sweep instead, into the same files; may be repeated."
        ),
    ] = None,
    sweeps: Annotated[bool, typer.Option("--sweeps", help="Print which sweeps they read; draw nothing.")] = False,
    package: Packages = None,
    format: ShownAs = Shown.text,
    outputs: Outputs = None,
) -> None:
    """Figures from records, PDF and PNG; prints their paths."""
    from slimsweep.figures import known, packages_of, refuse_broken, render, sweeps_of

    store = store_of(outputs)
    if not sweeps:
        try:
            drawn = render(store, names or [], sweep or [], packages=package or [])
        except FigureError as error:
            _echo_paths(error.drawn)
            raise
        if format == Shown.json:
            echo_json(drawn)
        else:
            _echo_paths(drawn)
        return
    packages = [*(package or []), *packages_of(store.records())]
    figures, faults = known(packages)
    if format == Shown.json:
        echo_json({name: list(sweeps_of(name, packages)) for name in names or figures})
        return
    for name in names or figures:
        read = " ".join(sweeps_of(name, packages))
        typer.echo(read if names and len(names) == 1 else f"{name}: {read}")
    refuse_broken({} if names else faults)


def _echo_paths(paths: Sequence[Path]) -> None:
    for path in paths:
        typer.echo(path)


@app.command()
def compare(
    first: Annotated[
        str | None,
        typer.Argument(autocompletion=_sweep_names, help="A sweep, or the key of a record; default: every record."),
    ] = None,
    second: Annotated[
        str | None, typer.Argument(autocompletion=_sweep_names, help="Another; default: the same in --against.")
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
    """Compare two sweeps or records, item by item where kept; or list the numbers that moved between versions."""
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


@app.command(context_settings={"ignore_unknown_options": True})
def amend(
    sweep: Sweep,
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="What every job gets beside its own settings: +metric=fidelity, seed=1,2, dry_run=true."),
    ] = None,
    config_dir: ConfigDir = None,
    outputs: Outputs = None,
) -> None:
    """Run a sweep's jobs once more with further metrics, seeds or settings: tell what is missing, and run that."""
    from slimsweep.cli.amending import launch

    launch(store_of(outputs), sweep, settings or [], config_dir)


@app.command()
def save(
    key: Annotated[str, typer.Argument(help="Key of a record, or its beginning.")],
    folder: Annotated[Path, typer.Argument(help="Where the model goes; a new or empty folder.")],
    data_dir: DataDir = None,
    config_dir: ConfigDir = None,
    outputs: Outputs = None,
) -> None:
    """The model of a record as safetensors: the one kept by save_model=true, else computed again and compared."""
    from slimsweep.pipeline.rebuild import save as save_again

    store = store_of(outputs)
    is_plain = save_again(store, store.find(key), folder, own_folders(data_dir, config_dir))
    load = f"AutoModel...from_pretrained({str(folder)!r})" if is_plain else f"slimsweep.load({str(folder)!r})"
    typer.echo(f"{folder}\nload it with {load}")


app.command("export")(exporting.export)


@app.command()
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
    """Clean, split and store a dataset for training and evaluation; prints the counts of each step, then its folder."""
    from slimsweep.cli.preparation import list_datasets, prepare_dataset
    from slimsweep.data.corpora import Corpora

    folder = project_path(cache_dir) if cache_dir else store_of(outputs).outputs_dir / "cache"
    corpora = Corpora(project_path(data_dir) if data_dir else None, folder)
    if name is None:
        list_datasets(corpora)
    else:
        prepare_dataset(name, settings or [], corpora)


@app.command()
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


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all that no running job holds.")] = False,
    cache_dir: Annotated[Path | None, typer.Option(help="The cache_dir of jobs; default: `cache` in outputs.")] = None,
    format: ShownAs = Shown.text,
    outputs: Outputs = None,
) -> None:
    """List cached stages: technique, model, size and time of last use; a chain continues from the longest it finds."""
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


if __name__ == "__main__":
    app()
