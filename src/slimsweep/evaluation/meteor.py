"""METEOR of generated texts, by nltk with WordNet's synonyms."""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from slimsweep.data.corpora import Corpora
from slimsweep.data.references import Reference
from slimsweep.evaluation import wordnet
from slimsweep.evaluation.generated_text import GeneratedText, Score, Written, text_quantities
from slimsweep.evaluation.quantity import Quantity
from slimsweep.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Meteor(GeneratedText):
    """Mean METEOR of the items: matches of words, stems and synonyms, less a penalty for their order.

    Words are those of nltk's tokenizer of Penn Treebank style, which needs no further files. Case is ignored. nltk
    stems words before it looks for synonyms, so that synonyms of some words (automobile) are missed.
    Source: Banerjee and Lavie (2005), with nltk's defaults alpha 0.9, beta 3, gamma 0.5.
    """

    where: ClassVar[str] = "evaluation.metrics.meteor"
    declares: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            field="meteor",
            label="METEOR",
            unit="fraction",
            higher_is_better=True,
            group="quality",
            heading="METEOR",
            format=".4f",
            place=2,
            seconds="meteor_seconds",
        ),
        *text_quantities("meteor"),
    )

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        fault = wordnet.fault()
        return [*super().faults(source, corpora), *([fault] if fault else [])]

    def digests(self, corpora: Corpora) -> dict[str, str]:
        return super().digests(corpora) | {"wordnet": wordnet.version()}

    def scores(self, model: LanguageModel, references: Sequence[Reference], written: Written) -> dict[str, Score]:
        rows = np.array([meteor(one.target, text) for one, text in zip(references, written.texts, strict=True)])
        protocol = f"nltk {importlib.metadata.version('nltk')}:WordNet {wordnet.version()}:NLTKWordTokenizer"
        return {"meteor": Score(float(rows.mean()), rows, "mean", protocol)}


def meteor(target: str, text: str) -> float:
    """METEOR of one text beside its reference, in [0, 1]."""
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.translate.meteor_score import meteor_score

    words = NLTKWordTokenizer().tokenize
    return float(meteor_score([words(target)], words(text)))
