import dataclasses
import hashlib

import pytest
import torch

from slimsweep.blockwise.stage_context import StageContext


def draw(seed: int, name: str) -> list[float]:
    return torch.rand(4, generator=StageContext(seed=seed).generator(name)).tolist()


def test_a_name_draws_from_the_digest_of_seed_and_name():
    state = int.from_bytes(hashlib.sha256(b"3 model.layers.0.mlp.up_proj").digest()[:7], "big")
    expected = torch.rand(4, generator=torch.Generator().manual_seed(state)).tolist()
    assert draw(3, "model.layers.0.mlp.up_proj") == expected


def test_names_and_seeds_draw_apart_and_each_the_same_again():
    assert len({tuple(draw(seed, name)) for seed in (0, 1) for name in ("a", "b")}) == 4
    assert draw(1, "a") == draw(1, "a")


def test_a_stage_cannot_change_what_it_is_given():
    with pytest.raises(dataclasses.FrozenInstanceError):
        StageContext().seed = 1
