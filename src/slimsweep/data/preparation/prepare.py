"""Preparation of a dataset as a whole: read, run the steps, encode, store under a key, or find what is stored."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from slimsweep.atomic import whole_folder
from slimsweep.data.corpora import Corpora
from slimsweep.data.preparation import card as cards
from slimsweep.data.preparation.dataset import TRAIN, Dataset
from slimsweep.data.preparation.pipeline import Outcome, run_steps
from slimsweep.data.preparation.sources import read_sources
from slimsweep.data.preparation.splits import Rows
from slimsweep.data.preparation.store import CARD, TOKENIZER, TOKENS, Folder, key_of, matching, place
from slimsweep.data.preparation.tokenization import Tokens, encode, train_tokenizer
from slimsweep.errors import CorpusError, ModelError
from slimsweep.models.sources.tokenizer_digest import tokenizer_digest
from slimsweep.progress import watcher


def prepare(dataset: Dataset, corpora: Corpora) -> tuple[Folder, bool]:
    """The preparation of a dataset, and whether it was made now; equal ones are made once.

    A killed preparation leaves nothing that a reader would take for a whole one.

    Raises:
        ConfigError: every fault of the sources, together.
        CorpusError: nothing is at hand, or a step leaves nothing.
    """
    folder = place(dataset, corpora)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        tokenizer = _Tokenizer(dataset)
        if (stored := _stored(dataset, corpora, tokenizer.given_digest)) is not None:
            return stored, False
        sources, absent = read_sources(dataset, corpora)
        digests = {split: one.digest for split, one in sources.items()} | {"tokenizer": tokenizer.given_digest}
        key = key_of(dataset.settings(), digests)
        path = folder / key
        if (path / CARD).is_file():  # the hub was asked again for splits that are still not at hand
            return Folder(path, json.loads((path / CARD).read_text(encoding="utf-8"))), False
        for left in (path, *folder.glob(".*.partial")):  # without a card, or of a killed process
            shutil.rmtree(left, ignore_errors=True)
        with whole_folder(path) as partial:
            tokenizer.folder = partial / TOKENIZER
            outcome = run_steps({split: one.rows for split, one in sources.items()}, dataset, tokenizer.counter)
            card = cards.card_of(dataset, key, sources, absent, outcome)
            _write(partial, dataset, outcome, card, tokenizer)
        return Folder(path, card), True


def _stored(dataset: Dataset, corpora: Corpora, tokenizer: str) -> Folder | None:
    """A preparation by equal settings and sources with every split, found without reading a row.

    Args:
        tokenizer: digest of a given one.
    """
    for found in matching(dataset, corpora, is_for_rows=False):
        is_same = not tokenizer or found.card["tokenizer"]["digest"] == tokenizer
        if is_same and not any("absent" in one for one in found.card["sources"].values()):
            return found
    return None


class _Tokenizer:
    """The tokenizer of a preparation: a given one, or one that is trained once the training rows are known."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset
        self.folder = Path()
        self.tokenizer: Any = None
        self.origin = self.given_digest = ""
        if isinstance(dataset.tokenizer, str):
            self.tokenizer, self.origin = _load(dataset.tokenizer), dataset.tokenizer
            self.given_digest = tokenizer_digest(self.tokenizer)

    def counter(self, rows: Rows) -> Callable[[str], int] | None:
        """Count of a text's tokens without special ones; None where the dataset names no tokenizer."""
        wanted = self._dataset.tokenizer
        if wanted is None:
            return None
        watcher().step("tokenizer")
        if isinstance(wanted, int):
            if not rows:
                raise CorpusError(f"tokenizer={wanted} is trained on the split {TRAIN}, which is not at hand")
            train_tokenizer(_texts(rows), wanted, self.folder)
            self.tokenizer, self.origin = _load(str(self.folder)), f"byte-level BPE trained on {TRAIN}"
        return lambda text: len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _load(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # transformers and tokenizers raise nothing more exact
        raise ModelError(
            f"tokenizer={name}: neither a folder with a tokenizer nor one of the hub that can be reached ({error})"
        ) from error


def _texts(rows: Rows) -> Iterator[str]:
    """Every text of the rows, on which a tokenizer is trained."""
    for row in rows:
        for value in row.values():
            if isinstance(value, str):
                yield value
            elif isinstance(value, list):
                yield from (turn["content"] for turn in value)


def _write(folder: Path, dataset: Dataset, outcome: Outcome, card: dict[str, Any], tokenizer: _Tokenizer) -> None:
    """Write rows, tokens and both cards; the card is completed by what the tokenizer counted."""
    watcher().step("write")
    for split, rows in outcome.splits.items():
        whole = [row | features for row, features in zip(rows, outcome.features[split], strict=True)]
        _write_rows(whole, dataset, folder / f"{split}.parquet")
    if tokenizer.tokenizer is not None:
        digest, size = tokenizer_digest(tokenizer.tokenizer), len(tokenizer.tokenizer)
        card["tokenizer"] = {"origin": tokenizer.origin, "size": size, "digest": digest}
    if dataset.tokens is not None:
        encoded = {split: encode(rows, dataset, split, tokenizer.tokenizer) for split, rows in outcome.splits.items()}
        card["tokens"] = {split: _write_tokens(one, folder / TOKENS, split) for split, one in encoded.items()}
    (folder / "card.md").write_text(cards.markdown(card), encoding="utf-8")
    with (folder / CARD).open("w", encoding="utf-8") as file:
        file.write(json.dumps(card, indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _write_rows(rows: Rows, dataset: Dataset, path: Path) -> None:
    """Rows as Parquet with the types of `datasets`, labels with their names."""
    import datasets

    texts = dict.fromkeys(dataset.standard_columns, datasets.Value("string"))
    if dataset.kind == "labelled":
        texts["label"] = datasets.ClassLabel(names=list(dataset.labels))
    if dataset.kind == "conversations":
        turn = {"role": datasets.Value("string"), "content": datasets.Value("string")}
        texts["messages"] = datasets.List(turn)
    types = {name: "float64" if name.endswith("ratio") else "int64" for name in dataset.features}
    features = datasets.Features(texts | {name: datasets.Value(kind) for name, kind in types.items()})
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)


def _write_tokens(tokens: Tokens, folder: Path, split: str) -> dict[str, Any]:
    import datasets

    folder.mkdir(exist_ok=True)
    datasets.Dataset.from_list(tokens.examples).to_parquet(folder / f"{split}.parquet")
    return {"examples": len(tokens.examples), "counts": tokens.counts}
