"""Tiny datasets as folders of files, and a preparation written by hand."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from slimsweep.data.corpora import Corpora
from slimsweep.data.preparation.dataset import Dataset
from slimsweep.data.preparation.store import VERSION, local_digest, place, rows_digest


def prepared_by_hand(dataset: Dataset, corpora: Corpora, key: str = "0123456789abcdef", **splits: list[dict]) -> Path:
    """A preparation of a dataset with these rows."""
    folder = place(dataset, corpora) / key
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}.parquet")
    card = {
        "version": VERSION,
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
