"""BLEU and chrF of generated texts, by sacrebleu with its signature."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from slimsweep.checks import choice_faults, flag_faults
from slimsweep.data.references import Reference
from slimsweep.evaluation.generated_text import GeneratedText, Score, Written, text_quantities
from slimsweep.evaluation.quantity import Quantity
from slimsweep.models.language_model import LanguageModel

TOKENIZERS = ("13a", "intl", "char", "zh", "none")
"""Tokenizers of sacrebleu that need no other package."""


@dataclass(frozen=True, kw_only=True)
class Bleu(GeneratedText):
    """BLEU over the whole corpus, and chrF2, from 0 to 100, of one reference an item.

    Source: arXiv:1804.08771 (sacrebleu); Papineni et al. (2002); Popović (2015).
    """

    where: ClassVar[str] = "evaluation.metrics.bleu"
    declares: ClassVar[tuple[Quantity, ...]] = (
        *(
            Quantity(
                field=field,
                label=label,
                higher_is_better=True,
                group="quality",
                heading=label,
                format=".2f",
                place=2,
                seconds="bleu_seconds",
            )
            for field, label in (("bleu", "BLEU"), ("chrf", "chrF"))
        ),
        *text_quantities("bleu"),
    )

    tokenize: str = "13a"
    """Tokenizer of sacrebleu for BLEU; chrF reads characters."""
    lowercase: bool = False
    """Whether both metrics ignore case."""

    def own_faults(self) -> list[str]:
        return [
            *super().own_faults(),
            *choice_faults(f"{self.where}.tokenize", [self.tokenize], TOKENIZERS),
            *flag_faults(f"{self.where}.lowercase", self.lowercase),
        ]

    def scores(self, model: LanguageModel, references: Sequence[Reference], written: Written) -> dict[str, Score]:
        from sacrebleu.metrics import BLEU, CHRF

        targets = [one.target for one in references]
        metrics = {
            "bleu": BLEU(tokenize=self.tokenize, lowercase=self.lowercase),
            "chrf": CHRF(lowercase=self.lowercase),
        }
        return {field: _score(metric, field, written.texts, targets) for field, metric in metrics.items()}


def _score(metric: Any, field: str, texts: Sequence[str], targets: Sequence[str]) -> Score:
    value = metric.corpus_score(texts, [targets]).score
    # What sacrebleu's own paired bootstrap sums over the chosen segments; it has no public name.
    rows = np.array(metric._extract_corpus_statistics(texts, [targets]), dtype=np.int32)
    return Score(float(value), rows, field, f"sacrebleu {metric.get_signature().format()}")
