import math

import pytest
import torch
from restatements import lowest_first

from slimsweep.numerics import masks


@pytest.mark.parametrize(("pattern", "group"), [("unstructured", None), ("2:4", (2, 4)), ("1:16", (1, 16))])
def test_patterns(pattern, group):
    assert masks.parse_pattern(pattern) == group


@pytest.mark.parametrize("pattern", ["4:2", "4:4", "0:4", "2-4", "2:4:8", "", ":4", "-1:4"])
def test_no_patterns(pattern):
    with pytest.raises(ValueError, match="no pattern: give unstructured, or n:m"):
        masks.parse_pattern(pattern)


def test_ties_drop_no_more_than_asked_and_the_first_go_first():
    score = torch.tensor([[1.0, 2.0, 1.0, 1.0, 0.0]])
    assert masks.keep_highest(score, torch.tensor([3])).tolist() == [[False, True, False, True, False]]


def test_each_unit_has_its_own_count():
    score = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    keep = masks.keep_highest(score, torch.tensor([0, 1, 3]))
    assert keep.tolist() == [[True, True, True], [True, False, True], [False, False, False]]


def test_a_score_that_is_no_number_stays_and_ties_still_drop_no_more_than_asked():
    score = torch.ones(1, 101)
    score[0, 50] = math.nan
    for keep in (masks.keep_highest(score, torch.tensor([3]))[0], masks.keep_highest_of_all(score[0][None], 3)[0]):
        assert torch.nonzero(~keep).flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize("width", [4, 100, 10_000])
def test_what_is_no_number_stays_where_more_than_all_numbers_should_go(width):
    score = torch.arange(width, dtype=torch.float32)[None].clone()
    score[0, width // 2 :] = math.nan
    expected = score[0].isnan().tolist()
    assert masks.keep_highest(score, torch.tensor([width - 1]))[0].tolist() == expected
    assert masks.keep_highest_of_all(score, width - 1)[0].tolist() == expected


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("levels", [3, 10**6])
@pytest.mark.parametrize("part", [0, 0.01, 0.5, 1])
@pytest.mark.parametrize("shape", [(13, 10), (130, 100)])
def test_a_whole_tensor_is_one_unit_however_it_lies_in_memory(transposed, levels, part, shape):
    score = torch.randint(levels, shape, generator=torch.Generator().manual_seed(0)).float()
    dropped = int(part * score.numel())
    expected = masks.keep_highest(score.reshape(1, -1), torch.tensor([dropped])).view(shape)
    given = score.T.contiguous().T if transposed else score
    assert torch.equal(masks.keep_highest_of_all(given, dropped), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scores_of_other_dtypes_are_compared_as_they_are(dtype):
    score = torch.tensor([[1 + 2e-12, 1 + 1e-12, 3.0, 1 + 3e-12]], dtype=dtype)
    expected = [False, False, True, True] if dtype == torch.bfloat16 else [True, False, True, True]
    dropped = expected.count(False)
    assert masks.keep_highest_of_all(score, dropped)[0].tolist() == expected
    assert masks.keep_highest(score, torch.tensor([dropped]))[0].tolist() == expected


@pytest.mark.parametrize("shape", [(2, 8), (8, 16), (2, 80), (2, 10_000)])
def test_bf16_scores_order_as_in_fp32(shape):
    score = torch.rand(shape, generator=torch.Generator().manual_seed(0)).bfloat16()  # with many ties
    for dropped in (0, 5, shape[1] - 1, shape[1]):
        every = torch.full((shape[0],), dropped)
        assert torch.equal(masks.keep_highest(score, every), masks.keep_highest(score.float(), every))
        assert torch.equal(masks.keep_highest_of_all(score, dropped), masks.keep_highest_of_all(score.float(), dropped))


@pytest.mark.parametrize("shape", [(1, 5000), (7, 129), (300, 4), (2, 64)])
@pytest.mark.parametrize("levels", [3, 10**6])  # nearly all tied; nearly none
@pytest.mark.parametrize("uniform", [True, False])
def test_agrees_with_a_stable_sort(shape, levels, uniform):
    generator = torch.Generator().manual_seed(0)
    score = torch.randint(levels, shape, generator=generator).float()
    dropped = torch.randint(shape[1] + 1, (shape[0],), generator=generator)
    dropped = dropped[:1].expand(shape[0]) if uniform else dropped
    nothing = torch.zeros(shape, dtype=torch.bool)
    expected = torch.stack(
        [lowest_first(row, zero, count) for row, zero, count in zip(score, nothing, dropped.tolist(), strict=True)]
    )
    assert torch.equal(masks.keep_highest(score, dropped), expected)


def test_infinite_scores_stay_longest():
    score = torch.tensor([[math.inf, 1.0, math.inf, 0.0]])
    assert masks.keep_highest(score, torch.tensor([2])).tolist() == [[True, False, True, False]]


def test_removing_nothing_keeps_every_bit():
    weight = torch.tensor([-0.0, 0.0, 1.0, -1.0])
    removed = masks.remove(weight, torch.tensor([False, False, True, True]))
    assert torch.equal(removed.view(torch.int32), weight.view(torch.int32))


def test_an_infinite_weight_is_removed_to_zero():
    assert masks.remove(torch.tensor([math.inf, 2.0]), torch.tensor([False, True])).tolist() == [0.0, 2.0]


@pytest.mark.parametrize("rank", [0, 1, 5, 6, 11, 12])
def test_lowest_over_many_tensors_is_that_of_their_union(rank):
    parts = [torch.tensor([0.5, 1e-30, 0.5, 0.0]), torch.tensor([3.0, 0.5, 0.25]), torch.arange(5).float()]
    threshold, room = masks.lowest_overall(lambda: iter(parts), rank)
    everything = torch.cat(parts).sort().values
    if rank:
        assert threshold == everything[rank - 1]
    assert int((everything < threshold).sum()) + room == rank
