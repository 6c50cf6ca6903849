"""Verification of an export in a new process, which has nothing but the files and the sample."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from slimsweep.errors import ExportError, SlimsweepError
from slimsweep.export.base import Format, Sample
from slimsweep.export.sample import read_sample, write_sample

MODULE = "slimsweep.export.checking"
TIMEOUT_SECONDS = 4 * 3600
"""Longest check: it reads a large model from a slow disk and runs it on few cores."""


def verified(format: Format, folder: Path, sample: Sample) -> list[str]:
    """Lines of `format.verify`, run by a new Python that asks no hub.

    Raises:
        ExportError: the check failed, took too long, or the process ended without an answer.
    """
    with tempfile.TemporaryDirectory(prefix="slimsweep-export-") as place:
        file = Path(place) / "sample.safetensors"
        write_sample(sample, file)
        source = str(Path(__file__).parents[2])
        paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
        request = json.dumps(
            {
                "format": format.name,
                "options": dataclasses.asdict(format),
                "folder": str(folder),
                "sample": str(file),
            }
        )
        command = [sys.executable, "-m", MODULE, request]
        settings = {"env": environment, "capture_output": True, "text": True, "check": False}
        try:
            done = subprocess.run(command, timeout=TIMEOUT_SECONDS, **settings)
        except subprocess.TimeoutExpired as error:
            raise ExportError(
                f"the check of the files written as {format.name} took longer than {TIMEOUT_SECONDS / 3600:g} hours "
                "and was stopped; the files were removed. Export again where the machine is free or has more memory"
            ) from error
    return _answer(format, done)


def _answer(format: Format, done: subprocess.CompletedProcess[str]) -> list[str]:
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        lines, error = answer["lines"], answer["error"]
    except (IndexError, ValueError, KeyError, TypeError):
        ending = (done.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
        lines, error = [], f"the new process ended with status {done.returncode}: {ending}"
    if error:
        raise ExportError(f"the files written as {format.name} failed their check, and were removed: {error}")
    return lines


def answer(request: str) -> dict[str, object]:
    """Answer to one request, in the new process: the lines of `verify`, or its error."""
    from slimsweep.export.formats import formats

    asked = json.loads(request)
    format = formats()[asked["format"]](**asked["options"])
    try:
        return {"lines": format.verify(Path(asked["folder"]), read_sample(Path(asked["sample"]))), "error": ""}
    except SlimsweepError as error:
        return {"lines": [], "error": str(error)}


if __name__ == "__main__":
    print("\n" + json.dumps(answer(sys.argv[1])))
