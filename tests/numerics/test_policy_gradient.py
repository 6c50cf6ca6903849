"""MiniLLM's gradient against the exact one, by enumerating all sequences of a vocabulary of 3 and a length of 2."""

import itertools
import math

import pytest
import torch

from slimsweep.numerics.divergences import mixture_log_probs
from slimsweep.numerics.policy_gradient import IMPORTANCE, SampledSequences, minillm_loss

VOCABULARY = 3
END = 2
"""Token that ends a sequence, where sequences end early."""
SHARE = 0.4
DRAWS = range(5)


def random_model(seed):
    """Logits of a model whose next token depends on the last one: [0] begins, [1 + last] goes on."""
    return 1.5 * torch.randn(1 + VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed)).double()


class Enumeration:
    """All sequences that a sampler writes: their probabilities, losses and gradients."""

    def __init__(self, seed, share=0.0, ends_early=False, length=2):
        self.tokens = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=length)))
        self.student, self.teacher = random_model(seed).requires_grad_(), random_model(seed + 100)
        ended = ((self.tokens == END).cumsum(1) - (self.tokens == END).int()) > 0
        self.counted = ~ended if ends_early else torch.ones_like(ended)
        # After an end comes padding. One sequence, padded with 0, stands for all that begin the same.
        self.is_first = (self.counted | (self.tokens == 0)).all(1)
        every_q, every_p = self.of_vocabulary(self.student), self.of_vocabulary(self.teacher)
        sampler = self.of_sampled(mixture_log_probs(every_q, every_p, share)).detach()
        self.probability = (sampler * self.counted).sum(1).exp() * self.is_first
        self.log_q, self.log_p = self.of_sampled(every_q), self.of_sampled(every_p)
        self.samples = SampledSequences(
            student=self.log_q,
            teacher=self.log_p,
            counted=self.counted,
            sampler=sampler,
            student_vocabulary=every_q,
            teacher_vocabulary=every_p,
        )

    def of_vocabulary(self, logits):
        """Log-probabilities of all tokens [sequence token vocabulary]."""
        last = torch.nn.functional.pad(1 + self.tokens[:, :-1], (1, 0))
        return logits.log_softmax(-1)[last]

    def of_sampled(self, every):
        return every.gather(-1, self.tokens[..., None])[..., 0]

    def gradient(self, value):
        return torch.autograd.grad(value, self.student, retain_graph=True)[0]

    def exact(self):
        """Gradient of KL(student || teacher) over whole sequences, by its definition."""
        log_q, log_p = ((values * self.counted).sum(1) for values in (self.log_q, self.log_p))
        return self.gradient((log_q.exp() * (log_q - log_p) * self.is_first).sum())

    def mean(self, **knobs):
        """Expectation of the estimator's gradient under the sampler."""
        return self.gradient((self.probability * minillm_loss(self.samples, **knobs)).sum())

    def variance(self, **knobs):
        """Sum of the variances of the gradient's entries, for one sampled sequence."""
        losses = minillm_loss(self.samples, **knobs)
        second = sum(p * self.gradient(loss).square().sum() for p, loss in zip(self.probability, losses, strict=True))
        return float(second - self.mean(**knobs).square().sum())


def whole(**knobs):
    """Knobs, without length normalisation unless they name it."""
    return {"length_normalisation": False} | knobs


def test_the_enumeration_is_complete():
    for ends_early, count in ((False, 9), (True, 7)):
        case = Enumeration(0, SHARE, ends_early)
        assert int((case.probability > 0).sum()) == count
        assert float(case.probability.sum()) == pytest.approx(1)
        assert float(case.exact().norm()) > 0.05


@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize("ends_early", [False, True], ids=["full", "ends early"])
@pytest.mark.parametrize("single_step", [False, True], ids=["plain", "single step"])
@pytest.mark.parametrize("importance", IMPORTANCE)
def test_on_policy_the_gradient_is_exact(seed, ends_early, single_step, importance):
    case = Enumeration(seed, ends_early=ends_early)
    torch.testing.assert_close(case.mean(**whole(single_step=single_step, importance=importance)), case.exact())


