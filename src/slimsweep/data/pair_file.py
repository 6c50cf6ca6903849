"""Settings of a file of pairs, shared by calibration and metrics, and the faults that show before weights load."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from slimsweep.checks import whole_number_faults
from slimsweep.data.pairs import TABLES, Pair, Pairs, TokenPair, decoder_start, read_pairs, token_pairs
from slimsweep.data.unknown_tokens import ids_fault
from slimsweep.errors import CorpusError
from slimsweep.models.batch_sizes import longest_context

TASK = "seq2seq_lm"
"""Task of the models that read pairs."""
SPECIAL_TOKENS = 2
"""Tokens that a tokenizer adds to a text, about."""


@dataclass(frozen=True, kw_only=True)
class PairFile:
    """Mix-in of what reads pairs: their file, its columns, and the longest pairs that count."""

    path: str | None = None
    """File with a column of sources and one of targets; with `target_path`, text with one source a line."""
    target_path: str | None = None
    """Text file with the target of each line of `path`."""
    source_column: str = "source"
    """Column of the sources."""
    target_column: str = "target"
    """Column of the targets."""
    source_tokens: int | None = None
    """Pairs with a longer source are left out; None keeps all."""
    target_tokens: int | None = None
    """Pairs with a longer target are left out; None keeps all."""

    where: ClassVar[str]
    """Place of these settings in a composed config, for messages."""
    instead: ClassVar[str]
    """Words that are to be typed for a model that reads no pairs."""

    def setting_faults(self) -> list[str]:
        """Faults of the values themselves."""
        faults = [
            fault
            for name in ("source_tokens", "target_tokens")
            for fault in whole_number_faults(f"{self.where}.{name}", getattr(self, name), is_optional=True)
        ]
        if self.target_path and not self.path:
            faults.append(f"{self.where}.target_path has no sources beside it: add {self.where}.path=FILE")
        return faults

    def read(self) -> Pairs:
        """All pairs of the file.

        Raises:
            CorpusError: the file cannot be read, or a row is no pair.
        """
        if not self.path:
            raise CorpusError(
                f"no file of pairs is given: add {self.where}.path=FILE (.{', .'.join(TABLES)}, also .gz), or for two "
                f"text files whose lines correspond {self.where}.path=FILE {self.where}.target_path=FILE"
            )
        return read_pairs(self.path, (self.source_column, self.target_column), self.target_path, f"{self.where}.")

    def kept(self, tokenizer: Any, is_used: Callable[[Pair], bool]) -> list[tuple[Pair, TokenPair]]:
        """Pairs that are used and not too long, in the order of the file."""
        pairs = self.read()
        return [
            (pair, tokens)
            for pair, tokens in zip(pairs.pairs, token_pairs(pairs, tokenizer), strict=True)
            if is_used(pair)
            and len(tokens.source) <= (self.source_tokens or len(tokens.source))
            and len(tokens.target) <= (self.target_tokens or len(tokens.target))
        ]

    def pair_faults(self, source: Any, is_used: Callable[[Pair], bool]) -> list[str]:
        """Faults of model, file or lengths, known without weights."""
        faults = []
        if source.task != TASK:
            faults = [
                f"pairs need an encoder-decoder (model.task={TASK}), and model {source.name} has "
                f"model.task={source.task}: {self.instead}"
            ]
        try:
            self.read()
        except CorpusError as error:
            return [*faults, str(error)]
        if faults:
            return faults
        tokenizer, config = source.tokenizer(), source.config()
        if tokenizer is None:
            return [f"model {source.name} has no tokenizer, which pairs need"]
        if decoder_start(config) is None:
            return [
                f"the config of model {source.name} has no decoder_start_token_id, with which its decoder begins: add "
                "it to config.json"
            ]
        kept = [tokens for _, tokens in self.kept(tokenizer, is_used)]
        return [*self._length_faults(kept, config), *self._unknown_token_faults(kept, tokenizer, config)]

    def _length_faults(self, pairs: Sequence[TokenPair], config: Any) -> list[str]:
        longest, faults = longest_context(config), []
        for side in ("source", "target") if longest is not None else ():
            beyond = [pair for pair in pairs if len(getattr(pair, side)) > longest]
            if beyond:
                more = f" (and {len(beyond) - 1} more rows)" if len(beyond) > 1 else ""
                faults.append(
                    f"{self.read().origin}: row {beyond[0].row}{more} has a {side} of "
                    f"{len(getattr(beyond[0], side))} tokens, but this model takes {longest}: set "
                    f"{self.where}.{side}_tokens={longest} to leave such rows out, or shorten them"
                )
        return faults

    def _unknown_token_faults(self, pairs: Sequence[TokenPair], tokenizer: Any, config: Any) -> list[str]:
        text = config.get_text_config()
        embeddings = {"source": text.vocab_size, "target": getattr(text, "decoder_vocab_size", None) or text.vocab_size}
        faults = []
        for side, count in embeddings.items():
            ids = torch.tensor([token_id for pair in pairs for token_id in getattr(pair, side)], dtype=torch.long)
            fault = ids_fault(f"{side} column of {self.read().origin}", ids, tokenizer, count)
            faults += [fault] if fault else []
        return faults

    def longest(self, side: str) -> int:
        """Approximate most tokens of a source or target, for plans: its limit, else one token a byte.

        0 where the file cannot be read, which `pair_faults` tells.
        """
        if limit := getattr(self, f"{side}_tokens"):
            return limit
        try:
            return max(len(getattr(pair, side).encode()) for pair in self.read().pairs) + SPECIAL_TOKENS
        except CorpusError:
            return 0
