"""Divergences against closed forms, torch's and scipy's functions, and their own limits."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr, softmax
from torch.nn import functional

from slimsweep.numerics.divergences import (
    forward_kl,
    generalized_jensen_shannon,
    kl_per_place,
    log_probs,
    mixture_log_probs,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    top_k_error_bound,
    top_k_forward_kl,
    top_log_probs,
)


def forward_of_top_3(student, teacher, counted, temperature=1.0):
    return top_k_forward_kl(student, top_log_probs(teacher, 3, temperature), counted)


LOSSES = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "skew_kl": functools.partial(skew_kl, skew=0.1),
    "skew_reverse_kl": functools.partial(skew_reverse_kl, skew=0.1),
    "jensen_shannon": functools.partial(generalized_jensen_shannon, beta=0.3),
    "top_k_forward_kl": forward_of_top_3,
}
WHOLE = {name: loss for name, loss in LOSSES.items() if name != "top_k_forward_kl"}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
every_whole_loss = pytest.mark.parametrize("loss", WHOLE.values(), ids=WHOLE)


def logits(*shape, seed=0, dtype=torch.float64, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def all_of(values):
    return torch.ones(values.shape[:-1], dtype=torch.bool)


def gradient_of(loss, student, *arguments, **knobs):
    student = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student, *arguments, **knobs), student)
    return gradient


@every_loss
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(loss):
    values = logits(4, 7, dtype=torch.float32, scale=3)
    assert float(loss(values, values, all_of(values))) == pytest.approx(0, abs=1e-7)
    assert gradient_of(loss, values, values, all_of(values)).abs().max() < 1e-7


@pytest.mark.parametrize("loss", [forward_kl, reverse_kl])
def test_a_kl_of_equals_is_exactly_0(loss):
    values = logits(4, 7, dtype=torch.float32, scale=3)
    assert float(loss(values, values, all_of(values))) == 0


def test_two_tokens_as_by_hand():
    # p = (3/4, 1/4) and q = (1/2, 1/2).
    teacher, student = torch.tensor([[math.log(3), 0.0]]).double(), torch.zeros(1, 2).double()
    counted = torch.tensor([True])
    assert float(forward_kl(student, teacher, counted)) == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2))
    assert float(reverse_kl(student, teacher, counted)) == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    # With a share of 0.6 of the teacher: (0.65, 0.35); of the student: (0.6, 0.4).
    assert float(skew_kl(student, teacher, counted, 0.6)) == pytest.approx(
        0.75 * math.log(0.75 / 0.65) + 0.25 * math.log(0.25 / 0.35)
    )
    assert float(skew_reverse_kl(student, teacher, counted, 0.6)) == pytest.approx(
        0.5 * math.log(0.5 / 0.6) + 0.5 * math.log(0.5 / 0.4)
    )
    assert float(generalized_jensen_shannon(student, teacher, counted, 0.6)) == pytest.approx(
        0.6 * (0.75 * math.log(0.75 / 0.65) + 0.25 * math.log(0.25 / 0.35))
        + 0.4 * (0.5 * math.log(0.5 / 0.65) + 0.5 * math.log(0.5 / 0.35))
    )


def test_gradients_of_two_tokens_as_by_hand():
    # q = (a, 1 - a): d forward / dz = q - p; d reverse / dz_1 = a (1 - a) (z_1 - z_2 - log(p_1 / p_2)).
    teacher, student = torch.tensor([[math.log(3), 0.0]]).double(), torch.tensor([[math.log(4), 0.0]]).double()
    counted = torch.tensor([True])
    torch.testing.assert_close(
        gradient_of(forward_kl, student, teacher, counted)[0], torch.tensor([0.05, -0.05]).double()
    )
    slope = 0.8 * 0.2 * math.log(4 / 3)
    torch.testing.assert_close(
        gradient_of(reverse_kl, student, teacher, counted)[0], torch.tensor([slope, -slope]).double()
    )


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_as_torch_computes_it(temperature):
    student, teacher = logits(3, 5, 11, seed=1), logits(3, 5, 11, seed=2)
    log_q, log_p = ((values / temperature).log_softmax(-1) for values in (student, teacher))
    options = {"reduction": "sum", "log_target": True}
    knobs = (student, teacher, all_of(student), temperature)
    torch.testing.assert_close(forward_kl(*knobs), temperature**2 * functional.kl_div(log_q, log_p, **options) / 15)
    torch.testing.assert_close(reverse_kl(*knobs), temperature**2 * functional.kl_div(log_p, log_q, **options) / 15)


def test_as_scipy_computes_it():
    student, teacher = logits(6, 11, seed=1), logits(6, 11, seed=2)
    q, p = (softmax(values.numpy(), axis=-1) for values in (student, teacher))
    everything = (student, teacher, all_of(student))

    def mean(terms):
        return pytest.approx(float(terms.sum(-1).mean()))

    assert float(skew_kl(*everything, 0.2)) == mean(rel_entr(p, 0.2 * p + 0.8 * q))
    assert float(skew_reverse_kl(*everything, 0.2)) == mean(rel_entr(q, 0.2 * q + 0.8 * p))
    distance = jensenshannon(p, q, axis=-1)
    assert float(generalized_jensen_shannon(*everything, 0.5)) == pytest.approx(float(np.square(distance).mean()))


@every_loss
def test_the_gradient_is_that_of_finite_differences(loss):
    student, teacher = logits(2, 5, seed=1).requires_grad_(), logits(2, 5, seed=2)
    counted = torch.tensor([1.0, 0.4], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda values: loss(values, teacher, counted, temperature=1.7), student)


@every_loss
def test_the_square_of_the_temperature_keeps_the_gradients_scale(loss):
    # Small logits are in the regime where softening changes nothing but the scale. Without T^2 the ratio is 1 / 400.
    student, teacher = logits(8, 32, seed=1, scale=0.01), logits(8, 32, seed=2, scale=0.01)
    cold, hot = (gradient_of(loss, student, teacher, all_of(student), temperature=t) for t in (1.0, 20.0))
    assert float(hot.norm() / cold.norm()) == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(hot, cold, rtol=0, atol=0.05 * float(cold.abs().max()))


def test_a_high_temperature_matches_logits():
    student, teacher = logits(1, 6, seed=1), logits(1, 6, seed=2)
    student, teacher = student - student.mean(), teacher - teacher.mean()
    gradient = gradient_of(forward_kl, student, teacher, all_of(student), temperature=1e4)
    torch.testing.assert_close(gradient, (student - teacher) / 6, rtol=1e-3, atol=1e-5)


def test_skews_of_0_are_the_plain_kl():
    student, teacher = logits(4, 9, seed=1), logits(4, 9, seed=2)
    everything = (student, teacher, all_of(student))
    torch.testing.assert_close(skew_kl(*everything, 0.0), forward_kl(*everything))
    torch.testing.assert_close(skew_reverse_kl(*everything, 0.0), reverse_kl(*everything))
    assert float(skew_kl(*everything, 0.999)) < 1e-5
    # A skewed reverse KL is a skewed forward KL with the models exchanged.
    torch.testing.assert_close(skew_reverse_kl(*everything, 0.3), skew_kl(teacher, student, all_of(student), 0.3))


def test_a_skew_bounds_the_loss_where_the_kl_has_no_bound():
    student, teacher = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    counted = torch.tensor([True])
    assert float(forward_kl(student, teacher, counted)) == pytest.approx(1e4)
    assert float(reverse_kl(student, teacher, counted)) == pytest.approx(1e4)
    for loss in (skew_kl, skew_reverse_kl):
        assert float(loss(student, teacher, counted, 0.1)) == pytest.approx(-math.log(0.1))
    assert float(generalized_jensen_shannon(student, teacher, counted, 0.5)) == pytest.approx(math.log(2))


@pytest.mark.parametrize("measure", ["value", "gradient"])
def test_jensen_shannon_goes_to_the_forward_and_the_reverse_kl(measure):
    student, teacher = logits(4, 9, seed=1), logits(4, 9, seed=2)
    everything, near = (student, teacher, all_of(student)), 1e-6

    def measured(loss, **knobs):
        return loss(*everything, **knobs) if measure == "value" else gradient_of(loss, *everything, **knobs)

    low, high = (measured(generalized_jensen_shannon, beta=beta) / near for beta in (near, 1 - near))
    torch.testing.assert_close(low, measured(forward_kl), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(high, measured(reverse_kl), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(low, high, rtol=1e-2)


def test_jensen_shannon_is_symmetric_at_a_half_alone():
    student, teacher = logits(4, 9, seed=1), logits(4, 9, seed=2)
    both = [(student, teacher, all_of(student)), (teacher, student, all_of(student))]
    there, back = (generalized_jensen_shannon(*everything, 0.5) for everything in both)
    torch.testing.assert_close(there, back)
    there, back = (
        generalized_jensen_shannon(*everything, beta) for everything, beta in zip(both, (0.2, 0.8), strict=True)
    )
    torch.testing.assert_close(there, back)
    there, back = (generalized_jensen_shannon(*everything, 0.2) for everything in both)
    assert abs(float(there - back)) > 1e-3


@every_loss
def test_places_that_do_not_count_contribute_nothing(loss):
    student, teacher = logits(3, 5, 11, seed=1), logits(3, 5, 11, seed=2)
    counted = torch.zeros(3, 5, dtype=torch.bool)
    counted[0, :4], counted[2, 1:3] = True, True
    expected = (
        sum(float(loss(student[at], teacher[at], torch.tensor(True))) for at in map(tuple, counted.nonzero())) / 6
    )
    student[~counted], teacher[~counted] = math.nan, -math.inf
    assert float(loss(student, teacher, counted)) == pytest.approx(expected)
    gradient = gradient_of(loss, student, teacher, counted)
    assert bool((gradient[~counted] == 0).all())
    assert bool((gradient[counted] != 0).any(dim=-1).all())


@every_loss
def test_padded_sequences_are_the_sequences_alone(loss):
    alone = [(logits(length, 11, seed=length), logits(length, 11, seed=50 + length)) for length in (2, 5, 3)]
    padded = [torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True) for values in zip(*alone, strict=True)]
    counted = torch.arange(5) < torch.tensor([[2], [5], [3]])
    expected = sum(len(student) * loss(student, teacher, all_of(student)) for student, teacher in alone) / 10
    torch.testing.assert_close(loss(*padded, counted), expected)
    gradient = gradient_of(loss, padded[0], padded[1], counted)
    for row, (student, teacher) in zip(gradient, alone, strict=True):
        part = gradient_of(loss, student, teacher, all_of(student)) * len(student) / 10
        torch.testing.assert_close(row[: len(student)], part)


@every_loss
def test_weights_weight(loss):
    student, teacher = logits(3, 11, seed=1), logits(3, 11, seed=2)
    first, last = (loss(student[at], teacher[at], torch.tensor(True)) for at in (0, 2))
    weighted = loss(student, teacher, torch.tensor([0.3, 0.0, 0.1]))
    torch.testing.assert_close(weighted, 0.75 * first + 0.25 * last, rtol=1e-6, atol=0)


@every_loss
def test_without_places_the_loss_and_its_gradient_are_0(loss):
    student, teacher = logits(3, 11, seed=1).requires_grad_(), logits(3, 11, seed=2)
    value = loss(student, teacher, torch.zeros(3, dtype=torch.bool))
    assert value.item() == 0
    value.backward()
    assert torch.equal(student.grad, torch.zeros_like(student))


@every_loss
def test_extreme_logits_stay_exact(loss):
    # In fp32 a softmax followed by a log would give -inf from differences of 104 on.
    student = torch.tensor([[0.0, -300.0, -2000.0, 5.0, 0.0], [1e4, -1e4, 0.0, 0.0, 0.0]])
    teacher = torch.tensor([[2.0, 3.0, -1500.0, -300.0, 1.0], [0.0, 1e4, 1e4, 0.0, 0.0]])
    value = loss(student, teacher, all_of(student))
    assert float(value) == pytest.approx(float(loss(student.double(), teacher.double(), all_of(student))), rel=1e-6)
    gradient = gradient_of(loss, student, teacher, all_of(student))
    exact = gradient_of(loss, student.double(), teacher.double(), all_of(student))
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-4, atol=1e-6)


@every_loss
def test_tokens_that_both_rule_out_are_as_if_they_did_not_exist(loss):
    student, teacher = logits(3, 8, seed=1), logits(3, 8, seed=2)
    wide = [torch.cat([values, torch.full((3, 2), -math.inf).double()], dim=1) for values in (student, teacher)]
    torch.testing.assert_close(loss(*wide, all_of(student)), loss(student, teacher, all_of(student)))
    gradient = gradient_of(loss, *wide, all_of(student))
    torch.testing.assert_close(gradient[:, :8], gradient_of(loss, student, teacher, all_of(student)))
    assert bool((gradient[:, 8:] == 0).all())


def test_a_token_that_one_rules_out_makes_a_kl_infinite_and_no_other():
    open_to_all, closed = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, -math.inf]])
    counted = torch.tensor([True])
    assert float(forward_kl(closed, open_to_all, counted)) == math.inf
    assert float(reverse_kl(open_to_all, closed, counted)) == math.inf
    assert float(forward_kl(open_to_all, closed, counted)) == pytest.approx(math.log(1.5))
    assert float(reverse_kl(closed, open_to_all, counted)) == pytest.approx(math.log(1.5))
    for loss in (skew_kl, skew_reverse_kl, generalized_jensen_shannon):
        for student, teacher in ((open_to_all, closed), (closed, open_to_all)):
            assert math.isfinite(loss(student, teacher, counted, 0.5))
            assert bool(gradient_of(loss, student, teacher, counted, 0.5).isfinite().all())


@every_loss
def test_half_precision_logits_are_softened_in_fp32(loss):
    student, teacher = logits(3, 8, seed=1).bfloat16(), logits(3, 8, seed=2).bfloat16()
    value = loss(student, teacher, all_of(student), temperature=3.0)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student.float(), teacher.float(), all_of(student), temperature=3.0))
    assert gradient_of(loss, student, teacher, all_of(student)).dtype == torch.bfloat16


@every_loss
def test_no_gradient_reaches_the_teacher(loss):
    student, teacher = logits(3, 8, seed=1).requires_grad_(), logits(3, 8, seed=2).requires_grad_()
    loss(student, teacher, torch.ones(3, dtype=torch.bool)).backward()
    assert teacher.grad is None
    assert bool((student.grad != 0).any())


@every_whole_loss
def test_settings_without_a_meaning_are_refused(loss):
    values = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"^temperature=0 cannot soften logits: give a number above 0"):
        loss(values, values, torch.tensor([True]), temperature=0.0)


@pytest.mark.parametrize("beta", [0.0, 1.0, 1.5])
def test_a_beta_that_teaches_nothing_is_refused(beta):
    values = torch.zeros(1, 2)
    with pytest.raises(
        ValueError, match=r"^beta=.* outside of \(0, 1\).* choose forward KL for 0 and reverse KL for 1$"
    ):
        generalized_jensen_shannon(values, values, torch.tensor([True]), beta)


@pytest.mark.parametrize("loss", [skew_kl, skew_reverse_kl])
@pytest.mark.parametrize("skew", [-0.1, 1.0])
def test_a_skew_that_teaches_nothing_is_refused(loss, skew):
    values = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"^skew=.* is outside of \[0, 1\)"):
        loss(values, values, torch.tensor([True]), skew)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_a_mixture_mixes_probabilities(share):
    log_q, log_p = log_probs(logits(3, 5, seed=1)), log_probs(logits(3, 5, seed=2))
    expected = share * log_p.exp() + (1 - share) * log_q.exp()
    torch.testing.assert_close(mixture_log_probs(log_q, log_p, share).exp(), expected)
    with pytest.raises(ValueError, match=r"^share=1.2 is no share of the teacher"):
        mixture_log_probs(log_q, log_p, 1.2)


# Top k.


def within_the_rest(student, teacher, k, temperature=1.0):
    """p(R) KL(p(. | R) || q(. | R)) of one place, by its definition."""
    p, q = ((values / temperature).softmax(-1) for values in (teacher, student))
    rest = teacher.argsort(descending=True)[k:]
    mass = p[rest].sum()
    return mass * (p[rest] / mass * ((p[rest] / mass) / (q[rest] / q[rest].sum())).log()).sum()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 4, 11])
def test_lumping_loses_the_kl_within_the_rest(k, temperature):
    student, teacher = logits(6, 12, seed=1, scale=2), logits(6, 12, seed=2, scale=2)
    whole = forward_kl(student, teacher, all_of(student), temperature)
    lumped = top_k_forward_kl(student, top_log_probs(teacher, k, temperature), all_of(student))
    errors = [within_the_rest(s, t, k, temperature) for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(whole - lumped, temperature**2 * torch.stack(errors).mean(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 3, 9, 20])
def test_the_error_lies_between_0_and_its_bound(k, temperature):
    for seed in range(20):
        student, teacher = logits(1, 20, seed=seed, scale=3), logits(1, 20, seed=100 + seed, scale=3)
        top, counted = top_log_probs(teacher, k, temperature), torch.tensor([True])
        error = forward_kl(student, teacher, counted, temperature) - top_k_forward_kl(student, top, counted)
        bound = top_k_error_bound(student, top, counted)
        assert -1e-12 <= float(error) <= float(bound) + 1e-12


def test_a_teacher_attains_the_bound():
    # Kept 0.4 and 0.2. The rest of 0.4 lies on the student's least likely tokens, each at most 0.2: 5 and 4.
    tiny = 1e-13  # the rest needs some mass elsewhere, and its tokens may not tie with those that are kept
    teacher = torch.tensor([[0.4, 0.2, tiny, tiny, 0.2 - tiny, 0.2 - tiny]], dtype=torch.float64).log()
    student = torch.tensor([[0.3, 0.3, 0.2, 0.1, 0.06, 0.04]], dtype=torch.float64).log()
    top, counted = top_log_probs(teacher, 2), torch.tensor([True])
    bound = 0.2 * math.log(0.2 / 0.06) + 0.2 * math.log(0.2 / 0.04) - 0.4 * math.log(0.4 / 0.4)
    assert float(top_k_error_bound(student, top, counted)) == pytest.approx(bound)
    error = forward_kl(student, teacher, counted) - top_k_forward_kl(student, top, counted)
    assert float(error) == pytest.approx(bound, abs=1e-10)


@pytest.mark.parametrize("count", [7, 10, 23, 101])
def test_the_bound_is_finite_where_all_tokens_tie(count):
    # Each token of the rest has the k-th probability, so that rounding leaves mass for more tokens than there are.
    student, teacher = logits(1, count, dtype=torch.float32), torch.zeros(1, count)
    counted = torch.tensor([True])
    for k in range(1, count):
        top = top_log_probs(teacher, k)
        error = forward_kl(student, teacher, counted) - top_k_forward_kl(student, top, counted)
        assert float(top_k_error_bound(student, top, counted)) == pytest.approx(float(error), abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_is_off_by_at_most_twice_the_mass_of_the_rest(temperature):
    for seed in range(20):
        student, teacher = logits(1, 20, seed=seed, scale=3), logits(1, 20, seed=100 + seed, scale=3)
        top, counted = top_log_probs(teacher, 3, temperature), torch.tensor([True])
        whole = gradient_of(forward_kl, student, teacher, counted, temperature)
        error = (gradient_of(top_k_forward_kl, student, top, counted) - whole).abs().sum()
        assert 0 < float(error) <= 2 * temperature * float(top.log_rest.exp())


def test_all_tokens_kept_lose_nothing():
    student, teacher = logits(6, 12, seed=1), logits(6, 12, seed=2)
    top = top_log_probs(teacher, 12)
    assert bool((top.log_rest == -math.inf).all())
    everything = (student, teacher, all_of(student))
    torch.testing.assert_close(top_k_forward_kl(student, top, all_of(student)), forward_kl(*everything))
    assert float(top_k_error_bound(student, top, all_of(student))) == 0
    gradient = gradient_of(top_k_forward_kl, student, top, all_of(student))
    torch.testing.assert_close(gradient, gradient_of(forward_kl, *everything))


def test_a_rest_below_the_resolution_of_fp32_is_kept():
    # The student's rest is 2 exp(-60); 1 - sum(p) would be 0, and the loss infinite.
    student, teacher = torch.tensor([[0.0, -60.0, -60.0]]), torch.tensor([[0.0, -1.0, -2.0]])
    top = top_log_probs(teacher, 1)
    value = top_k_forward_kl(student, top, torch.tensor([True]))
    exact = top_k_forward_kl(student.double(), top_log_probs(teacher.double(), 1), torch.tensor([True]))
    assert float(value) == pytest.approx(float(exact), rel=1e-6)
    assert float(exact) > 10


def test_what_is_kept_may_be_stored_small():
    student, teacher = logits(6, 12, seed=1, dtype=torch.float32), logits(6, 12, seed=2, dtype=torch.float32)
    top = top_log_probs(teacher, 4)
    small = type(top)(top.log_probs.half(), top.indices.int(), top.log_rest.half(), top.temperature)
    torch.testing.assert_close(
        *(top_k_forward_kl(student, kept, all_of(student)) for kept in (small, top)), rtol=0.01, atol=1e-3
    )
    assert float(top_k_error_bound(student, small, all_of(student))) > 0


def test_a_kl_per_place_keeps_places():
    log_p, log_q = log_probs(logits(2, 3, 5, seed=1)), log_probs(logits(2, 3, 5, seed=2))
    expected = rel_entr(log_p.exp().numpy(), log_q.exp().numpy()).sum(-1)
    torch.testing.assert_close(kl_per_place(log_p, log_q), torch.from_numpy(expected))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_generalized_divergence_is_that_of_trl(monkeypatch, beta, temperature):
    """trl divides by no T^2, and takes 0 and 1 for the two KLs."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    chance = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(3, 7, 50, generator=chance) for _ in range(2))
    labels = torch.randint(0, 50, (3, 7), generator=chance)
    labels[0, :3] = labels[2, 5:] = -100
    counted = labels != -100
    ours = {0.0: forward_kl, 1.0: reverse_kl}.get(beta, functools.partial(generalized_jensen_shannon, beta=beta))
    found = ours(student, teacher, counted, temperature=temperature) / temperature**2
    wanted = GKDTrainer.generalized_jsd_loss(student, teacher, labels, beta, temperature)
    torch.testing.assert_close(found, wanted)
