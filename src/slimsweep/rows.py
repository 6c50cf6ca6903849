"""Rows of a public dataset's split: from a local copy, an installed package or the hub."""

import contextlib
import functools
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimsweep import reviews
from slimsweep.errors import CorpusError

HUB_PROBE_SECONDS = 5
_failures: dict[str, str] = {}  # hub arguments that failed in this process: waiting for each job again helps nobody


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Where the rows of one split lie. A local copy wins over the hub."""

    files: tuple[str, ...] = ()
    """Names below data_dir, or absolute paths; the first that exists is read."""
    hub: dict[str, Any] = field(default_factory=dict)
    """Arguments of `datasets.load_dataset`, `split` among them; empty where the hub has no such text."""
    embedded: str = ""
    """A part of the embedded reviews, which needs neither folder nor network."""
    one_document: bool = False
    """A plain text file is one row instead of one row per line."""

    def local_path(self, data_dir: Path | None) -> Path | None:
        """The local copy, or None."""
        folder = data_dir or Path()
        candidates = [folder / name for name in self.files if data_dir or Path(name).is_absolute()]
        return next((path for path in candidates if path.is_file()), None)

    def read(self, data_dir: Path | None, cache_dir: Path, column: str = "text") -> tuple[list[dict], str]:
        """All rows and where they came from. A line of a plain text file becomes `{column: line}`.

        Raises:
            CorpusError: neither local nor reachable (both ways to get it are named), or damaged.
        """
        if self.embedded:
            return list(reviews.rows(self.embedded)), reviews.origin()
        if path := self.local_path(data_dir):
            rows = read_file(path, column)
            if self.one_document and path.suffix == ".txt":
                rows = [{column: "".join(row[column] for row in rows)}]
            return rows, str(path)
        if not self.hub:
            raise CorpusError(self._both_ways(data_dir, "it has no hub dataset"))
        name = json.dumps(self.hub, sort_keys=True)
        if name not in _failures:
            try:
                return _read_hub(self.hub, cache_dir), f"hub {self.hub['path']}"
            except CorpusError as error:
                _failures[name] = str(error)
        raise CorpusError(self._both_ways(data_dir, _failures[name]))

    def _both_ways(self, data_dir: Path | None, cause: str) -> str:
        folder = f"{data_dir} has none" if data_dir else "no data_dir is set"
        local = f"put a copy named {' or '.join(self.files)} below data_dir=FOLDER (or SLIMSWEEP_DATA; {folder})"
        if not self.hub:
            return f"{cause}: {local}"
        return f"{cause}. Either {local}, or give network access to the hub dataset {self.hub['path']}"


def read_file(path: Path, column: str = "text") -> list[dict]:
    """Rows of a .jsonl, .json (lines) or .parquet file, or the lines of a plain text file; `.gz` is unpacked.

    Lines keep their newline and end at newlines only, as Hugging Face's `text` column of WikiText has them.

    Raises:
        CorpusError: not readable as what its name says, or not UTF-8.
    """
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
    try:
        if kind == "parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(path).to_pylist()
        with _open_text(path) as lines:
            if kind in ("jsonl", "json"):
                return [json.loads(line) for line in lines if line.strip()]
            return [{column: line} for line in lines]
    except (OSError, EOFError, ValueError) as error:  # bad UTF-8, JSON and parquet are ValueErrors
        raise CorpusError(f"{path} cannot be read as {kind}: {error}") from error


def _open_text(path: Path) -> Iterator[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _read_hub(arguments: dict[str, Any], cache_dir: Path) -> list[dict]:
    import datasets
    import httpx

    try:
        with contextlib.nullcontext() if _hub_answers() else _offline():
            dataset = datasets.load_dataset(**arguments, cache_dir=str(cache_dir / "datasets"))
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        raise CorpusError(f"the hub dataset {arguments['path']} cannot be loaded ({error})") from error
    return dataset.to_list()


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Let `datasets` look only in its caches; without network it would retry each request for 24 s."""
    import datasets
    import huggingface_hub

    settings = (huggingface_hub.constants, datasets.config)
    before = [place.HF_HUB_OFFLINE for place in settings]
    for place in settings:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(settings, before, strict=True):
            place.HF_HUB_OFFLINE = value


@functools.cache
def _hub_answers() -> bool:
    import httpx
    import huggingface_hub

    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=HUB_PROBE_SECONDS)
    except (OSError, httpx.HTTPError):
        return False
    return True
