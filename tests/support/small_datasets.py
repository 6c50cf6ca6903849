"""Tiny datasets as folders of files, and a preparation written by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet

from slimsweep.data.corpora import Corpora
from slimsweep.data.preparation.dataset import Dataset, dataset_of
from slimsweep.data.preparation.store import VERSIONS, local_digest, place, rows_digest


def prepared_by_hand(dataset: Dataset, corpora: Corpora, key: str = "0123456789abcdef", **splits: list[dict]) -> Path:
    """A preparation of a dataset with these rows."""
    folder = place(dataset, corpora) / key
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}.parquet")
    card = {
        "version": VERSIONS[dataset.kind],
        "row_settings": dataset.row_settings(),
        "settings": dataset.settings(),
        "sources": {split: {"digest": local_digest(source, corpora)} for split, source in dataset.splits.items()},
        "splits": {
            split: {"rows": len(rows), "digest": rows_digest(rows, dataset.standard_columns)}
            for split, rows in splits.items()
        },
    }
    (folder / "card.json").write_text(json.dumps(card))
    return folder


SHORT = {
    "text": ({"text": "one"}, {"text": "two"}, {"text": "three"}),
    "labelled": ({"text": "good", "label": 1}, {"text": "bad", "label": 0}, {"text": "fine", "label": "positive"}),
    "pairs": ({"source": "one", "target": "eins"}, {"source": "two", "target": "zwei"}),
    "conversations": ({"instruction": "Add.", "input": "1 2", "output": "3"}, {"prompt": "Hi", "response": "Ho"}),
    "problems": ({"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"},),
}
"""A few rows of each kind, as files have them."""


def write_rows(folder: Path, name: str, rows: Sequence[dict]) -> str:
    """Path of a .jsonl file of rows."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def small_dataset(kind: str, folder: Path, splits: dict[str, Sequence[dict]], **settings) -> Dataset:
    """A dataset of some rows in files of a folder."""
    files = {split: {"files": [write_rows(folder, f"{split}.jsonl", rows)]} for split, rows in splits.items()}
    labels = {"labels": ["negative", "positive"]} if kind == "labelled" else {}
    return dataset_of("mine", {"kind": kind, "splits": files} | labels | settings)
