import itertools

import pytest
import torch

from slimsweep.numerics import kmeans
from slimsweep.numerics.kmeans import row_levels


def levels_of(values, importance=None, count: int = 2, most: int | None = None, counted=None) -> torch.Tensor:
    values = torch.tensor([values])
    importance = torch.ones_like(values) if importance is None else torch.tensor([importance])
    counted = torch.ones_like(values, dtype=torch.bool) if counted is None else torch.tensor([counted])
    return row_levels(values, importance, counted, torch.tensor([count]), most or count)[0]


def loss(values: torch.Tensor, importance: torch.Tensor, levels: torch.Tensor) -> float:
    nearest = (values[:, None] - levels[None]).abs().amin(dim=1)
    return float((importance.double() * nearest.double().square()).sum())


def least_loss(values: torch.Tensor, importance: torch.Tensor, count: int) -> float:
    """The best of all ways to cut the sorted values into `count` parts, each with its weighted mean."""
    order = values.argsort()
    values, importance = values[order].double(), importance[order].double()
    found = []
    for cuts in itertools.combinations(range(1, len(values)), count - 1):
        bounds, total = [0, *cuts, len(values)], 0.0
        for start, stop in itertools.pairwise(bounds):
            weight, part = importance[start:stop], values[start:stop]
            mean = (weight * part).sum() / weight.sum()
            total += float((weight * (part - mean).square()).sum())
        found.append(total)
    return min(found)


def test_two_clusters_by_hand():
    assert levels_of([9.0, 1.0, 11.0, 2.0, 3.0]).tolist() == [2, 10]


def test_importance_pulls_a_level_by_hand():
    # (3 x 1 + 1 x 5) / 4 = 2; one level of its own for 100.
    assert levels_of([1.0, 5.0, 100.0], [3.0, 1.0, 1.0]).tolist() == [2, 100]


def test_importance_decides_which_values_share_a_level():
    assert levels_of([0.0, 4.0, 9.0], [1.0, 1.0, 1.0]).tolist() == [2, 9]
    assert levels_of([0.0, 4.0, 9.0], [100.0, 1.0, 1.0]).tolist() == [0, 6.5]


@pytest.mark.parametrize(("size", "count"), [(5, 2), (7, 3), (9, 1), (9, 8), (10, 4), (11, 5)])
def test_the_optimum_of_all_partitions_is_found(size, count):
    generator = torch.Generator().manual_seed(size * 100 + count)
    values = torch.randn(8, size, generator=generator)
    importance = torch.rand(8, size, generator=generator) ** 3 + 1e-3
    found = row_levels(values, importance, importance > 0, torch.full((8,), count), count)
    for row in range(8):
        expected = least_loss(values[row], importance[row], count)
        assert loss(values[row], importance[row], found[row]) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_equal_importance_of_any_size_is_plain_k_means():
    values = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    everything, counts = torch.ones_like(values, dtype=torch.bool), torch.full((6,), 8)
    plain = row_levels(values, torch.ones_like(values), everything, counts, 8)
    assert torch.equal(row_levels(values, torch.full_like(values, 2.0**-60), everything, counts, 8), plain)
    assert torch.equal(row_levels(values, torch.zeros_like(values), everything, counts, 8), plain)


def test_equal_values_weigh_together():
    repeated = levels_of([0.0, 0.0, 0.0, 4.0, 9.0])
    assert repeated.tolist() == levels_of([0.0, 4.0, 9.0], [3.0, 1.0, 1.0]).tolist() == [1, 9]  # loses 12, not 12.5


def test_fewer_distinct_values_than_levels_are_the_levels():
    found = levels_of([0.25, -1.5, 0.25, 3.0], count=8)
    assert found.tolist() == [-1.5, 0.25, 3, 3, 3, 3, 3, 3]


def test_what_is_not_counted_moves_nothing():
    found = levels_of([1.0, 3.0, 9.0, 500.0], counted=[True, True, True, False])
    assert found.tolist() == [2, 9]
    assert levels_of([1.0, 3.0], counted=[False, False]).tolist() == [0, 0]


def test_rows_have_counts_of_their_own():
    values = torch.tensor([[1.0, 2.0, 7.0], [1.0, 2.0, 7.0]])
    found = row_levels(values, torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.tensor([1, 2]), 3)
    assert found.tolist() == [[pytest.approx(10 / 3)] * 3, [1.5, 7, 7]]


def test_importance_of_twenty_orders_leaves_every_level_finite():
    generator = torch.Generator().manual_seed(0)
    values, importance = torch.randn(4, 300, generator=generator), 10 ** (-20 * torch.rand(4, 300, generator=generator))
    for count in (8, 64):
        found = row_levels(values, importance, importance > 0, torch.full((4,), count), count)
        assert bool(found.isfinite().all())
        assert bool((found.diff(dim=1) >= 0).all())


def test_many_levels_come_near_the_optimum_and_repeat_themselves(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    values, importance = torch.randn(8, 200, generator=generator), torch.rand(8, 200, generator=generator)
    arguments = (values, importance, importance > 0, torch.full((8,), 32), 32)
    near = row_levels(*arguments)
    assert torch.equal(near, row_levels(*arguments))
    monkeypatch.setattr(kmeans, "EXACT_LEVELS", 32)
    best = row_levels(*arguments)
    losses = [sum(loss(*row) for row in zip(values, importance, found, strict=True)) for found in (near, best)]
    assert losses[1] < losses[0] < 1.6 * losses[1]
    evenly = torch.stack([row.quantile(torch.linspace(0, 1, 32)) for row in values])
    assert losses[0] < sum(loss(*row) for row in zip(values, importance, evenly, strict=True))
