"""Divergences between the next-token distributions of a student q and a teacher p.

Each loss takes logits, selects the places that count, and returns the mean over them, in nats. Selecting comes first:
a place that does not count gives exactly no loss and no gradient, whatever its logits are, NaN too.

Softening by a temperature T divides both logits by T. Each loss is multiplied by T^2, since its gradient shrinks
with 1 / T^2 (arXiv:1503.02531, sec. 2). For example, with V tokens and centred logits:

    T^2 d KL(p || q) / d z_q  =  T (q - p)  ->  (z_q - z_p) / V        as T grows

Distributions are kept as log-probabilities, in fp32 (fp64 for fp64 logits). A logit may be -inf: its probability is 0,
and a token of probability 0 under the first argument of a KL adds 0, not NaN. No gradient reaches the teacher.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def log_probs(
    logits: Float[Tensor, "*place vocabulary"], temperature: float = 1.0
) -> Float[Tensor, "*place vocabulary"]:
    """Log-softmax of logits / temperature, in fp32, or in fp64 for fp64 logits.

    Raises:
        ValueError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature:g} cannot soften logits: give a number above 0, such as 1 or 2")
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (wide if temperature == 1 else wide / temperature).log_softmax(dim=-1)


def kl_per_place(
    log_p: Float[Tensor, "*place vocabulary"], log_q: Float[Tensor, "*place vocabulary"]
) -> Float[Tensor, "*place"]:
    """KL(p || q) of each place, from log-probabilities; infinite where q rules out a token that p does not."""
    p = log_p.exp()
    # Where p is 0, log p may be -inf: 0 x inf is NaN in the value, and in the gradient unless it is filled before.
    return (p * (log_p - log_q).masked_fill(p == 0, 0)).sum(dim=-1)


