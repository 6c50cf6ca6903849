"""Token ids drawn from a corpus by seed: the text that data-driven techniques see."""

import random
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from slimsweep.checks import choice_faults, refuse, whole_number_faults
from slimsweep.data.corpora import Corpora, Text, tokenize
from slimsweep.data.drawn_bytes import DrawnBytes
from slimsweep.data.rows import KINDS
from slimsweep.data.unknown_tokens import ids_fault, texts_fault
from slimsweep.errors import TooFewTokensError
from slimsweep.models.batch_sizes import longest_context
from slimsweep.models.batches import Batch, text_batch

DRAWS = ("document", "joined")


@dataclass(frozen=True, kw_only=True)
class Calibration(DrawnBytes):
    """Calibration text: its source, its amount and how it is drawn.

    Source: arXiv:2301.00774, sec. 4. The draws are those of its code and of Wanda's: the same seed, text and
    tokenizer give the same sequences.
    """

    corpus: str | dict[str, str]
    """A corpus by name, or a file as `{name: mine, path: FILE, column: text}`."""
    sequences: int
    """Number of sequences drawn, with replacement."""
    tokens: int
    """Tokens of each sequence."""
    draw: str
    """`document`: a window of a random document that is longer than it; `joined`: of the whole joined text."""
    path: str | None = None
    """File of the corpus that the field `corpus` names; None for a known corpus."""
    column: str | int | None = None
    """Column of that file that holds the text; None: text."""

    def __post_init__(self) -> None:
        faults = whole_number_faults("calibration.sequences", self.sequences)
        faults += whole_number_faults("calibration.tokens", self.tokens)
        faults += choice_faults("calibration.draw", [self.draw], DRAWS)
        if self.column is not None and not self.path:
            faults.append(f"calibration.column={self.column!r} is of a file of yours: add calibration.path=FILE")
        refuse(faults)

    @property
    def _corpus(self) -> str | dict[str, str]:
        if not self.path:
            return self.corpus
        return {"name": self.corpus, "path": self.path} | ({} if self.column is None else {"column": self.column})

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        """Faults of text, tokenizer or length that keep these sequences from being drawn. Reads no weights."""
        if source.task == "seq2seq_lm":
            return [
                f"model {source.name} is an encoder-decoder (model.task=seq2seq_lm), which calibrates on pairs: set "
                "calibration=pairs calibration.path=FILE"
            ]
        if self.corpus == "text" and not self.path:
            return [f"calibration=text reads a file of yours: add calibration.path=FILE (.{', .'.join(KINDS)})"]
        if fault := corpora.fault(self._corpus):
            return [fault]
        tokenizer = source.tokenizer()
        if tokenizer is None:
            return [f"model {source.name} has no tokenizer, which calibration text needs"]
        longest = longest_context(source.config())
        if longest is not None and self.tokens > longest:
            return [
                f"sequences of {self.tokens} tokens, but this model takes {longest}: set calibration.tokens={longest}"
            ]
        try:
            self._check_length(tokenizer, corpora)
        except TooFewTokensError as error:
            return [str(error)]
        fault = self._unknown_token_fault(tokenizer, corpora, source.config().get_text_config().vocab_size)
        return [fault] if fault else []

    def _unknown_token_fault(self, tokenizer: Any, corpora: Corpora, embeddings: int) -> str | None:
        text = corpora.text(self._corpus)
        what = f"calibration text {text.corpus.name}"
        if self.draw == "joined":
            return ids_fault(what, corpora.token_ids(self._corpus, tokenizer), tokenizer, embeddings)
        return texts_fault(what, text.documents, tokenizer, embeddings)

    @property
    def longest_tokens(self) -> int:
        return self.tokens

    def digest(self, corpora: Corpora) -> str:
        """SHA-256 of the text."""
        return corpora.text(self._corpus).digest

    def sample(self, source: Any, corpora: Corpora, seed: int) -> Batch:
        """Draw the sequences; equal seeds draw equal ones.

        Raises:
            TooFewTokensError: no document, or not the whole text, is long enough.
            CorpusError: the text cannot be read.
        """
        tokenizer = source.tokenizer()
        self._check_length(tokenizer, corpora)
        chance = random.Random(seed)
        windows = []
        for _ in range(self.sequences):
            token_ids = self._drawn_text(tokenizer, corpora, chance)
            # One start less than there are, as in the papers' code; a text of exactly one window has only one.
            start = chance.randint(0, max(0, len(token_ids) - self.tokens - 1))
            windows.append(token_ids[start : start + self.tokens])
        return text_batch(torch.stack(windows))

    def _drawn_text(self, tokenizer: Any, corpora: Corpora, chance: random.Random) -> Int[Tensor, " token"]:
        if self.draw == "joined":
            return corpora.token_ids(self._corpus, tokenizer)
        documents = corpora.text(self._corpus).documents
        while True:  # ends: _check_length has found a document that is long enough
            token_ids = tokenize(documents[chance.randint(0, len(documents) - 1)], tokenizer)
            if len(token_ids) > self.tokens:
                return token_ids

    def _check_length(self, tokenizer: Any, corpora: Corpora) -> None:
        text = corpora.text(self._corpus)
        if self.draw == "joined":
            found = len(corpora.token_ids(self._corpus, tokenizer))
            if found < self.tokens:
                raise TooFewTokensError(
                    f"calibration text {text.corpus.name} ({text.origin}) has {found} tokens, less than one window of "
                    f"{self.tokens}: give a longer text or a smaller calibration.tokens"
                )
        elif not _has_longer_document(text, self.tokens, tokenizer):
            raise TooFewTokensError(
                f"calibration text {text.corpus.name} ({text.origin}) has no document longer than {self.tokens} "
                "tokens: set calibration.draw=joined, or give a smaller calibration.tokens"
            )


def _has_longer_document(text: Text, tokens: int, tokenizer: Any) -> bool:
    """Whether any document has more than `tokens` tokens; the longest are looked at first."""
    lengths = sorted(((len(document), index) for index, document in enumerate(text.documents)), reverse=True)
    # Few tokens are shorter than a character; bytes and special tokens make the bound safe.
    candidates = (text.documents[index] for length, index in lengths if 4 * length + 8 > tokens)
    return any(len(tokenize(document, tokenizer)) > tokens for document in candidates)
