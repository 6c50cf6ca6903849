"""Plain text to train language models on: windows of one length, packed without padding."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slimsweep.checks import refuse, whole_number_faults
from slimsweep.data.corpora import Corpora
from slimsweep.data.rows import KINDS
from slimsweep.data.training import TrainingData, TrainingSet, length_faults, split_by_content, task_faults, token_bytes
from slimsweep.data.unknown_tokens import ids_fault
from slimsweep.errors import TooFewTokensError
from slimsweep.models.batches import Batch


@dataclass(frozen=True, kw_only=True)
class TrainingText(TrainingData):
    """A corpus, or a file, joined and cut into consecutive windows. One window in twenty is held out."""

    corpus: str
    """A corpus by name; the name of a file's text in records, if there is a path."""
    tokens: int
    """Tokens of a window."""
    path: str | None = None
    """File of the text; None for a known corpus."""
    column: str | int | None = None
    """Column of that file that holds the text; None: text."""

    def __post_init__(self) -> None:
        refuse([*self.bad_values(), *whole_number_faults("data.tokens", self.tokens, least=2)])

    @property
    def _corpus(self) -> str | dict[str, Any]:
        if not self.path:
            return self.corpus
        return {"name": self.corpus, "path": self.path} | ({} if self.column is None else {"column": self.column})

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        if faults := task_faults(source, "causal_lm", "text", "set data=pairs or data=rows"):
            return faults
        if self.corpus == "text" and not self.path:
            return [f"data=text reads a file of yours: add data.path=FILE (.{', .'.join(KINDS)})"]
        if fault := corpora.fault(self._corpus):
            return [fault]
        if faults := length_faults(source, "data.tokens", self.tokens):
            return faults
        ids = corpora.token_ids(self._corpus, source.tokenizer())
        if len(ids) < 2 * self.tokens:
            return [self._too_few(corpora, len(ids))]
        vocabulary = source.config().get_text_config().vocab_size
        fault = ids_fault(f"training text {self.corpus}", ids, source.tokenizer(), vocabulary)
        return [fault] if fault else []

    def digest(self, corpora: Corpora) -> str:
        return corpora.text(self._corpus).digest

    def texts(self, corpora: Corpora) -> Iterable[str]:
        return corpora.text(self._corpus).documents

    def examples(self, source: Any, corpora: Corpora) -> TrainingSet:
        ids = corpora.token_ids(self._corpus, source.tokenizer())
        windows = ids[: len(ids) // self.tokens * self.tokens].view(-1, self.tokens)
        if len(windows) < 2:
            raise TooFewTokensError(self._too_few(corpora, len(ids)))
        training, validation = split_by_content(
            list(windows), lambda window: token_bytes(window.tolist()), self.validation
        )
        return TrainingSet(training, validation, _window_batch, corpora.text(self._corpus).origin)

    def _too_few(self, corpora: Corpora, found: int) -> str:
        text = corpora.text(self._corpus)
        return (
            f"training text {text.corpus.name} ({text.origin}) has {found} tokens, less than two windows of "
            f"{self.tokens}, one to train on and one to validate on: give a longer text or a smaller data.tokens"
        )


def _window_batch(windows: Sequence[Tensor]) -> Batch:
    ids = torch.stack(list(windows))
    return {"input_ids": ids, "labels": ids}
