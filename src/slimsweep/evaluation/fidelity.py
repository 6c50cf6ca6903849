"""Fidelity: distance of a model from the base of its experiment, by next-token distributions on the same text.

Both models read the windows of perplexity. At each place the base predicts p and the model q over the next token. Whole
distributions of the base take too much disk. Only its k most likely tokens are kept (base_logits.py), and all other
tokens count as one:

    KL_k = sum over the k tokens of p log(p / q)  +  p_rest log(p_rest / q_rest)      at most KL(p || q)

At 128 places, spread evenly over the text, the whole p is kept. There the mean of KL - KL_k is measured. It is added
to the mean KL and reported as `kl_missing`, with its standard error.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float, Int
from torch import Tensor

from slimsweep.atomic import whole_folder
from slimsweep.checks import refuse, whole_number_faults
from slimsweep.data.corpora import Corpora, corpus_name
from slimsweep.errors import MetricError
from slimsweep.evaluation.base import Base, Measurement, Metric, together
from slimsweep.evaluation.base_logits import BaseLogits, KeepLogits, Kept, log_partition
from slimsweep.evaluation.outcomes import Outcomes, items_digest
from slimsweep.evaluation.perplexity import Perplexity
from slimsweep.evaluation.quantity import Quantity
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.sources.tokenizer_digest import tokenizer_digest
from slimsweep.numerics.divergences import kl_per_place, log_probs

log = logging.getLogger(__name__)

TIES = 8
"""Number of the base's most likely tokens that are checked for a tie with its top token."""
LAYOUT = 1
"""Raised by hand when what is kept of a base changes."""

_KL = {"unit": "nats", "higher_is_better": False, "name": "*"}
_CHANGE = {"higher_is_better": False, "name": "*", "format": "+.3f"}


