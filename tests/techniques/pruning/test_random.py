import pytest
import torch

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.base import weight_2d
from slimsweep.techniques.pruning.random import Random


def pruned(source, seed: int, ratio: float = 0.5) -> torch.Tensor:
    model = source.load(torch.float32, torch.device("cpu"))
    Random(ratio=ratio).apply(model, StageContext(seed=seed))
    return torch.cat([weight_2d(layer).flatten() for layer in model.targets().values()])


def test_the_seed_decides(tiny_source):
    assert torch.equal(pruned(tiny_source, 1), pruned(tiny_source, 1))
    assert not torch.equal(pruned(tiny_source, 1), pruned(tiny_source, 2))


def passes(source, seed: int, **fields) -> torch.Tensor:
    model = source.load(torch.float32, torch.device("cpu"))
    Random(relative_to="remaining", **fields).apply(model, StageContext(seed=seed))
    return torch.cat([weight_2d(layer).flatten() == 0 for layer in model.targets().values()])


def test_every_pass_draws_anew_and_not_as_another_seed_does(tiny_source):
    twice = passes(tiny_source, 0, ratio=0.5, passes=2)
    first = passes(tiny_source, 0, ratio=0.5)
    assert torch.equal(twice, passes(tiny_source, 0, ratio=0.5, passes=2))
    assert torch.equal(twice & first, first)
    # Drawn once, a score would drop the same weights at half of the half as at three quarters.
    assert not torch.equal(twice, passes(tiny_source, 0, ratio=0.75))
    new, other = twice & ~first, passes(tiny_source, 1, ratio=0.5)
    share = float((new & other).sum() / new.sum())  # independent draws agree on half
    assert 0.45 < share < 0.55


def test_magnitude_does_not_matter(tiny_source):
    weight = torch.cat(
        [
            weight_2d(layer).flatten()
            for layer in tiny_source.load(torch.float32, torch.device("cpu")).targets().values()
        ]
    )
    kept = weight[pruned(tiny_source, 0) != 0]
    assert float(kept.abs().mean()) == pytest.approx(float(weight.abs().mean()), rel=0.03)


def test_golden_output_of_version_2():
    assert Random.version == 2
    weight = torch.arange(1.0, 9.0).view(2, 4)
    generator = torch.Generator().manual_seed(0)
    assert Random(ratio=0.5).compress_layer(weight, generator=generator).weight.tolist() == [[1, 2, 0, 0], [0, 6, 0, 8]]
