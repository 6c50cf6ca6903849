import math

import pytest
import torch

from slimsweep.blockwise import gradients as gradients_module
from slimsweep.blockwise.gradients import gradients
from slimsweep.models.batches import text_batch


def ids(sequences: int = 3, tokens: int = 10) -> torch.Tensor:
    return torch.randint(1, 250, (sequences, tokens), generator=torch.Generator().manual_seed(0))


def test_the_loss_of_a_decoder_is_that_of_the_next_tokens(tiny):
    with torch.no_grad():
        probabilities = tiny.module(input_ids=ids()).logits.softmax(dim=-1)
    picked = [
        math.log(probabilities[row, place, ids()[row, place + 1]])
        for row in range(3)
        for place in range(ids().shape[1] - 1)
    ]
    assert float(gradients_module.loss(tiny, text_batch(ids()))) == pytest.approx(-sum(picked) / len(picked), rel=1e-5)


def test_a_failure_leaves_no_gradients_behind(tiny):
    parameter = tiny.blocks[0].mlp.up_proj.weight
    with pytest.raises(RuntimeError, match="half-way"), gradients([parameter], lambda _: None):
        assert parameter.requires_grad
        raise RuntimeError("half-way")
    assert not parameter.requires_grad and parameter.grad is None and not parameter._post_accumulate_grad_hooks
