"""A bare config with random weights: for tests, for scale, and for exact counts on the meta device."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from slimsweep.errors import ModelError
from slimsweep.models.sources.base import ModelSource, tokenizer_of
from slimsweep.models.sources.tokenizer_digest import tokenizer_digest
from slimsweep.models.storage import checkpoint

SPECIAL_IDS = ("pad_token_id", "eos_token_id")
"""Ids that a config and a tokenizer both state, and that training reads."""


@dataclass(frozen=True, kw_only=True)
class RandomModel(ModelSource):
    """Weights drawn with `seed` as the family initialises them; nothing is read or downloaded."""

    weights: str = "random"
    tokenizer_path: str | None = None
    """Folder of a tokenizer; None for one id per byte, which needs a vocabulary of at least 258."""
    needs_folder: ClassVar[bool] = False

    def folder(self) -> Path:
        raise ModelError(f"Model {self.name} has no shape; set model.shape={{model_type: llama, ...}}.")

    def digest(self) -> str:
        """Digest of config, seed and, where one is given, the tokenizer."""
        own = super().digest()
        if not self.tokenizer_path or self.weights == "meta":
            return own
        return checkpoint.json_digest([own, tokenizer_digest(self.tokenizer())])

    def faults(self) -> list[str]:
        return super().faults() or self._tokenizer_faults()

    def _tokenizer_faults(self) -> list[str]:
        """Special tokens that an encoder-decoder and its tokenizer number differently: it would learn wrong ends."""
        if not self.tokenizer_path or self.weights == "meta" or self.task != "seq2seq_lm":
            return []
        tokenizer = self.tokenizer()
        ids = {name: getattr(tokenizer, name) for name in SPECIAL_IDS if name in self.shape}
        return [
            f"the tokenizer in {self.tokenizer_path} has {name}={id}, and model {self.name} has {self.shape[name]}: "
            f"set model.shape.{name}={'null' if id is None else id}"
            for name, id in ids.items()
            if id != self.shape[name]
        ]

    def tokenizer(self) -> Any:
        if self.tokenizer_path and self.weights != "meta":
            return tokenizer_of(self.tokenizer_path)
        return super().tokenizer()
