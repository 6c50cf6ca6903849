"""Rows of prepared datasets, by name of dataset and split: the reader of what `slim prepare NAME` wrote."""

import functools
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimsweep.data.corpora import Corpora
from slimsweep.data.preparation.dataset import Dataset, dataset_named
from slimsweep.data.preparation.store import Folder, folders, matching
from slimsweep.data.rows import read_file
from slimsweep.errors import CorpusError
from slimsweep.hints import allowed_names
from slimsweep.paths import lasting_cache, outputs_dir


@dataclass(frozen=True)
class PreparedSplit:
    """One split of a prepared dataset."""

    dataset: Dataset
    split: str
    path: Path
    """Parquet file of the rows; its columns are the standard ones, then the features."""
    digest: str
    """SHA-256 of the rows' standard columns in order, for identities and protocols."""
    key: str
    """Key of the preparation."""

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Rows with the standard columns of the dataset's kind.

        `text`; `text` and `label` (the number of the class); `source` and `target`; `messages` (dicts of `role` and
        `content`); `question` and `answer`.
        """
        columns = self.dataset.standard_columns
        return [{name: row[name] for name in columns} for row in read_file(self.path)]


def read_split(name: str, split: str, corpora: Corpora) -> PreparedSplit:
    """A split of a dataset as its file says how to prepare it, or of the preparation `NAME@KEY`.

    Args:
        name: of the dataset; for other settings, followed by @ and the key that `slim prepare` printed.

    Raises:
        CorpusError: unknown dataset or split, not prepared yet (the message has the command), or prepared from several
            sources none of which is at hand.
    """
    dataset, folder = find(name, corpora)
    splits = folder.card["splits"]
    if split not in splits:
        absent = folder.card["sources"].get(split, {}).get("absent")
        reason = f": {absent}" if absent else f". {allowed_names(split, splits, 'There are')}"
        raise CorpusError(f"dataset {name} was prepared without the split {split!r}{reason}")
    return PreparedSplit(dataset, split, folder.split_path(split), splits[split]["digest"], folder.key)


def dataset_label(name: str) -> str:
    """Name of a dataset in a protocol, without folders: `mine` of `folder/mine.yaml`, `sst2@KEY` of itself."""
    place, at, key = name.partition("@")
    return Path(place).stem + at + key


def find(name: str, corpora: Corpora) -> tuple[Dataset, Folder]:
    """The preparation that a name, or `NAME@KEY`, asks for.

    Raises:
        CorpusError: there is none, or there are several with other rows.
    """
    name, _, key = name.partition("@")
    dataset = dataset_named(name)
    return dataset, _by_key(dataset, key, corpora) if key else _by_settings(dataset, corpora)


def _by_key(dataset: Dataset, key: str, corpora: Corpora) -> Folder:
    every = folders(dataset, corpora)
    found = [folder for folder in every if folder.key.startswith(key)]
    if len(found) != 1:
        keys = ", ".join(folder.key for folder in every) or "none"
        raise CorpusError(
            f"{len(found)} preparations of dataset {dataset.name} have a key that begins with {key}: {keys}"
        )
    return found[0]


def _by_settings(dataset: Dataset, corpora: Corpora) -> Folder:
    found = matching(dataset, corpora)
    if not found:
        raise CorpusError(
            f"dataset {dataset.name} is not prepared from the sources at hand (looked in "
            f"{lasting_cache(corpora.cache_dir)}/prepared): run {command(dataset.name, corpora)}"
        )
    most = [folder for folder in found if len(folder.card["splits"]) == len(found[0].card["splits"])]
    if len({str(folder.card["splits"]) for folder in most}) > 1:
        keys = ", ".join(folder.key for folder in most)
        folder = lasting_cache(corpora.cache_dir) / "prepared" / dataset.name
        raise CorpusError(
            f"dataset {dataset.name} was prepared from several sources ({keys} in {folder}) and none of "
            "them is at hand: set data_dir=FOLDER to the one that is meant, or remove the other folders"
        )
    return most[0]


def command(name: str, corpora: Corpora) -> str:
    """The command that prepares a dataset where these corpora look for it."""
    words = ["slim", "prepare", name]
    words += ["--data-dir", str(corpora.data_dir)] if corpora.data_dir else []
    cache_dir = lasting_cache(corpora.cache_dir)
    is_default = cache_dir == outputs_dir() / "cache"
    return shlex.join([*words, *([] if is_default else ["--cache-dir", str(cache_dir)])])
