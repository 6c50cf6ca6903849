"""ROUGE of generated texts, beside what leading or random sentences of the source would score."""

import hashlib
import importlib.metadata
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from slimsweep.checks import flag_faults, whole_number_faults
from slimsweep.data.references import Reference
from slimsweep.evaluation.generated_text import GeneratedText, Score, Written, text_quantities
from slimsweep.evaluation.quantity import Quantity
from slimsweep.models.language_model import LanguageModel

KINDS = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL", "rouge_lsum": "rougeLsum"}
"""Kinds of rouge-score by record field."""
NAMES = {"rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2", "rouge_l": "ROUGE-L", "rouge_lsum": "ROUGE-Lsum"}
BASELINES = ("lead", "random")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Gen|Col|Sen|Rep|Gov|vs|Jr|Sr)|\b[A-Z]|\be\.g|\bi\.e)\.$")
"""Ends of a text after which its sentence goes on: titles, initials, and a few more."""
SENTENCES = "sentences by .!? and lines"
"""Name of `sentences` in protocols."""


@dataclass(frozen=True, kw_only=True)
class Rouge(GeneratedText):
    """Mean F-measure of shared words (1), word pairs (2) and longest common sequences (L, and Lsum by sentences).

    As rouge-score has it: letters a to z and digits alone make words, so that it is meant for English.
    Source: Lin (2004); the package rouge-score 0.1.2.
    """

    version: ClassVar[int] = 2
    where: ClassVar[str] = "evaluation.metrics.rouge"
    declares: ClassVar[tuple[Quantity, ...]] = (
        *(
            Quantity(
                field=field,
                label=NAMES[field],
                unit="fraction",
                higher_is_better=True,
                group="detail" if field == "rouge_lsum" else "quality",
                heading=NAMES[field],
                format=".4f",
                place=2,
                seconds="rouge_seconds",
            )
            for field in KINDS
        ),
        *(
            Quantity(
                field=f"{field}_{baseline}",
                label=f"{NAMES[field]} of {baseline} sentences",
                unit="fraction",
                higher_is_better=True,
                format=".4f",
            )
            for field in KINDS
            for baseline in BASELINES
        ),
        *text_quantities("rouge"),
    )

    stemmer: bool = True
    """Whether words are compared by their stems (Porter), as is usual for summaries."""
    baseline_sentences: int | None = None
    """Sentences of the source that the baselines take: the first ones, and random ones. None: no baselines."""

    def own_faults(self) -> list[str]:
        return [
            *super().own_faults(),
            *flag_faults(f"{self.where}.stemmer", self.stemmer),
            *whole_number_faults(f"{self.where}.baseline_sentences", self.baseline_sentences, is_optional=True),
        ]

    def quantities(self) -> list[Quantity]:
        endings = tuple(f"_{baseline}" for baseline in BASELINES)
        return [one for one in self.declares if self.baseline_sentences or not one.field.endswith(endings)]

    def scores(self, model: LanguageModel, references: Sequence[Reference], written: Written) -> dict[str, Score]:
        targets = [one.target for one in references]
        scores = self._scored(written.texts, targets)
        for baseline in BASELINES if self.baseline_sentences else ():
            texts = [baseline_text(one.text, self.baseline_sentences, baseline == "random") for one in references]
            named = f"{baseline} {self.baseline_sentences} sentences"
            scores |= self._scored(texts, targets, f"_{baseline}", named)
        return scores

    def _scored(
        self, texts: Sequence[str], targets: Sequence[str], ending: str = "", what: str = ""
    ) -> dict[str, Score]:
        scorer = rouge_scorer(self.stemmer)
        pairs = [tuple("\n".join(sentences(one)) for one in pair) for pair in zip(targets, texts, strict=True)]
        each = [scorer.score(target, text) for target, text in pairs]
        protocol = f"rouge-score {importlib.metadata.version('rouge-score')}:F:stem={'yes' if self.stemmer else 'no'}"
        protocol += f":{what}" if what else ""
        scores = {}
        for field, kind in KINDS.items():
            rows = np.array([one[kind].fmeasure for one in each])
            named = f"{protocol}:{SENTENCES}" if ending or field == "rouge_lsum" else protocol
            scores[field + ending] = Score(float(rows.mean()), rows, "mean", named)
        return scores


def rouge_scorer(stemmer: bool) -> Any:
    """The library's scorer of all KINDS."""
    from absl.logging import get_absl_handler
    from rouge_score.rouge_scorer import RougeScorer

    # rouge-score imports absl. Its log handler keeps the stream that was standard error at import, and closes it when
    # logging is configured again. Another part of the program may still write there.
    get_absl_handler().python_handler.stream = sys.__stderr__
    return RougeScorer(list(KINDS.values()), use_stemmer=stemmer)


def sentences(text: str) -> list[str]:
    """Sentences of a text, for generated texts, references and baselines alike; each line ends one."""
    found = []
    for line in text.split("\n"):
        begun = ""
        for part in SENTENCE_END.split(line.strip()):
            begun = f"{begun} {part}".strip()
            if not ABBREVIATION.search(begun):
                found.append(begun)
                begun = ""
        found.append(begun)
    return [sentence for sentence in found if sentence]


def baseline_text(source: str, count: int, is_random: bool) -> str:
    """Some sentences of a source, one a line: the first ones, or ones drawn with the source's hash as the seed."""
    every = sentences(source)
    chosen = range(min(count, len(every)))
    if is_random:
        seed = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8])
        chosen = sorted(random.Random(seed).sample(range(len(every)), len(chosen)))
    return "\n".join(every[place] for place in chosen)