@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize("ends_early", [False, True], ids=["full", "ends early"])
@pytest.mark.parametrize("single_step", [False, True], ids=["plain", "single step"])
def test_with_mixed_sampling_the_weight_of_the_sequence_alone_is_unbiased(seed, ends_early, single_step):
    case = Enumeration(seed, SHARE, ends_early)
    exact = case.exact()
    torch.testing.assert_close(case.mean(**whole(single_step=single_step, importance="sequence")), exact)
    for importance in ("none", "token"):
        biased = case.mean(**whole(single_step=single_step, importance=importance))
        assert float((biased - exact).norm() / exact.norm()) > 0.01


@pytest.mark.parametrize("seed", DRAWS)
def test_the_weight_of_a_token_has_the_bias_of_its_surroundings(seed):
    # Of the long-term part: the first token gets its weight, but the text after it is the sampler's. By its definition.
    case = Enumeration(seed, SHARE)
    q, s = case.log_q.detach().exp(), case.samples.sampler.exp()
    reward = (case.log_p - case.log_q).detach()
    kl = (
        case.samples.student_vocabulary.exp() * (case.samples.student_vocabulary - case.samples.teacher_vocabulary)
    ).sum(-1)
    first = q[:, 0] * s[:, 1] * reward[:, 1] * case.log_q[:, 0]
    expected = case.gradient(((s[:, 0] * s[:, 1])[:, None] * kl).sum() - first.sum())
    torch.testing.assert_close(case.mean(**whole(importance="token")), expected)


def test_a_share_of_0_makes_all_weights_1():
    case = Enumeration(0)
    none, *others = (minillm_loss(case.samples, importance=importance) for importance in IMPORTANCE)
    for losses in others:
        torch.testing.assert_close(losses, none)
    alone = SampledSequences(**{**vars(case.samples), "sampler": None})
    torch.testing.assert_close(minillm_loss(alone), none)


@pytest.mark.parametrize("seed", DRAWS)
def test_the_weight_of_a_sequence_serves_length_normalisation_too(seed):
    mixed, on_policy = Enumeration(seed, SHARE, ends_early=True), Enumeration(seed, ends_early=True)
    for single_step in (False, True):
        torch.testing.assert_close(
            mixed.mean(single_step=single_step, importance="sequence"), on_policy.mean(single_step=single_step)
        )


@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize("share", [0.0, SHARE])
@pytest.mark.parametrize("importance", IMPORTANCE)
def test_the_single_step_lowers_the_variance(seed, share, importance):
    case = Enumeration(seed, share)
    plain, decomposed = (case.variance(**whole(importance=importance, single_step=part)) for part in (False, True))
    assert decomposed < plain


@pytest.mark.parametrize("share", [0.0, SHARE])
@pytest.mark.parametrize("importance", ["none", "token"])
def test_the_single_step_leaves_no_variance_in_sequences_of_one_token(share, importance):
    # The sum over the vocabulary is the whole gradient, whatever was sampled. A weight would vary with the sample.
    case = Enumeration(0, share)
    case.samples = SampledSequences(**{**vars(case.samples), "counted": torch.tensor([[True, False]] * 9)})
    assert case.variance(**whole(importance=importance)) == pytest.approx(0, abs=1e-12)
    assert case.variance(**whole(importance=importance, single_step=False)) > 1e-3


def chain(rewards, **knobs):
    """Coefficients of d log q that sampled tokens with the given rewards get, without the single step."""
    student = torch.zeros(1, len(rewards), dtype=torch.float64, requires_grad=True)
    samples = SampledSequences(
        student, torch.tensor([rewards], dtype=torch.float64), torch.ones(1, len(rewards)).bool()
    )
    (gradient,) = torch.autograd.grad(minillm_loss(samples, single_step=False, **knobs).sum(), student)
    return gradient[0].tolist()


def test_length_normalisation_takes_the_mean_of_later_rewards():
    # Plain: R_t - 1 with R = (10, 9, 7, 4). Normalised: r_t + mean of the later ones - 1.
    assert chain([1.0, 2.0, 3.0, 4.0], length_normalisation=False) == [-9, -8, -6, -3]
    assert chain([1.0, 2.0, 3.0, 4.0]) == pytest.approx([-3, -4.5, -6, -3])


