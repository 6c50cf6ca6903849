import math
from decimal import Decimal

import pytest
import torch

from slimsweep.numerics.counts import (
    drop_count,
    drop_counts,
    drop_total,
    expansion_width,
    factor_rank,
    group_drop_count,
    kept_count,
    pattern_drop_count,
    share_of_step,
    spread,
    unit_drop_count,
)


@pytest.mark.parametrize(
    ("ratio", "size", "count"), [(0.29, 100, 29), (0.3, 10, 3), (0.5, 7, 3), (0.0, 9, 0), (0.999, 3, 2)]
)
def test_counts_round_down_what_was_meant(ratio, size, count):
    assert drop_count(ratio, size) == count


def test_zeros_count_towards_the_ratio_of_the_original():
    assert drop_counts(torch.tensor([1, 3, 0]), 4, 0.5, "original").tolist() == [2, 3, 2]


def test_the_ratio_of_the_remaining_comes_on_top_of_zeros():
    assert drop_counts(torch.tensor([1, 3, 0]), 4, 0.5, "remaining").tolist() == [1 + 1, 3 + 0, 0 + 2]


def test_a_spread_adds_up():
    assert spread(10, [4, 4, 2]) == [4, 4, 2]
    assert spread(5, [3, 3, 3]) == [2, 2, 1]
    assert spread(0, [3, 3]) == [0, 0]


@pytest.mark.parametrize(("ratio", "size", "expected"), [(0.29, 26_214_400, 7_602_176), (0.29, 10**8, 29_000_000)])
def test_counts_are_exact_at_the_sizes_of_large_models(ratio, size, expected):
    assert drop_count(ratio, size) == expected


@pytest.mark.parametrize("width", [1, 3, 9, 10, 48, 100, 172, 576, 1536, 4096, 11008])
def test_the_kept_count_is_exact_for_ratios_as_written(width):
    for hundredths in range(100):
        ratio = Decimal(hundredths) / 100
        assert kept_count(float(ratio), width) == math.floor(width * (1 - ratio))
    assert kept_count(0.0, width) == width
    assert kept_count(1e-5, 100_000) == 99_999


@pytest.mark.parametrize(("width", "ratio", "kept"), [(10, 0.9, 1), (100, 0.93, 7)])
def test_binary_rounding_would_lose_a_unit(width, ratio, kept):
    assert math.floor(width * (1 - ratio)) == kept - 1 and kept_count(ratio, width) == kept


def test_a_unit_never_gets_removed_weights_back():
    for present, total in ((0, 5), (5, 5), (7, 7)):
        assert drop_total(present, 10, 0.5, "original") == total
    for present, total in ((0, 5), (5, 7), (7, 8), (10, 10)):  # half of what is left, rounded down
        assert drop_total(present, 10, 0.5, "remaining") == total


def test_many_units_lose_what_each_would():
    present = torch.tensor([0, 1, 5, 7])
    for relative_to in ("original", "remaining"):
        each = [drop_total(count, 7, 0.3, relative_to) for count in present.tolist()]
        assert drop_counts(present, 7, 0.3, relative_to).tolist() == each


@pytest.mark.parametrize(("size", "pattern", "dropped"), [(16, (2, 4), 8), (16, (3, 4), 4), (32, (1, 16), 30)])
def test_a_pattern_removes_m_less_n_of_every_m(size, pattern, dropped):
    assert pattern_drop_count(size, pattern) == dropped


@pytest.mark.parametrize(("ratio", "groups", "neurons"), [(0.25, 0, 384), (0.4, 1, 615), (0.6, 1, 922), (0.7, 2, 1076)])
def test_whole_groups_of_query_heads_go(ratio, groups, neurons):
    assert unit_drop_count(ratio, 9 * 64, 3) == groups  # SmolLM2: 9 query heads of 64 in 3 groups
    assert unit_drop_count(ratio, 1536, 1536) == neurons


def test_a_quarter_of_a_llama_2_7b_block_is_8_heads_and_2752_neurons():
    assert unit_drop_count(0.25, 4096, 32) == 8
    assert unit_drop_count(0.25, 11008, 11008) == 2752
    assert unit_drop_count(0.3, 4096, 32) == 9  # 1,229 of 4,096 query channels are 9 heads of 128


def test_heads_are_counted_before_their_groups():
    assert group_drop_count(0.29, 100, 1) == 29
    assert [group_drop_count(ratio, 9, 3) for ratio in (0.3, 0.33, 0.34, 0.66, 0.7, 0.99)] == [0, 0, 1, 1, 2, 2]


def test_an_inner_width_follows_from_the_residual_width():
    assert expansion_width(2, 576) == 1152
    assert expansion_width(2.3, 100) == 230  # 2.3 * 100 is 229.99999999999997
    assert expansion_width(2.05, 288) == 590  # of 590.4


@pytest.mark.parametrize(("total", "steps"), [(10, 3), (7, 10), (0, 4), (1229, 7)])
def test_steps_share_a_total_about_equally(total, steps):
    shares = [share_of_step(total, step, steps) for step in range(1, steps + 1)]
    assert sum(shares) == total and set(shares) <= {total // steps, total // steps + 1}


@pytest.mark.parametrize(
    ("ratio", "shape", "rank"), [(0.2, (3, 6), 1), (0.29, (200, 200), 71), (0.0, (4, 4), 2), (0.99, (7, 13), 1)]
)
def test_ranks_round_down_and_are_at_least_one(ratio, shape, rank):
    assert factor_rank(ratio, *shape) == rank
