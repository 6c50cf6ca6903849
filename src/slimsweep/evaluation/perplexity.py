"""Perplexity of a language model on text, by the windows of SparseGPT and GPTQ or of LLM-Pruner."""

import dataclasses
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from slimsweep.checks import refuse, whole_number_faults
from slimsweep.data.corpora import SHORT_DIGEST, Corpora, corpus_name
from slimsweep.data.unknown_tokens import ids_fault
from slimsweep.errors import TooFewTokensError
from slimsweep.evaluation.base import Measurement, Metric, Reader, other_task_fault, together
from slimsweep.evaluation.outcomes import Outcomes, items_digest
from slimsweep.evaluation.quantity import Quantity
from slimsweep.models.batch_sizes import BATCH_TOKENS, HEAD_NUMBERS, LOSS_NUMBERS, batch_tokens, longest_context
from slimsweep.models.batches import text_batch
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.sources.tokenizer_digest import tokenizer_digest
from slimsweep.numerics.log_likelihood import bf16_nll
from slimsweep.progress import tracked


@dataclass(frozen=True, kw_only=True)
class Perplexity(Metric):
    """exp of the mean token NLL over consecutive windows. Source: arXiv:2301.00774, sec. 4."""

    declares: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            field="perplexity_*",
            kind="perplexity",
            label="perplexity",
            higher_is_better=False,
            scale="log",
            group="quality",
            name="*",
            heading="perplexity *",
            place=0,
            seconds="evaluate_seconds_*",
            tolerance=1e-3,  # other kernels round within it
        ),
        Quantity(
            field="evaluate_seconds_*",
            label="time of the perplexity evaluation",
            unit="s",
            higher_is_better=False,
            name="*",
            varies=True,
        ),
        Quantity(
            field="bits_per_byte_*",
            label="bits per byte of text",
            higher_is_better=False,
            name="*",
            heading="bits/byte *",
            format=".4f",
            tolerance=1e-3,
        ),
    )

    corpora: str | dict[str, str] | Sequence[str | dict[str, str]]
    """Corpora by name, and files as `{name: mine, path: FILE}`; kept as a tuple."""
    context_tokens: int = 2048
    """Tokens of a window; a corpus whose protocol has its own length keeps that."""
    max_windows: int | None = None
    """Windows read of each corpus, from the start; None reads all its protocol has."""
    batch_tokens: int | None = None
    """Tokens of one forward, which decide speed and memory; None: 2048 on a CPU, up to 16384 on a GPU as memory
    allows."""

    def __post_init__(self) -> None:
        given = [self.corpora] if isinstance(self.corpora, str | dict) else self.corpora
        object.__setattr__(self, "corpora", tuple(given))
        refuse(
            whole_number_faults("evaluation.context_tokens", self.context_tokens, least=2)
            + whole_number_faults("evaluation.max_windows", self.max_windows, is_optional=True)
            + whole_number_faults("evaluation.batch_tokens", self.batch_tokens, is_optional=True)
        )

    def parts(self) -> list[Metric]:
        return [dataclasses.replace(self, corpora=(corpus,)) for corpus in self.corpora]

    def quantities(self) -> list[Quantity]:
        return [one.named(name) for one in self.declares for name in self._names()]

    def _names(self) -> list[str]:
        return [corpus_name(corpus) for corpus in self.corpora]

    def digests(self, corpora: Corpora) -> dict[str, str]:
        return {corpus_name(corpus): corpora.text(corpus).digest for corpus in self.corpora}

    def texts(self, corpora: Corpora) -> Iterable[str]:
        return (text for corpus in self.corpora for text in corpora.text(corpus).documents)

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        names = self._names()
        faults = [f"perplexity_{name} is asked for twice" for name in dict.fromkeys(names) if names.count(name) > 1]
        if source.task != "causal_lm":
            return [*faults, other_task_fault(source, "perplexity")]
        tokenizer = source.tokenizer()
        if tokenizer is None:
            return [*faults, f"model {source.name} has no tokenizer, which perplexity needs"]
        longest, embeddings = longest_context(source.config()), source.config().get_text_config().vocab_size
        for corpus in self.corpora:
            fault = corpora.fault(corpus) or self._window_fault(corpus, corpora, tokenizer, longest)
            fault = fault or ids_fault(
                corpus_name(corpus), self._read_ids(corpus, corpora, tokenizer), tokenizer, embeddings
            )
            faults += [fault] if fault else []
        return faults

    def _read_ids(self, corpus: str | dict[str, str], corpora: Corpora, tokenizer: Any) -> Int[Tensor, " token"]:
        """The token ids of the windows that are read."""
        token_ids, context = corpora.token_ids(corpus, tokenizer), self._context(corpora, corpus)
        windows = len(token_ids) // context
        return token_ids[: context * min(windows, self._most_windows(corpora, corpus) or windows)]

    def _most_windows(self, corpora: Corpora, corpus: str | dict[str, str]) -> int | None:
        """The most windows that protocol and knobs let be read; None: all."""
        counts = [count for count in (corpora.text(corpus).corpus.max_windows, self.max_windows) if count]
        return min(counts, default=None)

    def _window_fault(
        self, corpus: str | dict[str, str], corpora: Corpora, tokenizer: Any, longest: int | None
    ) -> str | None:
        context = self._context(corpora, corpus)
        if longest is not None and context > longest:
            return (
                f"windows of {context} tokens for {corpus_name(corpus)}, but this model takes {longest}: "
                f"set evaluation.context_tokens={longest}"
            )
        found = len(corpora.token_ids(corpus, tokenizer))
        return _too_few(corpora.text(corpus).corpus.name, found, context) if found < context else None

    def _context(self, corpora: Corpora, corpus: str | dict[str, str]) -> int:
        return corpora.text(corpus).corpus.context_tokens or self.context_tokens

    def measure(self, model: LanguageModel, corpora: Corpora, readers: Sequence[Reader] = ()) -> Measurement:
        """Perplexity of each corpus as `perplexity_<corpus>`, with its protocol id, and the seconds it took.

        `bits_per_byte_<corpus>` is the same NLL in bits over the bytes of UTF-8 text of the scored tokens: those after
        a window's first token, to the end of its last. Readers look at the logits; their time is not counted.

        Raises:
            TooFewTokensError: a text has less than one whole window.
        """
        return together(self._measured(model, corpora, corpus, readers) for corpus in self.corpora)

    def _measured(
        self, model: LanguageModel, corpora: Corpora, corpus: str | dict[str, str], readers: Sequence[Reader]
    ) -> Measurement:
        """All values of one text."""
        windows, name = self.windows(model, corpora, corpus), corpus_name(corpus)
        tokens = self.batch_tokens or batch_tokens(model)
        started, read_before = time.perf_counter(), _seconds(readers)
        nll, by_window = window_nll(model, windows, tokens, f"perplexity_{name}", readers)
        seconds = time.perf_counter() - started - (_seconds(readers) - read_before)
        sizes = self._text_bytes(model, corpora, corpus, len(windows))
        items, protocol = items_digest([windows.numpy().tobytes()]), self.protocol(model, corpora, corpus, windows)
        fields = (f"perplexity_{name}", f"bits_per_byte_{name}")
        outcomes = {fields[0]: Outcomes(by_window, "exp_mean", items)}
        values = {fields[0]: exp(nll), fields[1]: None, f"evaluate_seconds_{name}": seconds}
        reason = non_finite_reason(nll)
        reasons = dict.fromkeys(fields, reason) if reason else {}
        if sizes is None:
            reasons[fields[1]] = "this tokenizer does not tell where in the text its tokens stand"
        elif not sizes.sum():
            reasons[fields[1]] = "the scored tokens stand for no text"
        else:
            outcomes[fields[1]] = Outcomes(np.stack([by_window[:, 0], sizes], axis=1), "bits", items)
            values[fields[1]] = outcomes[fields[1]].score()
        return Measurement(values, reasons, dict.fromkeys(fields, protocol), outcomes)

    def _text_bytes(
        self, model: LanguageModel, corpora: Corpora, corpus: str | dict[str, str], count: int
    ) -> np.ndarray | None:
        """Bytes of text of the scored tokens of the first `count` windows; None where the tokenizer tells no places."""
        sizes = corpora.token_bytes(corpus, model.tokenizer)
        if sizes is None:
            return None
        context, bos = self._context(corpora, corpus), _bos(model)
        if bos is None:
            return cut(sizes, context)[:count, 1:].sum(dim=1).numpy()
        is_there = corpora.token_ids(corpus, model.tokenizer)[0] == bos
        return cut(sizes[int(is_there) :], context - 1)[:count].sum(dim=1).numpy()

    def windows(
        self, model: LanguageModel, corpora: Corpora, corpus: str | dict[str, str]
    ) -> Int[Tensor, "window token"]:
        """Token ids of the windows of a text that are read."""
        windows = cut(corpora.token_ids(corpus, model.tokenizer), self._context(corpora, corpus), _bos(model))
        return windows[: self._most_windows(corpora, corpus)]

    def protocol(self, model: LanguageModel, corpora: Corpora, corpus: str | dict[str, str], windows: Tensor) -> str:
        """Id of how a text is measured."""
        text = corpora.text(corpus)
        return ":".join(
            (
                text.corpus.name,
                text.corpus.split,
                "join=" + text.corpus.join.replace("\n", "\\n").replace(" ", "\\s"),
                f"ctx={windows.shape[1]}",
                f"windows={windows.shape[0]}",
                "token",
                "bos=every" if model.family.bos_every_window else "bos=default",
                f"tok={tokenizer_digest(model.tokenizer)[:SHORT_DIGEST]}",
                f"sha={text.digest[:SHORT_DIGEST]}",
            )
        )

    def working_bytes(self, token_bytes: int) -> int:
        return max(self.batch_tokens or BATCH_TOKENS, self.context_tokens) * token_bytes


