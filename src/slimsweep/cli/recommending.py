"""The command `slim recommend`: the best experiments under a budget, with reasons and the command that exports them."""

import json
from typing import Annotated, Literal

import typer

from slimsweep.cli.outputs import Outputs, store_of
from slimsweep.cli.selecting import records_of


def recommend(
    sweeps: Annotated[list[str] | None, typer.Argument(help="Names of sweeps; default: every record.")] = None,
    max_bytes: Annotated[str | None, typer.Option(help="Largest size of the weights: 80MB, 76MiB.")] = None,
    max_gmacs: Annotated[str | None, typer.Option(help="Most GMacs of a forward.")] = None,
    max_latency: Annotated[str | None, typer.Option(help="Longest latency: 0.05, 50ms.")] = None,
    max_perplexity_increase: Annotated[
        str | None, typer.Option(help="Largest rise over the dense model: 10%, or 0.5 in units of perplexity.")
    ] = None,
    min_accuracy: Annotated[
        str | None, typer.Option(help="Least accuracy on every task: 0.6, or 95% of the dense model's.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="A device of records/devices.yaml: its memory and disk.")] = None,
    quality: Annotated[
        str, typer.Option(help="Field of the quality that decides; default: the first column of `slim table`.")
    ] = "",
    format: Annotated[Literal["md", "json"], typer.Option(help="md: to read; json: for programs.")] = "md",
    outputs: Outputs = None,
) -> None:
    """The best experiments under a budget: why, by how much, what more would buy, and how to export them."""
    from slimsweep.records.exported import origin_key, stale_exports, with_exports
    from slimsweep.reports.budget import limits
    from slimsweep.reports.recommend import recommend as choose
    from slimsweep.reports.recommendation_text import plain, text

    given = {
        "--max-bytes": max_bytes,
        "--max-gmacs": max_gmacs,
        "--max-latency": max_latency,
        "--max-perplexity-increase": max_perplexity_increase,
        "--min-accuracy": min_accuracy,
    }
    budget = limits(given, device)
    store = store_of(outputs)
    records = records_of(store, sweeps)
    for one in stale_exports(store, records):
        typer.echo(
            f"{one['technique']} of {origin_key(one)[:8]} was measured by another protocol: measure it again", err=True
        )
    choice = choose(store, with_exports(store, records), budget, quality, outputs)
    typer.echo(json.dumps(plain(choice, outputs), indent=1) if format == "json" else text(choice, outputs))