def test_length_normalisation_counts_sampled_tokens_only():
    student = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    counted = torch.tensor([[False, True, False, True, True]])
    teacher = torch.tensor([[math.nan, 1.0, math.inf, 2.0, 4.0]], dtype=torch.float64)
    losses = minillm_loss(SampledSequences(student, teacher, counted), single_step=False)
    (gradient,) = torch.autograd.grad(losses.sum(), student)
    assert gradient[0].tolist() == [0, -(1 + 3 - 1), 0, -(2 + 4 - 1), -(4 - 1)]


@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize("single_step", [False, True], ids=["plain", "single step"])
def test_length_normalisation_is_another_gradient_from_three_tokens_on(seed, single_step):
    # With two tokens, one later reward is its own mean.
    two, three = Enumeration(seed), Enumeration(seed, length=3)
    torch.testing.assert_close(two.mean(single_step=single_step), two.exact())
    exact = three.exact()
    torch.testing.assert_close(three.mean(single_step=single_step, length_normalisation=False), exact)
    normalised = three.mean(single_step=single_step)
    assert float((normalised - exact).norm() / exact.norm()) > 0.01
    torch.testing.assert_close(normalised, three.mean(single_step=not single_step))


def test_the_weight_of_a_token_is_bounded_and_that_of_a_sequence_is_not():
    # Tokens that the teacher rules out, from a sampler that follows it by 0.4: q / s = 1 / 0.6 each.
    student = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)
    sampler = torch.full((1, 8), math.log(0.6), dtype=torch.float64)
    samples = SampledSequences(student, torch.zeros(1, 8).double(), torch.ones(1, 8).bool(), sampler)
    for importance, weight in (("none", 1), ("token", 1 / 0.6), ("sequence", 1 / 0.6**8)):
        losses = minillm_loss(samples, single_step=False, importance=importance)
        (gradient,) = torch.autograd.grad(losses.sum(), student)
        torch.testing.assert_close(gradient, torch.full_like(gradient, weight))  # of a reward of 0: -w (0 - 1)


@pytest.mark.parametrize("importance", IMPORTANCE)
@pytest.mark.parametrize("single_step", [False, True])
def test_padding_changes_nothing(importance, single_step):
    case = Enumeration(0, SHARE)
    knobs = {"importance": importance, "single_step": single_step}
    padded, width = {}, (1, 2)
    for name, values in vars(case.samples).items():
        sides = (0, 0, *width) if values.dim() == 3 else width
        padded[name] = torch.nn.functional.pad(values, sides, value=False if name == "counted" else math.nan)
    losses = minillm_loss(SampledSequences(**padded), **knobs)
    expected = minillm_loss(case.samples, **knobs)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(case.gradient(losses.sum()), case.gradient(expected.sum()))


@pytest.mark.parametrize("single_step", [False, True])
def test_without_sampled_tokens_the_loss_and_its_gradient_are_0(single_step):
    case = Enumeration(0, SHARE)
    nothing = torch.zeros_like(case.counted)
    losses = minillm_loss(SampledSequences(**{**vars(case.samples), "counted": nothing}), single_step=single_step)
    assert losses.tolist() == [0] * 9
    assert bool((case.gradient(losses.sum()) == 0).all())


def test_no_gradient_reaches_the_teacher_or_the_weights():
    case = Enumeration(0, SHARE)
    teacher, sampler = case.samples.teacher.clone().requires_grad_(), case.samples.sampler.clone().requires_grad_()
    every = case.samples.teacher_vocabulary.clone().requires_grad_()
    parts = {**vars(case.samples), "teacher": teacher, "sampler": sampler, "teacher_vocabulary": every}
    minillm_loss(SampledSequences(**parts)).sum().backward()
    assert teacher.grad is None and sampler.grad is None and every.grad is None
    assert case.student.grad is not None


def test_what_cannot_be_computed_is_refused():
    samples = SampledSequences(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2).bool())
    with pytest.raises(ValueError, match=r"^importance='exact' is unknown: give one of none, token, sequence$"):
        minillm_loss(samples, importance="exact")
    with pytest.raises(ValueError, match=r"^the single-step decomposition needs .* or single_step=False$"):
        minillm_loss(samples)