def _bos(model: LanguageModel) -> int | None:
    """The token that begins every window; None where windows begin as the text goes on."""
    return model.tokenizer.bos_token_id if model.family.bos_every_window else None


def _seconds(readers: Sequence[Reader]) -> float:
    return sum((reader.seconds for reader in readers), 0.0)


def cut(token_ids: Int[Tensor, " token"], context_tokens: int, bos: int | None = None) -> Int[Tensor, "window context"]:
    """Consecutive windows without overlap; a last partial one is left out.

    With `bos`, each window begins with it and holds one token of text less.

    Raises:
        TooFewTokensError: less than one whole window.
    """
    if bos is not None and token_ids[:1].tolist() == [bos]:
        token_ids = token_ids[1:]  # the tokenizer's own, which every window gets now
    length = context_tokens - (bos is not None)
    count = len(token_ids) // length
    if not count:
        raise TooFewTokensError(_too_few("text", len(token_ids), context_tokens))
    windows = token_ids[: count * length].reshape(count, length)
    return windows if bos is None else torch.nn.functional.pad(windows, (1, 0), value=bos)


def perplexity(model: LanguageModel, token_ids: Int[Tensor, " token"], context_tokens: int) -> float:
    """Perplexity over consecutive, non-overlapping contexts; a last partial context is left out.

    The first token of each context is not scored. Returns inf when the loss overflows.

    Raises:
        TooFewTokensError: fewer than one whole context.
    Source: protocol of arXiv:2301.00774, sec. 4 (WikiText-2, raw, joined by blank lines).
    """
    return exp(mean_nll(model, cut(token_ids, context_tokens), batch_tokens=context_tokens))


