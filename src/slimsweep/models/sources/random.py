"""A bare config with random weights: for tests, for scale, and for exact counts on the meta device."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from slimsweep.errors import ModelError
from slimsweep.models.sources.base import ModelSource, tokenizer_of
from slimsweep.models.sources.tokenizer_digest import tokenizer_digest
from slimsweep.models.storage import checkpoint


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

    def tokenizer(self) -> Any:
        if self.tokenizer_path and self.weights != "meta":
            return tokenizer_of(self.tokenizer_path)
        return super().tokenizer()
