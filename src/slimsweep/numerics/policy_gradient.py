"""Policy gradient of the reverse KL between whole sequences: MiniLLM, arXiv:2306.08543.

With a student q, a teacher p, and the reward r_t = log p(y_t | y_<t) - log q(y_t | y_<t) of a sampled token, the loss
is L = KL(q || p) over sequences, L = -E_q[sum_t r_t]. Its gradient, since d q = q d log q and E_q[d log q] = 0:

    dL = -E_q[ sum_t (R_t - 1) d log q(y_t) ],    R_t = sum of r_t' for t' >= t                          (plain)

Rewards before t drop out: given y_<t they are constant, and E[d log q(y_t) | y_<t] = 0. Three parts change it:

1. Single-step decomposition. The share of r_t is taken over the whole vocabulary V instead of the one sampled token:

       dL = E_q[ sum_t d sum_V q (log q - log p) ]  -  E_q[ sum_t R_t+1 d log q(y_t) ]

   The expectation is the same, the variance lower.
2. Teacher-mixed sampling. Sequences come from a mixture s = share * p + (1 - share) * q, token by token, so that a
   weight must correct E_s to E_q. `sequence`: W = product over all tokens of q / s. It is unbiased, for any quantity
   of the sequence; its variance grows with the length. `token`: w_t = q(y_t) / s(y_t), which is at most
   1 / (1 - share). This is the paper's choice. It is biased: texts before and after t stay those of s. The single-step
   term does not depend on y_t, and E_s[w_t | y_<t] = 1, so there w_t would add variance only and is left out.
3. Length normalisation. The sum R_t+1 becomes the mean of the later rewards, of which there are T - t. This is
   another gradient than that of L. It does not favour short sequences.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimsweep.numerics.divergences import kl_per_place

IMPORTANCE = ("none", "token", "sequence")
"""Corrections of the sampling: none, the paper's weight of each token, or the exact weight of each sequence."""


@dataclass(frozen=True)
class SampledSequences:
    """Log-probabilities of sampled sequences, in fp32, with the gradient of the student's."""

    student: Float[Tensor, "sequence token"]
    """The student's, of each sampled token given the tokens before."""
    teacher: Float[Tensor, "sequence token"]
    counted: Bool[Tensor, "sequence token"]
    """True where a token was sampled, False in prompts and padding, where numbers are never read."""
    sampler: Float[Tensor, "sequence token"] | None = None
    """Those under the distribution that sampled the tokens; None: the student as it is, so that all weights are 1."""
    student_vocabulary: Float[Tensor, "sequence token vocabulary"] | None = None
    """The student's of all tokens, for the single-step decomposition."""
    teacher_vocabulary: Float[Tensor, "sequence token vocabulary"] | None = None


def minillm_loss(
    samples: SampledSequences,
    *,
    single_step: bool = True,
    importance: str = "token",
    length_normalisation: bool = True,
) -> Float[Tensor, " sequence"]:
    """Surrogate losses of sampled sequences: the mean of their gradients estimates that of KL(student || teacher).

    The gradient has the scale of whole sequences; for that of a token, divide the sum by the tokens that count. The
    values mean nothing.

    Args:
        single_step: take each token's own reward over the whole vocabulary.
        importance: one of `IMPORTANCE`.
        length_normalisation: mean of the later rewards instead of their sum.

    Raises:
        ValueError: no such importance, or no log-probabilities of the vocabulary for the single step.
    """
    if importance not in IMPORTANCE:
        raise ValueError(f"importance={importance!r} is unknown: give one of {', '.join(IMPORTANCE)}")
    log_q = _zero_unless(samples.counted, samples.student)
    reward = (_zero_unless(samples.counted, samples.teacher) - log_q).detach()
    weight = _weights(samples, importance)
    later = _sum_after(reward)
    if length_normalisation:
        later = later / _sum_after(samples.counted.to(reward.dtype)).clamp(min=1)
    if not single_step:
        return -(weight * (reward + later - 1) * log_q).sum(dim=1)
    prefix_weight = weight if importance == "sequence" else torch.ones_like(weight)
    return (prefix_weight * _single_step(samples)).sum(dim=1) - (weight * later * log_q).sum(dim=1)


def _weights(samples: SampledSequences, importance: str) -> Float[Tensor, "sequence token"]:
    """Importance weight of each token; constants, without gradient."""
    if importance == "none" or samples.sampler is None:
        return torch.ones_like(samples.student)
    log_weight = _zero_unless(samples.counted, samples.student.detach() - samples.sampler.detach())
    if importance == "sequence":
        log_weight = log_weight.sum(dim=1, keepdim=True).expand_as(log_weight)
    return log_weight.exp()


def _single_step(samples: SampledSequences) -> Float[Tensor, "sequence token"]:
    """KL(student || teacher) of the next token at each place, and 0 where none counts."""
    if samples.student_vocabulary is None or samples.teacher_vocabulary is None:
        raise ValueError(
            "the single-step decomposition needs the log-probabilities of the whole vocabulary: give those of student "
            "and teacher, or single_step=False"
        )
    student, teacher = samples.student_vocabulary[samples.counted], samples.teacher_vocabulary[samples.counted]
    values = kl_per_place(student, teacher.detach())
    return torch.zeros_like(samples.student).masked_scatter(samples.counted, values)


def _sum_after(values: Float[Tensor, "sequence token"]) -> Float[Tensor, "sequence token"]:
    """Sum of the values at later places."""
    return values.flip(1).cumsum(dim=1).flip(1) - values


def _zero_unless(counted: Bool[Tensor, "sequence token"], values: Float[Tensor, "sequence token"]) -> Tensor:
    """Values, and 0 where none counts, without gradient."""
    return values.masked_fill(~counted, 0)
