"""Lint of the chat template in a GGUF file by ggufdoctor, which runs it in jinja2 and in llama.cpp's own engine."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

WORST = "error"
"""Severity that is worth a line. Lesser findings are kept to ggufdoctor's own report."""

START = "import sys; from ggufdoctor.cli import main; sys.exit(main())"
ABOUT_OLLAMA = ("X003", "O001")
"""Findings on the template that ollama would choose itself; the format `ollama` writes one, so that it does not."""


def lint(file: Path) -> list[str]:
    """A line on each error of the template; empty where ggufdoctor is not installed.

    The template is that of the tokenizer, so an error is no fault of the export.
    """
    if importlib.util.find_spec("ggufdoctor") is None:
        return []
    with tempfile.TemporaryDirectory(prefix="slimsweep-lint-") as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-c", START, str(file), "--json", str(report), "--fail-on", "never"]
        subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if not report.is_file():
            return ["warning: ggufdoctor could not read the chat template"]
        findings = json.loads(report.read_text(encoding="utf-8"))["findings"]
    errors = [entry for entry in findings if entry["severity"] == WORST and entry["id"] not in ABOUT_OLLAMA]
    lines = [f"warning: chat template, {entry['id']}: {entry['message']}" for entry in errors]
    return lines or ["verified: the chat template has no error (ggufdoctor)"]