def mean_nll(model: LanguageModel, windows: Int[Tensor, "window token"], batch_tokens: int, label: str = "") -> float:
    """Mean negative log-likelihood in nats of all tokens but the first of each window."""
    return window_nll(model, windows, batch_tokens, label)[0]


@torch.no_grad()
def window_nll(
    model: LanguageModel,
    windows: Int[Tensor, "window token"],
    batch_tokens: int,
    label: str = "",
    readers: Sequence[Reader] = (),
) -> tuple[float, np.ndarray]:
    """Mean negative log-likelihood in nats of all tokens but the first of each window; its sum and tokens by window.

    Head and cross-entropy see a bounded number of logits at a time; the log-softmax is fp32, sums are fp64.
    """
    batches, predicted = windows.split(max(1, batch_tokens // windows.shape[1])), windows.shape[1] - 1
    total = torch.zeros((), dtype=torch.float64, device=model.compute_device)
    sums = []
    for _, batch in tracked(batches, f"{label}: batch"):
        hidden = model.hidden_states(text_batch(batch))[:, :-1].flatten(0, 1)
        parts = []
        for part in nll_parts(model, hidden, batch[:, 1:].flatten(), readers):
            total += sum(some.double().sum() for some in part)
            parts += part
        sums.append(torch.cat(parts).view(len(batch), predicted).double().sum(dim=1))
    by_window = torch.cat(sums).cpu().numpy()
    return total.item() / (len(windows) * predicted), np.stack([by_window, np.full_like(by_window, predicted)], axis=1)


def nll_parts(
    model: LanguageModel,
    hidden: Float[Tensor, "token width"],
    targets: Int[Tensor, " token"],
    readers: Sequence[Reader] = (),
) -> Iterator[list[Float[Tensor, " token"]]]:
    """Negative log-likelihoods of targets, in nats and fp32, in lists that each come from a bounded number of logits.

    `hidden` is the output of the last norm where each target is predicted.
    """
    vocabulary = model.config.get_text_config().vocab_size
    for part, wanted in _by_rows(hidden, targets.to(hidden.device), HEAD_NUMBERS // vocabulary):
        yield list(_nll(model.logits(part), wanted, readers))


def _nll(
    logits: Float[Tensor, "token vocabulary"], targets: Int[Tensor, " token"], readers: Sequence[Reader]
) -> Iterator[Float[Tensor, " token"]]:
    """Negative log-likelihoods of some rows after the other; readers see the logits of each."""
    # The kernel for bfloat16 makes no fp32 copies of logits, so that it takes all rows at once.
    at_once = logits.is_cpu and logits.dtype == torch.bfloat16
    rows = LOSS_NUMBERS // logits.shape[1] if logits.is_cpu and not at_once else len(logits)
    for part, wanted in _by_rows(logits, targets, rows):
        nll = bf16_nll(part, wanted) if at_once else cross_entropy(part.float(), wanted, reduction="none")
        for reader in readers:
            reader.read(part, wanted, nll)
        yield nll


def _by_rows(values: Tensor, targets: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of so many rows, at least one, with their targets."""
    return zip(values.split(max(1, rows)), targets.split(max(1, rows)), strict=True)


def exp(nll: float) -> float:
    """e to the mean NLL; inf where it overflows, nan where the NLL is."""
    return math.inf if nll > math.log(1.7e308) else math.exp(nll)


def non_finite_reason(nll: float) -> str | None:
    """Reason why the perplexity of a mean NLL is no number; None where it is one."""
    if math.isfinite(exp(nll)):
        return None
    cause = "overflowed" if math.isfinite(nll) else "is undefined, since logits are not finite"
    return f"perplexity {cause}: mean NLL {nll:.1f}"


def _too_few(name: str, found: int, context_tokens: int) -> str:
    return (
        f"{name} has {found} tokens, less than one window of {context_tokens}: "
        "give a longer text or a smaller evaluation.context_tokens"
    )
