"""Base of the metrics that compare what a model writes for sources with references.

    source -> prompt, cut to what the model takes -> tokens -> text | target -> score of each item

All such metrics of a job with equal settings share one generation.
"""

import logging
import time
import weakref
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slimsweep.checks import refuse, whole_number_faults
from slimsweep.data.corpora import SHORT_DIGEST, Corpora
from slimsweep.data.instructions import answer_prompt
from slimsweep.data.prepared import dataset_label
from slimsweep.data.problems import opening, text_ids
from slimsweep.data.references import Reference, ReferenceFile, References
from slimsweep.data.unknown_tokens import texts_fault
from slimsweep.errors import CorpusError
from slimsweep.evaluation.base import Measurement, Metric
from slimsweep.evaluation.outcomes import Outcomes, items_digest
from slimsweep.evaluation.quantity import Quantity
from slimsweep.models.batch_sizes import longest_context
from slimsweep.models.generation import TOKENS, Decoding, Generated, generate
from slimsweep.models.language_model import LanguageModel, weights_digest
from slimsweep.models.sources.tokenizer_digest import tokenizer_digest

log = logging.getLogger(__name__)

SOURCE = "{source}"
ATTEMPTS = 4
"""Times that a source is cut until its prompt fits: tokens at the cut may merge otherwise once it is cut."""


@dataclass(frozen=True)
class Written:
    """Texts that a model wrote for references."""

    texts: list[str]
    """Without white space around them."""
    token_ids: list[list[int]]
    """Tokens of each text, before its end."""
    cut_texts: int
    """Number of texts that had not ended within `max_new_tokens`."""
    truncated_sources: int
    """Number of sources that were longer than the model or `source_tokens` allows."""
    seconds: float


@dataclass(frozen=True)
class Score:
    """One measured field."""

    value: float
    rows: np.ndarray
    """Contribution of each item, as in Outcomes."""
    aggregate: str
    """Name of the sum over items, as in Outcomes."""
    protocol: str
    """Comparison of the texts: the tool, its version and settings."""


@dataclass(frozen=True, kw_only=True)
class GeneratedText(ReferenceFile, Decoding, Metric):
    """Comparison of generated texts with references. Subclasses write `scores` and declare its fields."""

    prompt: str = SOURCE
    """Text that the model reads; `{source}` stands for the source. Conversations are written with the model's chat
    template where it is `{source}` alone."""
    source_tokens: int | None = None
    """Longest prompt in tokens; longer sources are cut at their end and counted. None: what the model takes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stops", self.stops if isinstance(self.stops, str) else tuple(self.stops))
        refuse([*self.reference_faults(), *self.decoding_faults(f"{self.where}."), *self.own_faults()])

    def own_faults(self) -> list[str]:
        """Faults of the values of the fields here; a subclass with more fields adds theirs."""
        faults = whole_number_faults(f"{self.where}.source_tokens", self.source_tokens, is_optional=True)
        if not isinstance(self.prompt, str) or self.prompt.count(SOURCE) != 1:
            faults.append(f"{self.where}.prompt={self.prompt!r}: give a text with {SOURCE} in it once")
        return faults

    def quantities(self) -> list[Quantity]:
        return list(self.declares)

    def digests(self, corpora: Corpora) -> dict[str, str]:
        return {"references": self.references(corpora).digest}

    def texts(self, corpora: Corpora) -> Iterable[str]:
        return (one.text for one in self.references(corpora).rows)

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        if source.task not in ("causal_lm", "seq2seq_lm"):
            return [
                f"{self.where} compares texts that a model writes, and model {source.name} has model.task="
                f"{source.task}: choose evaluation=classification"
            ]
        if source.tokenizer() is None:
            return [f"model {source.name} has no tokenizer, with which it would write text"]
        try:
            references = self.references(corpora)
        except CorpusError as error:
            return [str(error)]
        embeddings = source.config().get_text_config().vocab_size
        texts = [self.prompt.replace(SOURCE, one.text) for one in references.rows]
        fault = texts_fault(references.origin, texts, source.tokenizer(), embeddings)
        return [*self._length_faults(source), *([fault] if fault else [])]

    def _length_faults(self, source: Any) -> list[str]:
        longest, tokenizer = longest_context(source.config()), source.tokenizer()
        fixed = len(tokenizer(self.prompt.replace(SOURCE, ""), verbose=False)["input_ids"])
        new, is_decoder = self.max_new_tokens, source.task == "causal_lm"
        if longest is not None and new + is_decoder * (fixed + 1) > longest:
            return [
                f"{self.where}.max_new_tokens={new}, but model {source.name} takes {longest} tokens"
                + (f", {fixed} of which its prompt needs" if is_decoder else "")
                + f": set {self.where}.max_new_tokens={max(1, longest - is_decoder * (fixed + 1)) // 2} or less"
            ]
        room = _room(self, source.config(), is_decoder)
        if room is not None and room <= fixed:
            return [
                f"{self.where}.prompt takes {fixed} tokens, and {room} are allowed with the source: shorten it, or set "
                f"a larger {self.where}.source_tokens"
            ]
        return []

    def measure(self, model: LanguageModel, corpora: Corpora) -> Measurement:
        """The fields of `scores`, and how many texts and sources were cut."""
        references = self.references(corpora)
        written = written_texts(self, model, references)
        scores = self.scores(model, references.rows, written)
        name = self.where.rpartition(".")[2]
        counts = {
            f"{name}_cut_texts": written.cut_texts,
            f"{name}_truncated_sources": written.truncated_sources,
            f"{name}_seconds": written.seconds,
        }
        items = items_digest(text for one in references.rows for text in (one.text, one.target))
        protocol = self.text_protocol(model, references)
        return Measurement(
            {field: one.value for field, one in scores.items()} | counts,
            protocols={field: f"{one.protocol}:{protocol}" for field, one in scores.items()},
            outcomes={field: Outcomes(one.rows, one.aggregate, items) for field, one in scores.items()},
        )

    @abstractmethod
    def scores(self, model: LanguageModel, references: Sequence[Reference], written: Written) -> dict[str, Score]:
        """Scores of the texts beside their references, by field."""

    def text_protocol(self, model: LanguageModel, references: References) -> str:
        """Part of a protocol that tells the texts: references, prompt, settings of generation, tokenizer."""
        return ":".join(
            (
                dataset_label(self.dataset) if self.dataset else "file",
                f"split={self.split_name}",
                f"items={len(references.rows)}",
                *([f"prompt={self.prompt!r}"] if self.prompt != SOURCE else []),
                f"source<={self.source_tokens or 'model'}",
                self.decoding_protocol,
                f"tok={tokenizer_digest(model.tokenizer)[:SHORT_DIGEST]}",
                f"sha={references.digest[:SHORT_DIGEST]}",
            )
        )

    def working_bytes(self, token_bytes: int) -> int:
        return min(TOKENS, (self.source_tokens or TOKENS) * self.beams) * token_bytes


def text_quantities(name: str) -> tuple[Quantity, ...]:
    """Quantities of how a metric's texts came about."""
    return (
        Quantity(field=f"{name}_cut_texts", label="texts cut at max_new_tokens", unit="texts", format=".0f"),
        Quantity(field=f"{name}_truncated_sources", label="sources cut to fit", unit="sources", format=".0f"),
        Quantity(
            field=f"{name}_seconds", label="time of writing the texts", unit="s", higher_is_better=False, varies=True
        ),
    )


