"""Share of generated texts that equal their references, and edit errors: word accuracy and phoneme error rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from slimsweep.checks import choice_faults
from slimsweep.data.references import Reference
from slimsweep.evaluation.generated_text import GeneratedText, Score, Written, text_quantities
from slimsweep.evaluation.quantity import Quantity
from slimsweep.models.language_model import LanguageModel

UNITS = ("character", "word", "token")


@dataclass(frozen=True, kw_only=True)
class EditErrors(GeneratedText):
    """Exact matches, and insertions, deletions and substitutions for each unit of the references (Levenshtein).

    A text is an exact match where it equals its reference but for white space around both. With `unit=token` both texts
    are encoded the same way, without special tokens. For a model that spells words as phonemes these are word accuracy
    and phoneme error rate. With `unit=word` the rate is the word error rate.
    """

    version: ClassVar[int] = 2
    where: ClassVar[str] = "evaluation.metrics.edit_errors"
    declares: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            field="exact_match",
            label="exact matches",
            unit="fraction",
            higher_is_better=True,
            group="quality",
            heading="exact match",
            format=".4f",
            place=2,
            seconds="edit_errors_seconds",
        ),
        Quantity(
            field="edit_error_rate",
            label="edit error rate",
            higher_is_better=False,
            group="quality",
            heading="edit error rate",
            format=".4f",
            place=2,
        ),
        *text_quantities("edit_errors"),
    )

    unit: str = "token"
    """Unit that is compared: tokens of the model's tokenizer, words between white space, or characters."""

    def own_faults(self) -> list[str]:
        return [*super().own_faults(), *choice_faults(f"{self.where}.unit", [self.unit], UNITS)]

    def scores(self, model: LanguageModel, references: Sequence[Reference], written: Written) -> dict[str, Score]:
        from nltk.metrics.distance import edit_distance

        targets, texts = self._units(model.tokenizer, references, written)
        errors = [edit_distance(text, target) for text, target in zip(texts, targets, strict=True)]
        if self.unit == "token" and not writes_text(model.tokenizer):
            right = np.array([count == 0 for count in errors], dtype=np.uint8)
        else:
            pairs = zip(written.texts, references, strict=True)
            right = np.array([text.strip() == one.target.strip() for text, one in pairs], dtype=np.uint8)
        rows = np.array([[count, len(target)] for count, target in zip(errors, targets, strict=True)], dtype=np.int32)
        rate = float(rows[:, 0].sum() / rows[:, 1].sum())
        return {
            "exact_match": Score(float(right.mean()), right, "mean", "exact texts"),
            "edit_error_rate": Score(rate, rows, "ratio", f"edits/{self.unit}s"),
        }

    def _units(
        self, tokenizer: Any, references: Sequence[Reference], written: Written
    ) -> tuple[list[Sequence[Any]], list[Sequence[Any]]]:
        """Units of each reference and of each text."""
        targets, texts = [one.target.strip() for one in references], [text.strip() for text in written.texts]
        if self.unit == "character":
            return targets, texts
        if self.unit == "word":
            return [text.split() for text in targets], [text.split() for text in texts]
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        every = tokenizer(text_target=targets, verbose=False)["input_ids"]
        ids = written.token_ids
        if writes_text(tokenizer):  # a text after a prompt begins with other tokens, and may end within a stop
            ids = tokenizer(text_target=texts, verbose=False)["input_ids"] if texts else []
        return _without(special, every), _without(special, ids)


def writes_text(tokenizer: Any) -> bool:
    """Whether decoded ids are a text. Without a decoder a tokenizer puts spaces between its tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is None or backend.decoder is not None


def _without(special: set[int], rows: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    return [[token for token in row if token not in special] for row in rows]
