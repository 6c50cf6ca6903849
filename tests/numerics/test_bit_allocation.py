import itertools

import pytest
import torch

from slimsweep.numerics import bit_allocation
from slimsweep.numerics.bit_allocation import allocate


def by_brute_force(sizes: list[int], bits: list[list[int]], losses: list[list[float]], average: float) -> float:
    """The least sum of losses among all ways within the budget."""
    ways = itertools.product(*(range(len(own)) for own in bits))
    return min(
        sum(losses[layer][choice] for layer, choice in enumerate(way))
        for way in ways
        if sum(sizes[layer] * bits[layer][choice] for layer, choice in enumerate(way)) <= average * sum(sizes) + 1e-9
    )


def spent(sizes: list[int], bits: list[list[int]], picked: list[int]) -> int:
    return sum(size * own[choice] for size, own, choice in zip(sizes, bits, picked, strict=True))


def test_two_layers_by_hand():
    # 4 bits on average: both 4 lose 3 + 3; 2 and 6 lose 9 or 4 + 1. Fewer bits for the second, which minds less.
    bits, losses = [[2, 4, 6], [2, 4, 6]], [[8.0, 3.0, 1.0], [4.0, 3.0, 1.0]]
    assert allocate([10, 10], bits, losses, 4) == [2, 0]
    assert allocate([10, 10], bits, losses, 3.9) == [1, 0]  # 6 + 2 is 0.1 too much
    assert allocate([10, 10], bits, losses, 2) == [0, 0]
    assert allocate([10, 10], bits, losses, 99) == [2, 2]


@pytest.mark.parametrize("average", [2, 2.5, 3, 3.7, 4, 6, 11.3])
@pytest.mark.parametrize("sizes", [[3, 3, 3, 3, 3], [64, 96, 32, 320, 32], [7, 11, 13, 2, 5]])
def test_the_best_of_all_ways_within_the_budget_is_found(average, sizes):
    generator = torch.Generator().manual_seed(int(10 * average) + sizes[0])
    bits = [[2, 3, 4, 8, 16]] * 5
    losses = torch.rand(5, 5, generator=generator).sort(dim=1, descending=True).values.tolist()
    losses[1] = losses[1][::-1]  # measured losses may rise with bits
    picked = allocate(sizes, bits, losses, average)
    assert spent(sizes, bits, picked) <= average * sum(sizes)
    found = sum(own[choice] for own, choice in zip(losses, picked, strict=True))
    assert found == pytest.approx(by_brute_force(sizes, bits, losses, average))


def test_a_larger_budget_never_loses_more():
    generator = torch.Generator().manual_seed(0)
    sizes, bits = [64, 96, 32, 320, 32, 64, 64], [[2, 3, 4, 8, 16]] * 7
    losses = torch.rand(7, 5, generator=generator).sort(dim=1, descending=True).values.tolist()
    budgets = [2 + step / 7 for step in range(100)]
    picked = [allocate(sizes, bits, losses, budget) for budget in budgets]
    found = [sum(own[choice] for own, choice in zip(losses, one, strict=True)) for one in picked]
    assert all(later <= earlier for earlier, later in itertools.pairwise(found))
    assert all(spent(sizes, bits, one) <= budget * sum(sizes) for one, budget in zip(picked, budgets, strict=True))


def test_equal_layers_at_an_average_that_is_a_choice_all_get_it():
    for average in (2, 3, 4, 8):
        picked = allocate([48] * 9, [[2, 3, 4, 8]] * 9, [[4.0**-bits for bits in (2, 3, 4, 8)]] * 9, average)
        assert picked == [[2, 3, 4, 8].index(average)] * 9


def test_layers_that_lose_nothing_take_the_fewest_bits():
    assert allocate([5, 7], [[2, 4, 16]] * 2, [[0.0, 0.0, 0.0]] * 2, 9) == [0, 0]


def test_sizes_without_a_common_divisor_stay_within_the_budget(monkeypatch):
    monkeypatch.setattr(bit_allocation, "UNITS", 50)
    generator = torch.Generator().manual_seed(0)
    sizes = [1009, 2003, 4001, 997, 3001, 1511]
    losses = torch.rand(6, 4, generator=generator).sort(dim=1, descending=True).values.tolist()
    bits = [[2, 3, 4, 8]] * 6
    for average in (2, 2.01, 3, 4.5, 8):
        picked = allocate(sizes, bits, losses, average)
        assert spent(sizes, bits, picked) <= average * sum(sizes)
        found = sum(own[choice] for own, choice in zip(losses, picked, strict=True))
        # What rounding up may cost is a layer's last step; a budget smaller by one unit each bounds it.
        assert found <= by_brute_force(sizes, bits, losses, max(2, average - (average - 2) * 7 / 50)) + 1e-9