MOST_KEPT = 4
"""Sets of texts that are kept for a model."""
_written: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
"""Texts by module, so that the metrics of a job share them. A digest of the weights says whether they still hold."""


def written_texts(metric: GeneratedText, model: LanguageModel, references: References) -> Written:
    """Texts of a model for references, written once for all metrics with equal settings."""
    rows, decoding = references.rows, metric.decoding
    shown = items_digest(one.text for one in rows)
    key = (weights_digest(model), str(model.module), shown, metric.prompt, metric.source_tokens, decoding)
    kept = _written.setdefault(model.module, {})
    if key not in kept:
        if len(kept) >= MOST_KEPT:
            kept.clear()
        kept[key] = _write(metric, model, rows, decoding)
    return kept[key]


def _write(metric: GeneratedText, model: LanguageModel, rows: Sequence[Reference], decoding: Decoding) -> Written:
    started = time.perf_counter()
    both = [prompt_ids(metric, one.source, model.tokenizer, model.config, model.task.name) for one in rows]
    truncated = sum(is_cut for _, is_cut in both)
    generated: Generated = generate(model, [ids for ids, _ in both], decoding, f"{metric.where}: text")
    cut = sum(generated.cut)
    if truncated:
        log.warning("%s: %d of %d sources were longer than allowed and were cut", metric.where, truncated, len(rows))
    if cut:
        log.warning("%s: %d of %d texts were cut at %d tokens", metric.where, cut, len(rows), decoding.max_new_tokens)
    texts = [text.strip() for text in generated.texts]
    return Written(texts, generated.token_ids, cut, truncated, time.perf_counter() - started)


def prompt_ids(metric: GeneratedText, source: Any, tokenizer: Any, config: Any, task: str) -> tuple[list[int], bool]:
    """Token ids that a model reads for a source, and whether the source was cut.

    A text loses its end, since the beginning of an article says most. A conversation loses its beginning.
    """
    is_decoder = task == "causal_lm"
    room = _room(metric, config, is_decoder)

    def ids_of(text: str) -> list[int]:
        if is_decoder:
            return [*opening(tokenizer), *text_ids(text, tokenizer)]
        return tokenizer(text, verbose=False)["input_ids"]

    if not isinstance(source, str) and is_decoder and metric.prompt == SOURCE:
        ids = answer_prompt(source, tokenizer)
        return (ids, False) if room is None or len(ids) <= room else (ids[-room:], True)
    text = source if isinstance(source, str) else "\n\n".join(text for _, text in source)
    ids = ids_of(metric.prompt.replace(SOURCE, text))
    if room is None or len(ids) <= room:
        return ids, False
    kept = text_ids(text, tokenizer)
    for _ in range(ATTEMPTS):
        kept = kept[: max(0, len(kept) - (len(ids) - room))]
        ids = ids_of(metric.prompt.replace(SOURCE, tokenizer.decode(kept, skip_special_tokens=True)))
        if len(ids) <= room:
            break
    return ids[-room:], True


def _room(metric: GeneratedText, config: Any, is_decoder: bool) -> int | None:
    """Largest number of tokens of a prompt; None: any."""
    longest = longest_context(config)
    limits = [metric.source_tokens, None if longest is None else longest - is_decoder * metric.max_new_tokens]
    return min((limit for limit in limits if limit is not None), default=None)
