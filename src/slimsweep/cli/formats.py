"""Options on what commands print: the format, and the rules of paired comparisons."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

Shown = StrEnum("Shown", ["text", "json"])
ShownAs = Annotated[Shown, typer.Option("--format", help="text for people, json for scripts and agents.")]
Format = StrEnum("Format", ["md", "csv", "json", "latex", "github"])
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


def echo_json(content: Any) -> None:
    """Print plain values as JSON; paths as their text."""
    typer.echo(json.dumps(content, indent=1, default=str))