def mixture_log_probs(
    student: Float[Tensor, "*place vocabulary"], teacher: Float[Tensor, "*place vocabulary"], share: float
) -> Float[Tensor, "*place vocabulary"]:
    """Log-probabilities of share * teacher + (1 - share) * student, from the log-probabilities of both.

    Raises:
        ValueError: the teacher's share is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share:g} is no share of the teacher in a mixture: give a number from 0 to 1")
    if share in (0, 1):
        return teacher if share == 1 else student
    # Two numbers of -inf have no gradient of logaddexp (it is NaN), so a token that both rule out is filled in after.
    absent = (student == -math.inf) & (teacher == -math.inf)
    parts = student.masked_fill(absent, 0) + math.log1p(-share), teacher.masked_fill(absent, 0) + math.log(share)
    return torch.logaddexp(*parts).masked_fill(absent, -math.inf)


def forward_kl(
    student: Float[Tensor, "*place vocabulary"],
    teacher: Float[Tensor, "*place vocabulary"],
    counted: Bool[Tensor, "*place"] | Float[Tensor, "*place"],
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """T^2 KL(p || q), the soft-target loss; it covers all that the teacher finds likely.

    Args:
        student, teacher: logits.
        counted: True where a place counts, or a weight of at least 0 for each; without any the loss is 0.
    Source: arXiv:1503.02531, sec. 2, less the teacher's entropy, which has no gradient.
    """
    return _mean_divergence(kl_per_place, student, teacher, counted, temperature)


def reverse_kl(
    student: Float[Tensor, "*place vocabulary"],
    teacher: Float[Tensor, "*place vocabulary"],
    counted: Bool[Tensor, "*place"] | Float[Tensor, "*place"],
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """T^2 KL(q || p); it keeps the student to what the teacher finds likely. Infinite where p rules out a token.

    Source: arXiv:2306.08543, sec. 2.1, for one token after a given text; arguments as `forward_kl`.
    """
    return _mean_divergence(lambda log_p, log_q: kl_per_place(log_q, log_p), student, teacher, counted, temperature)


def skew_kl(
    student: Float[Tensor, "*place vocabulary"],
    teacher: Float[Tensor, "*place vocabulary"],
    counted: Bool[Tensor, "*place"] | Float[Tensor, "*place"],
    skew: float,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """T^2 KL(p || skew * p + (1 - skew) * q): forward KL that is never above -log(skew), times T^2.

    Args:
        skew: the teacher's share, [0, 1); 0 is the forward KL. Others as `forward_kl`.

    Raises:
        ValueError: the skew is not in [0, 1).
    Source: arXiv:2402.03898, sec. 3.1 (alpha; the authors use 0.1).
    """
    _refuse_skew(skew)

    def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
        return kl_per_place(log_p, mixture_log_probs(log_q, log_p, skew))

    return _mean_divergence(divergence, student, teacher, counted, temperature)


def skew_reverse_kl(
    student: Float[Tensor, "*place vocabulary"],
    teacher: Float[Tensor, "*place vocabulary"],
    counted: Bool[Tensor, "*place"] | Float[Tensor, "*place"],
    skew: float,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """T^2 KL(q || skew * q + (1 - skew) * p): reverse KL that is never above -log(skew), times T^2.

    Args:
        skew: the student's share, [0, 1); 0 is the reverse KL. Others as `forward_kl`.

    Raises:
        ValueError: the skew is not in [0, 1).
    Source: arXiv:2402.03898, sec. 3.1.
    """
    _refuse_skew(skew)

    def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
        return kl_per_place(log_q, mixture_log_probs(log_p, log_q, skew))

    return _mean_divergence(divergence, student, teacher, counted, temperature)


def generalized_jensen_shannon(
    student: Float[Tensor, "*place vocabulary"],
    teacher: Float[Tensor, "*place vocabulary"],
    counted: Bool[Tensor, "*place"] | Float[Tensor, "*place"],
    beta: float,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """T^2 [beta KL(p || m) + (1 - beta) KL(q || m)] with the mixture m = beta * p + (1 - beta) * q.

    Divided by beta it becomes the forward KL as beta goes to 0, and divided by 1 - beta the reverse KL as beta goes
    to 1. At 0 and at 1 itself it is 0 for any two models, so that it would teach nothing.

    Args:
        beta: the teacher's share, above 0 and below 1; 0.5 is the symmetric Jensen-Shannon divergence. Others as
            `forward_kl`.

    Raises:
        ValueError: beta is not between 0 and 1.
    Source: arXiv:2306.13649, eq. 1, which has no T^2.
    """
    if not 0 < beta < 1:
        raise ValueError(
            f"beta={beta:g} is outside of (0, 1), where the divergence has a gradient: give a number between, such as "
            "0.5, or choose forward KL for 0 and reverse KL for 1"
        )

    def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
        mixture = mixture_log_probs(log_q, log_p, beta)
        return beta * kl_per_place(log_p, mixture) + (1 - beta) * kl_per_place(log_q, mixture)

    return _mean_divergence(divergence, student, teacher, counted, temperature)


@dataclass(frozen=True)
class TopLogProbs:
    """A teacher's k most likely tokens of each place, and the mass of all other tokens as one lumped event."""

    log_probs: Float[Tensor, "*place k"]
    """Highest log-probabilities first."""
    indices: Int[Tensor, "*place k"]
    """Tokens of the log-probabilities."""
    log_rest: Float[Tensor, "*place"]
    """Log-probability of the lumped event. It is kept beside the others: as 1 - sum(p) it would be lost in rounding."""
    temperature: float
    """Temperature of the softmax. The log-probabilities hold for this one alone."""

    def select(self, places: Bool[Tensor, "*place"]) -> "TopLogProbs":
        """Some places, in a row."""
        return TopLogProbs(self.log_probs[places], self.indices[places], self.log_rest[places], self.temperature)


def top_log_probs(teacher: Float[Tensor, "*place vocabulary"], k: int, temperature: float = 1.0) -> TopLogProbs:
    """Reduce a teacher's logits to the k most likely tokens of each place."""
    every = log_probs(teacher.detach(), temperature)
    values, indices = every.topk(k, dim=-1)
    return TopLogProbs(values, indices, _log_rest(every, indices), temperature)


