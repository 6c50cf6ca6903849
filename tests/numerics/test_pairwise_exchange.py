import itertools
import signal

import pytest
import torch

from slimsweep.numerics.pairwise_exchange import assignment, best_exchanges, greedy, interaction, objective

UNITS = 8
ROUNDING = 1 + 1e-12  # the same set summed in another order
SETS = {
    count: torch.tensor(list(itertools.combinations(range(UNITS), count)))  # all sets of 8 units, by size
    for count in range(1, UNITS)
}


def normal(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def singles(count: int) -> torch.Tensor:
    return torch.arange(count)[:, None]


def neuron_costs(seed: int, outputs: int = 16, units: int = UNITS) -> torch.Tensor:
    """Costs of neurons whose values are correlated and never negative, as those of a real MLP."""
    draw = normal(seed)
    weight, values = draw(outputs, units), (draw(200, units) @ draw(units, units)).relu()
    return interaction(weight, values.T @ values / 200, singles(units))


def any_costs(seed: int, units: int = UNITS) -> torch.Tensor:
    """A positive semidefinite matrix, of full rank or not."""
    factor = normal(seed)((2, units // 2, units, 2 * units)[seed % 4], units)
    return factor.T @ factor


def direct(matrix: torch.Tensor, gone) -> float:
    gone = [int(unit) for unit in gone]
    return sum(float(matrix[one, other]) for one in gone for other in gone)


def least(matrix: torch.Tensor, count: int) -> float:
    """The lowest objective of all sets of this size."""
    sets = SETS[count]
    return float(matrix[sets[:, :, None], sets[:, None, :]].sum(dim=(1, 2)).min())


def swaps(matrix: torch.Tensor, gone) -> list[float]:
    """Objectives after each possible exchange of one unit that goes for one that stays."""
    gone = {int(unit) for unit in gone}
    stay = set(range(len(matrix))) - gone
    return [direct(matrix, gone - {back} | {away}) for back in gone for away in stay]


@pytest.mark.parametrize(
    "index",
    [singles(12), torch.arange(12).view(4, 3), torch.tensor([[7, 2], [0, 11], [5, 4]])],
    ids=["neurons", "heads", "some columns in any order"],
)
def test_the_sum_over_a_set_is_the_measured_change_when_it_goes(index):
    draw = normal(0)
    weight, inputs = draw(5, 12), draw(40, 12) @ draw(12, 12) + 1
    matrix = interaction(weight, inputs.T @ inputs / 40, index)
    assert matrix.shape == (len(index), len(index))
    for count in range(1, len(index) + 1):
        for gone in itertools.islice(itertools.combinations(range(len(index)), count), 20):
            without = inputs.clone()
            without[:, index[list(gone)].flatten()] = 0
            change = ((inputs - without) @ weight.T).square().sum(dim=1).mean()
            assert objective(matrix, torch.tensor(gone)) == pytest.approx(float(change), rel=1e-9)


def test_units_may_own_the_first_columns_alone():
    weight, moment = normal(0)(5, 12), torch.eye(12).double()
    assert interaction(weight, moment, singles(4)).shape == (4, 4)


def test_two_units_by_hand():
    weight = torch.tensor([[1.0, 2.0], [0.0, 1.0]])  # columns (1, 0) and (2, 1)
    moment = torch.tensor([[3.0, -1.0], [-1.0, 2.0]])
    assert interaction(weight, moment, singles(2)).tolist() == [[3, -2], [-2, 10]]


def test_greedy_takes_the_lowest_alone_and_the_first_of_equals():
    matrix = torch.diag(torch.tensor([2.0, 1.0, 3.0, 1.0, 1.0]))
    assert greedy(matrix, 2).tolist() == [1, 3]
    assert greedy(matrix, 4).tolist() == [1, 3, 4, 0]


def test_a_swap_that_greedy_cannot_see():
    # Alone 0 and 1 cost least, but together they cost 4.4; 2 takes back what 0 does.
    matrix = torch.tensor([[1.0, 1.1, -0.9], [1.1, 1.2, 0.0], [-0.9, 0.0, 1.3]])
    found = best_exchanges(matrix, greedy(matrix, 2))
    assert found.chosen.tolist() == [0, 2]
    assert found.exchanges == 1
    assert objective(matrix, greedy(matrix, 2)) == pytest.approx(4.4) and found.objective == pytest.approx(0.5)


@pytest.mark.parametrize("costs", [neuron_costs, any_costs])
def test_the_end_is_never_above_the_start_and_no_swap_gains(costs):
    for seed in range(25):
        matrix = costs(seed, units=11)
        for count in range(12):
            start = greedy(matrix, count)
            before, found = direct(matrix, start), best_exchanges(matrix, start)
            assert found.chosen.tolist() == sorted({int(unit) for unit in found.chosen}) and len(found.chosen) == count
            assert found.objective == pytest.approx(direct(matrix, found.chosen), rel=1e-9, abs=1e-9)
            assert found.objective <= before * ROUNDING
            assert (found.exchanges == 0) == (found.chosen.tolist() == sorted(start.tolist()))
            assert min(swaps(matrix, found.chosen), default=found.objective) >= found.objective - 1e-8 * before


@pytest.mark.parametrize("seed", range(20))
def test_greedy_faq_and_exchanges_equal_brute_force_on_8_neurons(seed):
    for matrix in (neuron_costs(seed), neuron_costs(1000 + seed, outputs=64)):
        for count in SETS:
            starts = (greedy(matrix, count), assignment(matrix, count, seed=0))
            best = min(best_exchanges(matrix, start).objective for start in starts)
            assert best == pytest.approx(least(matrix, count), rel=1e-9)


def test_a_local_optimum_is_seldom_far_from_brute_force():
    # Single swaps end in local optima. Of these 700 neuron cases greedy is above brute force in 251 (by 61 % at most),
    # exchanges from it in 4 (5 %), with faq beside it in 1 (0.8 %). Of the 700 arbitrary matrices it is 513, 84 and 29,
    # by any factor, since at low rank the optimum is nearly 0.
    for costs, allowed, allowed_with_faq in ((neuron_costs, 0.01, 0.005), (any_costs, 0.15, 0.06)):
        missed, missed_with_faq, missed_by_greedy, cases = 0, 0, 0, 0
        for seed in range(100):
            matrix = costs(seed)
            for count in SETS:
                bound = least(matrix, count) * (1 + 1e-9) + 1e-9
                first = best_exchanges(matrix, greedy(matrix, count)).objective
                cases += 1
                missed_by_greedy += objective(matrix, greedy(matrix, count)) > bound
                if first > bound:
                    second = best_exchanges(matrix, assignment(matrix, count, seed=0)).objective
                    missed, missed_with_faq = missed + 1, missed_with_faq + (second > bound)
        assert missed <= allowed * cases and missed_with_faq <= allowed_with_faq * cases
        assert missed_by_greedy > 0.2 * cases


@pytest.mark.parametrize("partition", [2, 5, 7, 23, 24, 100])
def test_parts_end_at_a_set_no_swap_within_them_improves(partition):
    for seed in range(5):
        matrix = neuron_costs(seed, units=24)
        dealt = matrix.diagonal().argsort(stable=True).tolist()
        parts = -(-24 // partition)
        for count in (1, 7, 12, 23):
            before = objective(matrix, greedy(matrix, count))
            found = best_exchanges(matrix, greedy(matrix, count), partition)
            assert len(found.chosen) == count
            assert found.objective == pytest.approx(direct(matrix, found.chosen), rel=1e-9)
            assert found.objective <= before * ROUNDING
            gone = set(found.chosen.tolist())
            for part in (dealt[turn::parts] for turn in range(parts)):
                for back in gone & set(part):
                    for away in set(part) - gone:
                        assert direct(matrix, gone - {back} | {away}) >= found.objective - 1e-8 * before


def test_parts_still_gain_on_greedy():
    matrix = neuron_costs(1, units=64)
    start = greedy(matrix, 30)
    whole, parts = best_exchanges(matrix, start), best_exchanges(matrix, start, partition=8)
    assert max(whole.objective, parts.objective) < objective(matrix, start)


def test_a_partition_of_all_units_or_more_is_none():
    matrix = neuron_costs(3, units=24)
    whole = best_exchanges(matrix, greedy(matrix, 10))
    for partition in (24, 25):
        assert best_exchanges(matrix, greedy(matrix, 10), partition).chosen.tolist() == whole.chosen.tolist()


def test_nothing_and_everything_cannot_be_swapped():
    matrix = neuron_costs(0)
    none, every = (best_exchanges(matrix, greedy(matrix, count)) for count in (0, UNITS))
    assert (none.chosen.tolist(), none.objective, none.exchanges) == ([], 0, 0)
    assert every.chosen.tolist() == list(range(UNITS)) and every.exchanges == 0
    assert every.objective == pytest.approx(float(matrix.sum()))


@pytest.mark.parametrize("matrix", [torch.eye(6), torch.ones(6, 6), torch.zeros(6, 6)], ids=["apart", "equal", "dead"])
def test_equal_units_are_left_where_they_are(matrix):
    found = best_exchanges(matrix, torch.tensor([4, 1]))
    assert found.chosen.tolist() == [1, 4] and found.exchanges == 0


def test_the_matrix_and_the_start_are_not_written_to():
    matrix, start = neuron_costs(1), torch.tensor([5, 0, 3])
    before = matrix.clone()
    assert best_exchanges(matrix, start).exchanges
    assert torch.equal(matrix, before) and start.tolist() == [5, 0, 3]


@pytest.mark.parametrize("count", [1, 3, 7])
def test_faq_assigns_as_many_units_as_are_asked_for(count):
    found = assignment(neuron_costs(0), count, seed=0)
    assert len(set(found.tolist())) == count
    assert assignment(neuron_costs(0), count, seed=0).tolist() == found.tolist()


def test_faq_alone_is_mostly_at_the_optimum():  # of these 105 cases in 72; in 35 it is above greedy
    cases = [(neuron_costs(seed), count) for seed in range(15) for count in SETS]
    found = [objective(matrix, assignment(matrix, count, seed=0)) for matrix, count in cases]
    optimal = sum(value <= least(*case) * (1 + 1e-9) for value, case in zip(found, cases, strict=True))
    assert optimal > 0.5 * len(cases)


def test_units_that_cancel_to_nothing_end_the_search():
    generator = torch.Generator().manual_seed(977)
    count, width = (int(torch.randint(low, high, (1,), generator=generator)) for low, high in ((4, 20), (1, 3)))
    noise = 10.0 ** -float(torch.randint(6, 17, (1,), generator=generator))
    base = torch.randn(width, 1, generator=generator, dtype=torch.float64)
    signs = torch.randint(0, 2, (1, count), generator=generator).double() * 2 - 1
    columns = base * signs * (1 + noise * torch.randn(width, count, generator=generator, dtype=torch.float64))
    matrix = columns.T @ columns

    def give_up(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        found = best_exchanges(matrix, greedy(matrix, 4))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(found.chosen) == 4
