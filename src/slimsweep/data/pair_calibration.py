"""Pairs of a source and its target drawn by seed: the text that data-driven techniques see in encoder-decoders."""

from dataclasses import dataclass
from typing import Any, ClassVar

from slimsweep.checks import refuse, whole_number_faults
from slimsweep.data.corpora import Corpora
from slimsweep.data.drawn_bytes import DrawnBytes
from slimsweep.data.pair_file import PairFile
from slimsweep.data.pairs import HELD_OUT_PART, Pair, TokenPair, draw, pair_batch
from slimsweep.errors import CorpusError
from slimsweep.models.batches import Batch


@dataclass(frozen=True, kw_only=True)
class PairCalibration(DrawnBytes, PairFile):
    """Calibration pairs: their file and their number. Pairs that are held out for measuring are never drawn."""

    sequences: int
    """Number of pairs drawn, without replacement."""

    where: ClassVar[str] = "calibration"
    instead: ClassVar[str] = "choose text with calibration=quick"

    def __post_init__(self) -> None:
        refuse([*self.setting_faults(), *whole_number_faults("calibration.sequences", self.sequences)])

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        """Faults of model, file, lengths or number that keep the pairs from being drawn. Reads no weights."""
        faults = self.pair_faults(source, _is_drawable)
        if faults:
            return faults
        found = len(self._drawable(source.tokenizer()))
        return [self._too_few(found)] if found < self.sequences else []

    @property
    def longest_tokens(self) -> int:
        return self.longest("source") + self.longest("target")

    def digest(self, corpora: Corpora) -> str:
        """SHA-256 of all pairs of the file."""
        return self.read().digest

    def sample(self, source: Any, corpora: Corpora, seed: int) -> Batch:
        """Draw the pairs as one batch; equal seeds draw equal ones.

        Raises:
            CorpusError: the file cannot be read, or holds too few pairs.
        """
        drawable = self._drawable(source.tokenizer())
        if len(drawable) < self.sequences:
            raise CorpusError(self._too_few(len(drawable)))
        return pair_batch(draw(drawable, self.sequences, seed), source.config())

    def _drawable(self, tokenizer: Any) -> list[TokenPair]:
        return [tokens for _, tokens in self.kept(tokenizer, _is_drawable)]

    def _too_few(self, found: int) -> str:
        pairs = self.read()
        advice = f"set calibration.sequences={found}, or give a longer file" if found else "give a longer file"
        return (
            f"{pairs.origin} has {found} pairs to calibrate on, fewer than {self.sequences} (of its {len(pairs.pairs)} "
            f"pairs, one in {HELD_OUT_PART} is held out for measuring, and longer ones than "
            f"calibration.source_tokens and target_tokens are left out): {advice}"
        )


def _is_drawable(pair: Pair) -> bool:
    return not pair.is_held_out
