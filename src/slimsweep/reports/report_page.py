"""A report as one HTML page that needs no network: style, data, plotly and figures stand in the file itself.

Every text is escaped by Jinja's autoescape. A content security policy lists the hashes of the page's own scripts, so
that no other script runs, and forbids every request.
"""

import base64
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slimsweep.errors import StoreError
from slimsweep.reports.layer_errors import Measure
from slimsweep.reports.report import Report, as_address, short

FOLDER = Path(__file__).with_name("page")
SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
    "<": "triangle-left",
    ">": "triangle-right",
}
"""Markers of the figures, and plotly's words for them."""
HEAT_LEVELS = 5


def page(report: Report) -> str:
    """The HTML text.

    Raises:
        StoreError: plotly is not installed.
    """
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True)
    layers = environment.get_template("layers.html")
    scripts = {"plotly": _plotly(), "script": (FOLDER / "report.js").read_text(encoding="utf-8")}
    return environment.get_template("report.html").render(
        report=report,
        policy=_policy(scripts.values()),
        css=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        data=Markup(_json(_data(report))),
        short=short,
        address=as_address,
        bars=lambda measure: Markup(layers.render(**_rows(measure))),
        **{name: Markup(text) for name, text in scripts.items()},
    )


def _plotly() -> str:
    """plotly.js as one script that may stand inside a page."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise StoreError(
            "the charts of a report need plotly, which is not installed: pip install 'slimsweep[report]'. "
            "A report without charts needs nothing: --format md"
        ) from error
    return get_plotlyjs().replace("</script", "<\\/script")


def _policy(scripts: Any) -> str:
    """Content security policy: nothing is fetched, and no script runs but those given."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"


def _json(value: Any) -> str:
    """JSON that may stand inside a script element: no character of it can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(report: Report) -> dict[str, Any]:
    """Values that the page's script reads."""
    from slimsweep.figures.style import appearances

    labels = sorted({point["line"] for chart in report.charts for point in chart["points"] if not point["isDense"]})
    looks = zip(labels, appearances(labels), strict=True)
    return {
        "charts": report.charts,
        "costs": [asdict(cost) for cost in report.costs],
        "looks": {label: {"color": look["color"], "symbol": SYMBOLS[look["marker"]]} for label, look in looks},
    }


def _rows(measure: Measure) -> dict[str, Any]:
    """Rows of the table of a measure: each block's value as a bar, its layers as cells by level of heat."""
    parts = list(dict.fromkeys(part for block in measure.blocks for part, _ in block.layers))
    largest = measure.largest.value or 1.0
    hottest = max((value for block in measure.blocks for _, value in block.layers), default=0.0) or 1.0
    bad = measure.first_bad
    rows = []
    for block in measure.blocks:
        values = dict(block.layers)
        cells = [
            (_level(values[part], hottest), f"{values[part]:.3g}") if part in values else (0, "") for part in parts
        ]
        share = f"{100 * block.value / largest:.1f}"
        row = {"name": block.name, "text": f"{block.value:.3g}", "percent": share, "cells": cells}
        rows.append(row | {"is_bad": bad is not None and block is bad[0]})
    return {"measure": measure, "parts": parts, "rows": rows}


def _level(value: float, hottest: float) -> int:
    return round(HEAT_LEVELS * value / hottest)
