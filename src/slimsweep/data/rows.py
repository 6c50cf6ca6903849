"""Rows of a public dataset's split: from a local copy, an installed package or the hub."""

import codecs
import contextlib
import csv
import functools
import gzip
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimsweep.data import reviews, standard_library
from slimsweep.errors import CorpusError

log = logging.getLogger(__name__)

HUB_PROBE_SECONDS = 5
KINDS = ("txt", "jsonl", "json", "csv", "tsv", "parquet")
"""Endings of files that hold a user's text, in any case; `.gz` may follow."""
LONGEST_CSV_FIELD = 2**31 - 1
BEGINNINGS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16", b"\x1f\x8b": "a .gz file"}
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_failures: dict[str, str] = {}  # hub arguments that failed in this process: waiting for each job again helps nobody


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Place of the rows of one split. A local copy wins over the hub."""

    files: tuple[str, ...] = ()
    """Names below data_dir, or absolute paths; the first that exists is read."""
    hub: dict[str, Any] = field(default_factory=dict)
    """Arguments of `datasets.load_dataset`, `split` among them; empty where the hub has no such text."""
    embedded: str = ""
    """A part of the embedded reviews or of the standard library, which need neither folder nor network."""
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
            source = standard_library if self.embedded in standard_library.PARTS else reviews
            return list(source.rows(self.embedded)), source.origin()
        if path := self.local_path(data_dir):
            rows = read_file(path, column)
            if self.one_document and kind_of(path) == "txt":
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
        option = "data_dir=FOLDER (slim prepare: --data-dir FOLDER; or SLIMSWEEP_DATA"
        local = f"put a copy named {' or '.join(self.files)} below {option}; {folder})"
        if not self.hub:
            return f"{cause}: {local}"
        return f"{cause}. Either {local}, or give network access to the hub dataset {self.hub['path']}"


def kind_of(path: Path) -> str:
    """The ending of a file's name in small letters, that of the unpacked file for `.gz`."""
    return path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]


def read_file(path: Path, column: str = "text") -> list[dict]:
    """Rows of a file by its ending (see KINDS), or the lines of a plain text file; `.gz` is unpacked.

    JSON is a list of rows or one row a line; a row that is only a string stands in `column`. Lines keep their newline
    and end at newlines only, as Hugging Face's `text` column of WikiText has them. A byte order mark is dropped.

    Raises:
        CorpusError: not readable as what its name says, or not UTF-8; the byte or row is named.
    """
    kind = kind_of(path)
    try:
        if kind == "parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(io.BytesIO(_content(path)) if _is_packed(path) else path).to_pylist()
        with _open_text(path, newline="" if kind in ("csv", "tsv") else None) as file:
            if kind in ("jsonl", "json"):
                return _whole_characters(_json_rows(file, column, path), path)
            if kind in ("csv", "tsv"):
                csv.field_size_limit(LONGEST_CSV_FIELD)  # Python's default of 131,072 characters is less than a book
                # strict: a quote that is never closed would otherwise swallow all rows after it
                return list(csv.DictReader(_text_only(file), delimiter="\t" if kind == "tsv" else ",", strict=True))
            return [{column: line} for line in _text_only(file)]
    except (OSError, EOFError, ValueError, csv.Error) as error:  # bad UTF-8, JSON and parquet are ValueErrors
        is_text = kind != "parquet" and isinstance(error, UnicodeError)
        reason = _bad_byte(path) if is_text else None
        raise CorpusError(reason or f"{path} cannot be read as {kind}: {error}") from error


def _json_rows(file: io.TextIOBase, column: str, path: Path) -> list[dict]:
    """Rows of a list, of one object over several lines, or of a file with one row a line."""
    content: list[Any] = []
    for number, line in enumerate(_text_only(file), 1):
        line = line.lstrip("\ufeff")  # files with a mark that were joined
        if not content and line.lstrip().startswith("["):
            content = json.loads(line + file.read())
            break
        try:
            content += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            rest = "" if content else file.read()
            if not (whole := _one_object(line + rest)):
                raise CorpusError(f"{path}: line {number} is no JSON ({error})") from error
            content = [whole]
            break
    rows = [{column: row} if isinstance(row, str) else row for row in content]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise CorpusError(f"{path}: row {number} is {row!r:.40}; a row is an object with named columns, or a text")
    return rows


def _one_object(text: str) -> dict | None:
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _whole_characters(rows: list[dict], path: Path) -> list[dict]:
    """Rows with U+FFFD for each half of a surrogate pair, which JSON can spell but no tokenizer reads."""
    damaged = [index for index, row in enumerate(rows) if any(map(_has_half, row.values()))]
    for index in damaged:
        rows[index] = json.loads(HALF_CHARACTER.sub("\ufffd", json.dumps(rows[index], ensure_ascii=False)))
    if damaged:
        log.warning(
            "%s: %d rows hold half a character (a lone surrogate, as cutting an emoji leaves it), the first is row %d: "
            "read as U+FFFD",
            *(path, len(damaged), damaged[0] + 1),
        )
    return rows


def _has_half(value: Any) -> bool:
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
    return isinstance(value, str) and not value.isascii() and bool(HALF_CHARACTER.search(value))


def _text_only(lines: Iterable[str]) -> Iterator[str]:
    """The lines, refused where a character of value 0 shows that they are no text, or UTF-16."""
    for line in lines:
        if "\0" in line:
            raise UnicodeError("a character of value 0")
        yield line


def _bad_byte(path: Path) -> str | None:
    """A sentence about the first byte of a file that is not UTF-8 text."""
    try:
        content = _content(path)
        content.decode("utf-8")
        position = content.find(b"\0")
    except UnicodeDecodeError as error:
        position = error.start
    except (OSError, EOFError):
        return None
    guess = next((f" (it begins like {name})" for mark, name in BEGINNINGS.items() if content.startswith(mark)), "")
    return (
        f"{path} is not UTF-8: byte {position} is 0x{content[position]:02x}{guess}. Save it as UTF-8, for example with "
        "iconv -f ENCODING -t UTF-8"
    )


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if _is_packed(path) else path.read_bytes()


def _open_text(path: Path, newline: str | None = None) -> io.TextIOBase:
    if _is_packed(path):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)
    return path.open(encoding="utf-8-sig", newline=newline)


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
