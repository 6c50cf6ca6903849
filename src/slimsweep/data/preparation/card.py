"""Card of a preparation: what it was made from and how, rows before and after each step, features, and examples."""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from slimsweep.data.preparation.dataset import Dataset
from slimsweep.data.preparation.pipeline import Outcome
from slimsweep.data.preparation.sources import SourceRows
from slimsweep.data.preparation.splits import Rows
from slimsweep.data.preparation.store import VERSIONS, rows_digest

SHOWN_TEXT = 300
PERCENTILES = (50, 95)


def card_of(
    dataset: Dataset, key: str, sources: dict[str, SourceRows], absent: dict[str, str], outcome: Outcome
) -> dict[str, Any]:
    """All that is known of a preparation, as JSON has it; equal preparations have equal cards, to the byte."""
    splits = {split: _split_card(rows, outcome.features[split], dataset) for split, rows in outcome.splits.items()}
    return {
        "name": dataset.name,
        "key": key,
        "version": VERSIONS[dataset.kind],
        "kind": dataset.kind,
        "settings": dataset.settings(),
        "row_settings": dataset.row_settings(),
        "sources": {
            split: {"origin": one.origin, "digest": one.digest, "rows": len(one.rows)} for split, one in sources.items()
        }
        | {split: {"absent": reason} for split, reason in absent.items()},
        "steps": [
            {"step": step.name, "note": step.note, "before": step.before, "after": step.after, "changed": step.changed}
            for step in outcome.steps
        ],
        "splits": splits,
    }


def _split_card(rows: Rows, features: Rows, dataset: Dataset) -> dict[str, Any]:
    card: dict[str, Any] = {
        "rows": len(rows),
        "digest": rows_digest(rows, dataset.standard_columns),
        "features": {name: _summary([one[name] for one in features]) for name in dataset.features},
        "example": {name: _shortened(value) for name, value in rows[0].items()},
    }
    if dataset.kind == "labelled":
        counts = Counter(row["label"] for row in rows)
        card["labels"] = {name: counts[number] for number, name in enumerate(dataset.labels)}
    return card


def _summary(values: Sequence[Any]) -> dict[str, float]:
    """Mean, least, median, 95th percentile and most."""
    ordered = sorted(values)
    ranks = {f"p{percent}": ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] for percent in PERCENTILES}
    return {"mean": round(statistics.fmean(values), 4), "least": ordered[0], **ranks, "most": ordered[-1]}


def _shortened(value: Any) -> Any:
    if isinstance(value, list):
        return [turn | {"content": _shortened(turn["content"])} for turn in value]
    return value if not isinstance(value, str) or len(value) <= SHOWN_TEXT else f"{value[:SHOWN_TEXT]}..."


def counts_table(card: dict[str, Any]) -> str:
    """Rows of each split after each step, as a Markdown table; in brackets the rows that the step changed."""
    splits = list(card["splits"])
    read = {split: card["sources"][split]["rows"] for split in splits if "rows" in card["sources"].get(split, {})}
    lines = [["step", *splits, ""], ["read", *(f"{read[split]:,}" if split in read else "" for split in splits), ""]]
    for step in card["steps"]:
        lines.append([step["step"], *(_cell(step, split) for split in splits), step["note"]])
    return table(lines)


def _cell(step: dict[str, Any], split: str) -> str:
    if split not in step["after"]:
        return ""
    after, before = step["after"][split], step["before"].get(split, 0)
    if after != before:
        return f"{after:,} ({after - before:+,})"
    changed = step["changed"].get(split, 0)
    return f"{after:,} ({changed:,} changed)" if changed else f"{after:,}"


def table(lines: list[list[str]]) -> str:
    """A Markdown table; the first line is its head, all columns but the first are to the right."""
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    widths = [max(width, 3) for width in widths]
    rows = [
        "| " + " | ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in cells) + " |"
        for cells in (list(enumerate(zip(line, widths, strict=True))) for line in lines)
    ]
    rule = "|" + "|".join(
        ("-" * (width + 1) + ":") if place else "-" * (width + 2) for place, width in enumerate(widths)
    )
    return "\n".join([rows[0], f"{rule}|", *rows[1:]])


def markdown(card: dict[str, Any]) -> str:
    """The card for people."""
    parts = [f"# {card['name']}", f"Kind: {card['kind']}. Key: `{card['key']}`.", "## Sources"]
    parts.append("\n".join(f"- {split}: {_source_line(one)}" for split, one in card["sources"].items()))
    parts += ["## Rows after each step", counts_table(card), "## Features", _feature_table(card)]
    if any("labels" in one for one in card["splits"].values()):
        parts += ["## Labels", _label_table(card)]
    if "tokenizer" in card:
        parts += ["## Tokens", _token_lines(card)]
    parts += ["## First rows"]
    parts += [f"{split}:\n\n{_indented(one['example'])}" for split, one in card["splits"].items()]
    parts += ["## Settings", "\n".join(f"- {name}: `{value}`" for name, value in card["settings"].items())]
    return "\n\n".join(parts) + "\n"


def _source_line(source: dict[str, Any]) -> str:
    if "absent" in source:
        return f"not at hand. {source['absent']}"
    return f"{source['rows']:,} rows of {source['origin']}"


def _feature_table(card: dict[str, Any]) -> str:
    lines = [["feature", "mean", "least", "median", "p95", "most"]]
    for split, one in card["splits"].items():
        for name, values in one["features"].items():
            lines.append([f"{split}: {name}", *(f"{value:,.10g}" for value in values.values())])
    return table(lines)


def _label_table(card: dict[str, Any]) -> str:
    names = list(next(one["labels"] for one in card["splits"].values()))
    lines = [["split", *names]]
    for split, one in card["splits"].items():
        total = sum(one["labels"].values())
        lines.append([split, *(f"{count:,} ({count / total:.1%})" for count in one["labels"].values())])
    return table(lines)


def _token_lines(card: dict[str, Any]) -> str:
    told = card["tokenizer"]
    lines = [f"- tokenizer: {told['origin']}, {told['size']:,} tokens, digest `{told['digest'][:16]}`"]
    for split, one in card.get("tokens", {}).items():
        counts = "".join(f", {count:,} {reason}" for reason, count in one["counts"].items())
        lines.append(f"- {split}: {one['examples']:,} examples{counts}")
    return "\n".join(lines)


def _indented(example: dict[str, Any]) -> str:
    lines = [f"{name}: {value}" for name, value in example.items()]
    return "\n".join(f"    {line}" for line in "\n".join(lines).splitlines())