@dataclass(frozen=True, kw_only=True)
class Fidelity(Metric):
    """KL(base || model) of next-token distributions, agreement of their top tokens, and change of perplexity.

    It reads the logits of the perplexity of the same text. The base is scored once; its distributions are then read
    from the cache.
    """

    needs_base: ClassVar[bool] = True
    declares: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            field="kl_*",
            label="KL from the base",
            scale="log",
            group="cost",
            kind="kl",
            heading="KL *",
            format=".3g",
            place=5,
            **_KL,
        ),
        Quantity(field="kl_median_*", label="median KL from the base", format=".3g", **_KL),
        Quantity(field="kl_p99_*", label="99th percentile of the KL from the base", format=".3g", **_KL),
        Quantity(field="kl_max_*", label="largest KL from the base", format=".3g", **_KL),
        Quantity(
            field="kl_missing_*",
            label="part of the KL that was measured at few places",
            error="kl_missing_stderr_*",
            format=".2g",
            **_KL,
        ),
        Quantity(field="kl_missing_stderr_*", label="standard error of that part", unit="nats", name="*", format=".2g"),
        Quantity(
            field="top_agreement_*",
            label="places with the base's top token",
            unit="fraction",
            higher_is_better=True,
            group="cost",
            kind="top_agreement",
            name="*",
            heading="top token *",
            format=".4f",
            place=6,
        ),
        Quantity(
            field="perplexity_change_*",
            label="change of perplexity from the base",
            error="perplexity_change_stderr_*",
            **_CHANGE,
        ),
        Quantity(field="perplexity_change_stderr_*", label="standard error of the change of perplexity", name="*"),
        Quantity(
            field="fidelity_seconds_*", label="time of fidelity beside perplexity", unit="s", name="*", varies=True
        ),
    )

    corpora: str | dict[str, str] | Sequence[str | dict[str, str]]
    """Texts as of perplexity, whose forward is read where both are measured with equal settings."""
    context_tokens: int = 2048
    max_windows: int | None = None
    batch_tokens: int | None = None
    top_tokens: int = 512
    """Most likely tokens that are kept of the base at each place; the others count together as one.

    That makes each KL too small. By how much on average is measured at places whose whole distribution is kept, and
    added to the mean: `kl_missing`, with its standard error. Median, percentile and maximum stay as they are.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "corpora", self._perplexity().corpora)
        refuse(whole_number_faults("evaluation.metrics.fidelity.top_tokens", self.top_tokens))

    def _perplexity(self) -> Perplexity:
        """The metric whose forward is read."""
        names = [field.name for field in dataclasses.fields(Perplexity)]
        return Perplexity(**{name: getattr(self, name) for name in names})

    def parts(self) -> list[Metric]:
        return [dataclasses.replace(self, corpora=(corpus,)) for corpus in self.corpora]

    def carrier(self) -> Metric:
        return self._perplexity()

    def quantities(self) -> list[Quantity]:
        return [one.named(corpus_name(corpus)) for one in self.declares for corpus in self.corpora]

    def digests(self, corpora: Corpora) -> dict[str, str]:
        return self._perplexity().digests(corpora)

    def texts(self, corpora: Corpora) -> Iterable[str]:
        return self._perplexity().texts(corpora)

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        return self._perplexity().faults(source, corpora)

    def working_bytes(self, token_bytes: int) -> int:
        return self._perplexity().working_bytes(token_bytes)

    def keep_base(self, corpora: Corpora, base: Base) -> None:
        """Score the base on every text of which nothing is kept yet; two processes never do so at once.

        Raises:
            MetricError: its distributions cannot be written.
        """
        absent = [part for part in self.parts() if not part._folder(corpora, base).is_dir()]
        if not absent:
            return
        base.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(base.folder / ".lock"):
            absent = [part for part in absent if not part._folder(corpora, base).is_dir()]
            model = base.load() if absent else None
            for part in absent:
                part._keep(model, corpora, base)

    def _keep(self, model: LanguageModel, corpora: Corpora, base: Base) -> None:
        folder, text = self._folder(corpora, base), self._perplexity()
        try:
            with whole_folder(folder) as partial:
                places = text.windows(model, corpora, *self.corpora)[:, 1:].numel()
                keeper = KeepLogits(partial, places, self.top_tokens)
                text.measure(model, corpora, [keeper])
        except OSError as error:
            raise MetricError(
                f"the base's predictions cannot be kept in {folder} ({error}): free space, choose cache_dir=FOLDER, or "
                f"set a smaller evaluation.metrics.fidelity.top_tokens than {self.top_tokens}"
            ) from error
        kept = BaseLogits(folder)
        log.info("fidelity: the base's predictions take %.1f MB in %s", kept.size_bytes / 1e6, folder)

    def _folder(self, corpora: Corpora, base: Base) -> Path:
        """Folder for one text; a base's own folder says which model it is."""
        (corpus,) = self.corpora
        parts = (corpora.text(corpus).digest, tokenizer_digest(base.tokenizer), self.context_tokens, self.max_windows)
        name = items_digest(map(str, (LAYOUT, *parts)))[:16]
        return base.folder / f"{name}_top{self.top_tokens}"

    def reader(self, model: LanguageModel, corpora: Corpora, base: Base) -> "FidelityReader":
        """Reader for the forward of the perplexity of this metric's one text."""
        (corpus,) = self.corpora
        windows = self._perplexity().windows(model, corpora, corpus)
        protocol = self._perplexity().protocol(model, corpora, corpus, windows)
        kept = BaseLogits(self._folder(corpora, base))
        return FidelityReader(corpus_name(corpus), kept, windows, protocol)

    def measure(self, model: LanguageModel, corpora: Corpora, base: Base) -> Measurement:
        """Score the texts on a model once more, and read along; `keep_base` was called before."""
        return together(part._measured(model, corpora, base) for part in self.parts())

    def _measured(self, model: LanguageModel, corpora: Corpora, base: Base) -> Measurement:
        reader = self.reader(model, corpora, base)
        self._perplexity().measure(model, corpora, [reader])
        return reader.result()


