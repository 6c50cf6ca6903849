"""Pairs of a source and its target to train encoder-decoders on."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from slimsweep.checks import refuse
from slimsweep.data.corpora import Corpora
from slimsweep.data.pair_file import PairFile
from slimsweep.data.pairs import Pair, TokenPair, pair_batch
from slimsweep.data.training import TrainingData, TrainingSet, split_by_content
from slimsweep.errors import CorpusError


@dataclass(frozen=True, kw_only=True)
class TrainingPairs(PairFile, TrainingData):
    """Pairs of a file, but for those that are held out for measuring."""

    where: ClassVar[str] = "data"
    instead: ClassVar[str] = "choose text with data=text"

    def __post_init__(self) -> None:
        refuse([*self.bad_values(), *self.setting_faults()])

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        if faults := self.pair_faults(source, self.is_used):
            return faults
        found = len(self._trainable(source.tokenizer()))
        return [] if found > 1 else [self._too_few(found)]

    def is_used(self, pair: Pair) -> bool:
        """Whether a pair is trained or validated on: unless it is held out for measuring."""
        return not pair.is_held_out

    def digest(self, corpora: Corpora) -> str:
        return self.read().digest

    def texts(self, corpora: Corpora) -> Iterable[str]:
        return (pair.source for pair in self.read().pairs if self.is_used(pair))

    def examples(self, source: Any, corpora: Corpora) -> TrainingSet:
        trainable = self._trainable(source.tokenizer())
        if len(trainable) < 2:
            raise CorpusError(self._too_few(len(trainable)))
        # Salted: the digest of the bare source decides already which pairs are held out for measuring.
        training, validation = split_by_content(
            trainable, lambda one: b"validation" + one[0].source_digest, self.validation
        )
        collate = functools.partial(_batch, config=source.config())
        return TrainingSet(training, validation, collate, self.read().origin)

    def _trainable(self, tokenizer: Any) -> list[tuple[Pair, TokenPair]]:
        return self.kept(tokenizer, self.is_used)

    def _too_few(self, found: int) -> str:
        return (
            f"{self.read().origin} has {found} pairs to train on (of its {len(self.read().pairs)}; too long ones and "
            "one in five for measuring are left out), and two are needed, one to validate on: give a longer file"
        )


def _batch(examples: Sequence[tuple[Pair, TokenPair]], config: Any) -> dict[str, Any]:
    return pair_batch([tokens for _, tokens in examples], config)
