import torch

from slimsweep.numerics.means import pooled_mean


def test_groups_of_equal_size_give_the_plain_mean_to_the_last_bit():
    means = torch.randn(37, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pooled_mean(means, [9] * 37), means.mean())


def test_each_member_counts_once():
    members = torch.randn(10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    groups = members.split([1, 3, 6])
    means = torch.stack([group.mean() for group in groups])
    torch.testing.assert_close(pooled_mean(means, [1, 3, 6]), members.mean())