def top_k_forward_kl(
    student: Float[Tensor, "*place vocabulary"],
    teacher: TopLogProbs,
    counted: Bool[Tensor, "*place"] | Float[Tensor, "*place"],
) -> Float[Tensor, ""]:
    """T^2 KL(p || q) of k + 1 events: the teacher's k most likely tokens, and all other tokens lumped into one.

    Lumping never raises a KL (data-processing inequality), so this is a lower bound of `forward_kl`. With the rest R
    of the vocabulary, and its mass p(R) and q(R), the chain rule gives what is missing exactly:

        KL(p || q) - lumped KL  =  p(R) KL(p(. | R) || q(. | R))

    `top_k_error_bound` bounds this difference. With k = vocabulary nothing is missing. In the gradient,
    p(R) q(token | R) stands for the unknown p(token) of a token of R. The absolute errors of the gradient in the logits
    of a place therefore sum to at most 2 T p(R).

    Args:
        counted: as in `forward_kl`.
    """
    chosen = counted != 0
    top = teacher.select(chosen)
    log_q = log_probs(student[chosen], top.temperature)
    kept, rest = log_q.gather(-1, top.indices.long()), _log_rest(log_q, top.indices)
    log_p = torch.cat([top.log_probs.to(log_q.dtype), top.log_rest.to(log_q.dtype)[..., None]], dim=-1)
    lumped = kl_per_place(log_p, torch.cat([kept, rest[..., None]], dim=-1))
    return top.temperature**2 * _mean(lumped, counted[chosen])


@torch.no_grad()
def top_k_error_bound(
    student: Float[Tensor, "*place vocabulary"],
    teacher: TopLogProbs,
    counted: Bool[Tensor, "*place"] | Float[Tensor, "*place"],
) -> Float[Tensor, ""]:
    """Least upper bound of `forward_kl` - `top_k_forward_kl`, from what the latter knows.

    The teacher's probabilities in the rest R are unknown, but each is at most its k-th highest one, and they sum to
    p(R). A KL is convex in p, so it is largest at a corner of this set. There each of the student's least likely
    tokens of R has the k-th highest probability, until p(R) is used up. Some teacher attains the bound, so none is
    tighter.
    """
    chosen = counted != 0
    top = teacher.select(chosen)
    log_q = log_probs(student[chosen], top.temperature)
    log_rest = top.log_rest.to(log_q.dtype)
    # Kept tokens are put last, where no mass is left for them.
    rising = log_q.scatter(-1, top.indices.long(), math.inf).sort(dim=-1).values
    highest = top.log_probs[..., -1:].to(log_q.dtype).exp()
    before = highest * torch.arange(log_q.shape[-1], device=log_q.device)
    worst = (log_rest.exp()[..., None] - before).clamp(min=0).minimum(highest)
    worst = worst.masked_fill(rising == math.inf, 0)  # rounding may leave some mass for them
    within = kl_per_place(worst.log(), rising)
    lumped = kl_per_place(log_rest[..., None], _log_rest(log_q, top.indices)[..., None])
    # Where R has no mass, both are 0. Rounding may take the difference below 0.
    return top.temperature**2 * _mean((within - lumped).clamp(min=0), counted[chosen])


def _log_rest(values: Float[Tensor, "*place vocabulary"], indices: Int[Tensor, "*place k"]) -> Float[Tensor, "*place"]:
    """Log of the mass outside of some tokens, summed over the others: 1 - sum would lose a small rest in rounding."""
    return values.scatter(-1, indices.long(), -math.inf).logsumexp(dim=-1)


def _mean_divergence(
    divergence: Callable[[Tensor, Tensor], Tensor],
    student: Float[Tensor, "*place vocabulary"],
    teacher: Float[Tensor, "*place vocabulary"],
    counted: Bool[Tensor, "*place"] | Float[Tensor, "*place"],
    temperature: float,
) -> Float[Tensor, ""]:
    """T^2 times the mean of divergence(log p, log q) over the places that count."""
    chosen = counted != 0
    log_p, log_q = log_probs(teacher.detach()[chosen], temperature), log_probs(student[chosen], temperature)
    return temperature**2 * _mean(divergence(log_p, log_q), counted[chosen])


def _mean(values: Float[Tensor, " place"], counted: Bool[Tensor, " place"] | Float[Tensor, " place"]) -> Tensor:
    """Weighted mean; of no values 0, with a gradient of 0."""
    weights = counted.to(values.dtype)
    total = weights.sum()
    return (values * weights).sum() / torch.where(total > 0, total, 1)


def _refuse_skew(skew: float) -> None:
    if not 0 <= skew < 1:
        raise ValueError(
            f"skew={skew:g} is outside of [0, 1): it is a share of the mixture, and with 1 the divergence is 0 for any "
            "two models. Give a number such as 0.1"
        )
