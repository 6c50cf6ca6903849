"""Formats of what commands print: text for people, json for scripts and agents."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

Shown = StrEnum("Shown", ["text", "json"])
Format = StrEnum("Format", ["md", "csv", "json", "latex", "github"])
ShownAs = Annotated[Shown, typer.Option("--format", help="text for people, json for scripts and agents.")]

As = Annotated[
    Format, typer.Option("--format", help="md, latex and github show chosen columns, csv and json every field.")
]


def echo_json(content: Any) -> None:
    """Print plain values as JSON; paths as their text."""
    typer.echo(json.dumps(content, indent=1, default=str))
