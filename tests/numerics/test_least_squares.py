import numpy
import pytest
import torch

from slimsweep.errors import HessianError
from slimsweep.numerics import least_squares as least_squares_module
from slimsweep.numerics.least_squares import DAMPING_FRACTION, least_squares


@pytest.fixture
def exact(monkeypatch):
    """A repair without damping to speak of."""
    monkeypatch.setattr(least_squares_module, "DAMPING_FRACTION", 1e-13)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(tokens: int = 300, width: int = 12) -> torch.Tensor:
    return drawn(0, tokens, width) @ drawn(1, width, width)


def moment(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.T @ inputs / len(inputs)


@pytest.mark.parametrize("lost", [[3], [0, 5, 11], list(range(9))])
def test_repair_is_numpys_least_squares_where_damping_is_nothing(lost, exact):
    inputs, weight = correlated(), drawn(2, 7, 12)
    keep = [column for column in range(12) if column not in lost]
    repaired, before, after, _ = least_squares(weight, moment(inputs), torch.tensor(lost))
    target = (inputs @ weight.T).numpy()
    solution = numpy.linalg.lstsq(inputs[:, keep].numpy(), target, rcond=None)[0]
    assert torch.allclose(repaired[:, keep], torch.from_numpy(solution.T), rtol=1e-5, atol=1e-7)
    assert not repaired[:, lost].any()
    assert after < before


@pytest.mark.parametrize("damping", [1e-13, 0.01, 1.0])
def test_both_errors_are_those_measured_on_the_data_and_the_second_is_no_larger(damping, monkeypatch):
    monkeypatch.setattr(least_squares_module, "DAMPING_FRACTION", damping)
    for seed in range(10):
        inputs, weight = correlated() + seed, drawn(seed, 7, 12)
        lost = torch.randperm(12, generator=torch.Generator().manual_seed(seed))[: 1 + seed]
        repaired, before, after, _ = least_squares(weight, moment(inputs), lost)
        output, masked = inputs @ weight.T, weight.clone()
        masked[:, lost] = 0
        for error, other in ((before, masked), (after, repaired)):
            measured = (output - inputs @ other.T).square().sum() / output.square().sum()
            assert error == pytest.approx(float(measured), rel=1e-6)
        assert after <= before


def test_damping_stays_closer_to_what_was_there(monkeypatch):
    inputs, weight, distances = correlated(), drawn(2, 7, 12), []
    for damping in (1e-9, 0.01, 1.0):
        monkeypatch.setattr(least_squares_module, "DAMPING_FRACTION", damping)
        distances.append(float((least_squares(weight, moment(inputs), torch.tensor([1, 4]))[0] - weight).norm()))
    assert distances == sorted(distances, reverse=True)


def test_a_damped_repair_by_hand():
    # Inputs 1 and 2 are equal, of mean square 1: the kept one takes on w1 x 1 / (1 + damping).
    repaired, before, after, _ = least_squares(torch.tensor([[2.0, 4.0]]), torch.ones(2, 2), torch.tensor([0]))
    assert repaired.tolist() == [[0, pytest.approx(4 + 2 / 1.01)]]
    assert before == pytest.approx(4 / 36)
    assert after == pytest.approx((2 - 2 / 1.01) ** 2 / 36, abs=1e-7)


def test_damping_is_a_fraction_of_the_inputs_own_size():
    inputs, weight, lost = correlated(), drawn(2, 3, 12), torch.tensor([1, 4])
    one, other = (least_squares(weight, moment(scale * inputs), lost)[0] for scale in (1, 100))
    assert torch.allclose(one, other)


def test_inputs_that_say_nothing_of_the_lost_ones_change_nothing():
    weight = drawn(2, 3, 6)
    repaired, before, after, _ = least_squares(weight, torch.eye(6).double(), torch.tensor([0, 5]))
    assert torch.equal(repaired[:, 1:5], weight[:, 1:5]) and before == after


def test_a_dead_kept_input_keeps_its_weights():
    inputs, weight = correlated(), drawn(2, 3, 12)
    inputs[:, 4] = 0
    repaired, before, after, _ = least_squares(weight, moment(inputs), torch.tensor([0]))
    assert torch.allclose(repaired[:, 4], weight[:, 4]) and after < before


def test_kept_inputs_that_never_move_change_nothing():
    moment = torch.zeros(3, 3)
    moment[0, 0] = 2
    repaired, before, after, _ = least_squares(torch.tensor([[1.0, 2.0, 3.0]]), moment, torch.tensor([0]))
    assert repaired.tolist() == [[0, 2, 3]] and before == after == 1
    assert least_squares(torch.ones(2, 3), torch.zeros(3, 3), torch.tensor([0]))[1:] == (0, 0, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_from_which_nothing_can_be_fitted_are_refused(value):
    with pytest.raises(HessianError, match="no damping from 0.01 to 1 .* makes the kept inputs factorable"):
        least_squares(torch.ones(2, 3), torch.full((3, 3), value), torch.tensor([0]))


def test_a_moment_that_rounding_made_indefinite_is_damped_more():
    moment = torch.tensor([[2.0, 1.0, 1.0], [1.0, 1.0, 1.05], [1.0, 1.05, 1.0]])  # needs more than 0.05 of 1
    repaired, *_ = least_squares(torch.tensor([[1.0, 2.0, 3.0]]), moment, torch.tensor([0]))
    by_hand = torch.linalg.solve(moment[1:, 1:] + 0.1 * torch.eye(2), torch.ones(2))
    assert repaired[0].tolist() == pytest.approx([0, 2 + float(by_hand[0]), 3 + float(by_hand[1])], rel=1e-5)


def test_a_repair_keeps_what_was_removed_and_is_the_optimum_of_the_rest():
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(200, 24, generator=generator, dtype=torch.float64)
    inputs = inputs @ torch.randn(24, 24, generator=generator, dtype=torch.float64)
    weight = torch.randn(5, 24, generator=generator, dtype=torch.float64)
    removed = torch.rand(5, 24, generator=generator) < 0.4
    weight[removed] = 0
    moment, lost = inputs.T @ inputs / 200, torch.arange(4)
    repaired, before, after, _ = least_squares(weight, moment, lost, removed)
    assert torch.all(repaired[removed] == 0) and after < before
    mean = moment[4:, 4:].diagonal().mean()
    for row in range(5):  # each row's own normal equations, over the columns that neither went nor were removed
        free = [column for column in range(4, 24) if not removed[row, column]]
        damped = moment[free][:, free] + DAMPING_FRACTION * mean * torch.eye(len(free), dtype=torch.float64)
        owed = moment[free][:, :4] @ weight[row, :4]
        expected = weight[row, free] + torch.linalg.solve(damped, owed)
        assert torch.allclose(repaired[row, free], expected, atol=1e-6)


def test_rows_that_conjugate_gradients_leave_short_of_the_tolerance_are_counted(monkeypatch):
    inputs, weight = correlated(), drawn(2, 7, 12)
    removed = torch.zeros(7, 12, dtype=torch.bool)
    removed[2:, 1:4] = True  # rows 0 and 1 are solved by the factor alone
    weight[removed] = 0
    arguments = weight, moment(inputs), torch.tensor([0, 5]), removed
    assert least_squares(*arguments)[3] == 0
    monkeypatch.setattr(least_squares_module, "CG_STEPS", 1)
    assert least_squares(*arguments)[3] == 5