class FidelityReader:
    """Compares a model's logits with what is kept of the base, place by place."""

    def __init__(self, name: str, kept: BaseLogits, windows: Int[Tensor, "window token"], protocol: str):
        """Begin.

        Args:
            name: of the text, in fields.
            windows: whose scored places will be read.
            protocol: of the perplexity.
        """
        self.name, self.kept, self.protocol = name, kept, protocol
        self.windows, self._items = len(windows), items_digest([windows.numpy().tobytes()])
        self.seconds = 0.0
        self._at = 0
        self._kl: list[Tensor] = []
        self._agrees: list[Tensor] = []
        self._nll: list[Tensor] = []
        self._missing: list[Tensor] = []

    def read(
        self, logits: Float[Tensor, "place vocabulary"], targets: Int[Tensor, " place"], nll: Float[Tensor, " place"]
    ) -> None:
        """Compare the next places.

        Raises:
            MetricError: the model has another vocabulary than its base.
        """
        started = time.perf_counter()
        if logits.shape[1] != self.kept.vocabulary:
            raise MetricError(
                f"the model has {logits.shape[1]} tokens and its base {self.kept.vocabulary}: fidelity compares them "
                "token by token, so leave it out of this evaluation"
            )
        start, end = self._at, self._at + len(logits)
        kept = self.kept.part(start, end, logits.device)
        kl = lumped_kl(kept, logits, log_partition(logits, targets, nll), self.kept.is_whole)
        # bfloat16 logits often tie. All tied tokens are top tokens, and models agree if they share one.
        few = slice(None, TIES)
        is_top = kept.log_probs[:, few] == kept.log_probs[:, :1]
        theirs = logits.gather(1, kept.tokens[:, few]) == logits.amax(dim=1, keepdim=True)
        self._kl.append(kl.cpu())
        self._agrees.append((theirs & is_top).any(dim=1).cpu())
        self._nll.append(nll.cpu())
        first, last = np.searchsorted(self.kept.checked, (start, end)).tolist()
        if last > first:
            rows = torch.from_numpy(self.kept.checked[first:last] - start).to(logits.device)
            whole = self.kept.whole(first, last, logits.device)
            exact = kl_per_place(log_probs(whole.double()), log_probs(logits[rows].double()))
            self._missing.append((exact - kl[rows]).cpu())
        self._at = end
        self.seconds += time.perf_counter() - started

    def result(self) -> Measurement:
        """All quantities of the text."""
        kl, agrees = torch.cat(self._kl).double().numpy(), torch.cat(self._agrees).numpy()
        missing = torch.cat(self._missing).numpy() if self._missing else np.zeros(1)
        change, error = perplexity_change(self.kept.nll, torch.cat(self._nll).numpy(), self.windows)
        is_known = bool(np.isfinite(kl).all())
        values = {
            "kl": float(kl.mean() + missing.mean()),
            "kl_median": float(np.median(kl)),
            "kl_p99": float(np.quantile(kl, 0.99)) if is_known else math.nan,
            "kl_max": float(kl.max()),
            "kl_missing": float(missing.mean()),
            "kl_missing_stderr": float(missing.std(ddof=1) / math.sqrt(len(missing))) if len(missing) > 1 else 0.0,
            "top_agreement": float(agrees.mean()) if is_known else math.nan,
            "perplexity_change": change,
            "perplexity_change_stderr": error,
            "fidelity_seconds": self.seconds,
        }
        named = {f"{field}_{self.name}": value for field, value in values.items()}
        finite = all(math.isfinite(value) for value in values.values() if value is not None)
        reasons = {} if finite else dict.fromkeys(named, "logits of the model or its base are not finite")
        if error is None:
            reasons[f"perplexity_change_stderr_{self.name}"] = "one window has no standard error"
        tokens = "all tokens" if self.kept.is_whole else f"top {self.kept.k} of {self.kept.vocabulary} tokens"
        protocols = dict.fromkeys(named, f"{self.protocol}:{tokens}")
        outcomes = {
            f"kl_{self.name}": Outcomes(self._by_window(kl + missing.mean()), "ratio", self._items),
            f"top_agreement_{self.name}": Outcomes(self._by_window(agrees), "ratio", self._items),
        }
        return Measurement(named, {field: reasons[field] for field in named if field in reasons}, protocols, outcomes)

    def _by_window(self, values: np.ndarray) -> np.ndarray:
        """Sum over the places of each window, and their number."""
        each = values.reshape(self.windows, -1)
        return np.stack([each.sum(axis=1, dtype=np.float64), np.full(self.windows, float(each.shape[1]))], axis=1)


def lumped_kl(
    base: Kept, logits: Float[Tensor, "place vocabulary"], log_partition: Float[Tensor, " place"], is_whole: bool
) -> Float[Tensor, " place"]:
    """KL(base || model) of each place in nats and fp32, over the tokens kept of the base and all others as one.

    Merging tokens never raises a KL. The missing part is the mass of the other tokens times the KL among them.
    """
    log_q = logits.gather(1, base.tokens).float() - log_partition[:, None]
    found = kl_per_place(base.log_probs, log_q)
    if is_whole:
        return found
    # Both masses are differences from 1, so they are known to about 1e-7, and the term to as much.
    p, q = ((1 - values.exp().sum(dim=1)).clamp(min=1e-12) for values in (base.log_probs, log_q))
    return found + p * (p / q).log()


def perplexity_change(base: np.ndarray, model: np.ndarray, windows: int) -> tuple[float, float | None]:
    """Perplexity of the model less that of its base, and its paired standard error over windows.

    Args:
        base: Negative log-likelihood of every place, in nats.
        model: The same of the model.
        windows: Units that are independent of each other; the places of one are not.

    Returns the change exp(m) - exp(b) of two mean losses, and its standard error by the delta method. That is the
    standard deviation over windows w of exp(m) m_w - exp(b) b_w, divided by the square root of their number. It is
    None for one window.
    """
    means = [values.reshape(windows, -1).mean(axis=1, dtype=np.float64) for values in (base, model)]
    before, after = (math.exp(min(mean.mean(), 700.0)) if np.isfinite(mean).all() else math.nan for mean in means)
    if windows < 2:
        return after - before, None
    parts = after * means[1] - before * means[0]
    return after - before, float(parts.std(ddof=1) / math.sqrt(windows))
