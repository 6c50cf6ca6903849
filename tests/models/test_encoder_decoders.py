"""Encoder-decoders: stacks, heads of cross-attention, biases by position, removal, saving."""

import pytest
import torch
from family_shapes import ENCODER_DECODERS
from reductions import loud

from slimsweep.models import anatomy, surgery
from slimsweep.models.scale_folding import fold, survey
from slimsweep.models.storage import saved_model


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(3, 250, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=ENCODER_DECODERS)
def model(request, tmp_path):
    return loud(request.param, str(tmp_path))


@torch.no_grad()
def logits(module) -> torch.Tensor:
    return module(input_ids=drawn(0, 2, 9), decoder_input_ids=drawn(1, 2, 6), use_cache=False).logits


def thinned(model, part) -> None:
    """Take some heads and neurons out of every block, others in each: by `surgery.mask` or by removal."""
    for index in range(len(model.blocks)):
        for kind in anatomy.head_kinds(model, index):
            units = anatomy.units_of(model, kind, index)
            part(units, [(index + len(kind)) % len(units)])
        part(anatomy.neurons(model, index), [index, index + 7])


def test_blocks_are_the_encoders_and_then_the_decoders(model):
    config = model.config
    encoder = getattr(config, "encoder_layers", None) or config.num_layers
    assert [len(stack) for stack in model.stack_ranges] == [encoder, len(model.blocks) - encoder]
    assert all("encoder." in name for name in model.block_names[:encoder])
    assert all("decoder." in name for name in model.block_names[encoder:])
    kinds = [anatomy.head_kinds(model, index) for index in range(len(model.blocks))]
    assert kinds == [("heads",)] * encoder + [("heads", "cross_heads")] * (len(model.blocks) - encoder)


def test_every_linear_layer_of_a_block_belongs_to_heads_or_neurons(model):
    slots = set()
    for index in range(len(model.blocks)):
        kinds = (*anatomy.head_kinds(model, index), "neurons")
        slots |= {slot.name for kind in kinds for slot in anatomy.units_of(model, kind, index).slots}
    assert slots == set(model.targets())


def test_logits_of_hidden_states_are_the_modules(model):
    batch = {"input_ids": drawn(0, 2, 9), "decoder_input_ids": drawn(1, 2, 6)}
    assert torch.equal(model.logits(model.hidden_states(batch)), logits(model.module))


def test_masked_and_removed_give_the_same_logits(model):
    masked, removed, dense = model.copy(), model.copy(), logits(model.module)
    thinned(masked, surgery.mask)
    thinned(removed, lambda units, gone: surgery.remove(removed, units, gone))
    assert not torch.allclose(logits(masked.module), dense, atol=1e-3)
    assert torch.allclose(logits(removed.module), logits(masked.module), atol=1e-5)


def test_heads_are_removed_twice_as_at_once(model):
    twice, masked = model.copy(), model.copy()
    surgery.remove(twice, anatomy.heads(twice, 0), [0])
    surgery.remove(twice, anatomy.heads(twice, 0), [1])  # of the dense model's heads 0 and 2 are gone
    surgery.mask(anatomy.heads(masked, 0), [0, 2])
    assert torch.allclose(logits(twice.module), logits(masked.module), atol=1e-5)


def test_generation_with_a_cache_is_generation_without(model):
    thinned(model, lambda units, gone: surgery.remove(model, units, gone))
    settings = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    cached, plain = (model.module.generate(drawn(0, 2, 9), use_cache=cache, **settings) for cache in (True, False))
    assert torch.equal(cached, plain)


def test_a_thinned_model_is_saved_and_read_back(model, tmp_path):
    thinned(model, lambda units, gone: surgery.remove(model, units, gone))
    assert not saved_model.save(model, tmp_path / "saved")  # plain from_pretrained cannot build it
    read = saved_model.load(tmp_path / "saved")
    assert torch.equal(logits(read), logits(model.module))
    counts = [sum(parameter.numel() for parameter in module.parameters()) for module in (read, model.module)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("gone", [0, -1])
def test_blocks_go_from_one_stack_and_plain_transformers_reads_the_rest(model, gone, tmp_path):
    from transformers import AutoModelForSeq2SeqLM

    first, last = model.stack_ranges
    surgery.remove_blocks(model, [(first if gone == 0 else last)[gone]])
    assert [len(stack) for stack in model.stack_ranges] == [len(first) - (gone == 0), len(last) - (gone == -1)]
    expected = logits(model.module)
    assert saved_model.save(model, tmp_path / "saved")
    read = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(logits(read), expected)


def test_the_first_block_that_stays_takes_the_position_biases_over(tmp_path):
    model = loud("t5", str(tmp_path))
    table = model.blocks[0].layer[0].SelfAttention.relative_attention_bias.weight.clone()
    surgery.remove_blocks(model, [0])
    attention = model.blocks[0].layer[0].SelfAttention
    assert attention.has_relative_attention_bias
    assert torch.equal(attention.relative_attention_bias.weight, table)


def test_scales_of_every_place_leave_the_function(model):
    before, generator = logits(model.module), torch.Generator().manual_seed(2)
    places = survey(model).places
    assert len({place.block for place in places}) == len(model.blocks)
    for place in places:
        scale = 0.5 + torch.rand(len(place.makes), generator=generator)
        fold(model, place, scale, {})
    assert torch.allclose(logits(model.module), before, atol=1e-3 * float(before.abs().max()))
