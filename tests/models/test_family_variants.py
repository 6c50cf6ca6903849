"""Shapes of a family that differ from its first: other orders of qkv, norms for each head, parallel blocks, ALiBi."""

import pytest
import torch
from family_shapes import DECODERS
from reductions import logits, loud, token_ids, uneven

import slimsweep
from slimsweep.models import anatomy, surgery
from slimsweep.models.batches import text_batch
from slimsweep.models.scale_folding import fold, survey
from slimsweep.models.sources.random import RandomModel
from slimsweep.models.storage import saved_model
from slimsweep.techniques.structured.heads import Heads

OLD_FALCON = {"new_decoder_architecture": False, "num_kv_heads": None, "bias": True}
VARIANTS = {
    "falcon-7b": ("falcon", OLD_FALCON | {"multi_query": True, "parallel_attn": True}),
    "falcon, a key for each head": ("falcon", OLD_FALCON | {"multi_query": False, "parallel_attn": False}),
    "falcon-rw": ("falcon", OLD_FALCON | {"multi_query": False, "parallel_attn": False, "alibi": True}),
    "falcon-11b": ("falcon", {"num_ln_in_parallel_attn": 1}),
    "stablelm-2-12b": ("stablelm", {"qk_layernorm": True, "use_parallel_residual": True}),
    "phi with norms of queries": ("phi", {"qk_layernorm": True}),
    "bloom, 3 heads": ("bloom", {"n_head": 3, "hidden_size": 24}),
}


@pytest.fixture(params=VARIANTS)
def model(request, tmp_path):
    family, shape = VARIANTS[request.param]
    return loud(family, str(tmp_path), **shape)


def can_lose_heads(model):
    return not model.has_alibi and len(anatomy.heads(model, 0)) > 1


def test_logits_of_hidden_states_are_the_modules_logits(model):
    assert torch.equal(model.logits(model.hidden_states(text_batch(token_ids()))), logits(model))


def test_removed_units_equal_masked_ones(model):
    masked = model.copy()
    for index in (0, 1):
        for kind in ("heads", "neurons") if can_lose_heads(model) else ("neurons",):
            surgery.mask(getattr(anatomy, kind)(masked, index), [index])
            surgery.remove(model, getattr(anatomy, kind)(model, index), [index])
    assert (logits(masked) - logits(model)).abs().max() < 1e-5 * logits(model).abs().max().clamp(min=1)


def test_uneven_widths_reload_with_their_manifest(model, tmp_path):
    if can_lose_heads(model):
        uneven(model)
    else:
        surgery.remove(model, anatomy.neurons(model, 1), [0, 7])
    assert not saved_model.save(model, tmp_path / "saved")
    assert torch.equal(logits(slimsweep.load(tmp_path / "saved")), logits(model))


def test_folded_scales_leave_the_model_what_it_was(model):
    before, surveyed = logits(model), survey(model)
    readers = [name for place in surveyed.places for name in place.balance_layers]
    assert sorted([*readers, *surveyed.reasons]) == sorted(model.targets())
    for place in surveyed.places:
        fold(model, place, torch.linspace(0.5, 2, len(place.makes)), {})
    assert (logits(model) - before).abs().max() < 1e-4 * before.abs().max()


@pytest.mark.parametrize("alibi", [True, False])
def test_a_falcon_keeps_its_heads_with_alibi_only(alibi, tmp_path):
    shape = DECODERS["falcon"] | OLD_FALCON | {"multi_query": False, "alibi": alibi}
    skeleton = RandomModel(name="falcon", shape=shape, cache_dir=str(tmp_path)).skeleton()
    faults = Heads(ratio=0.5).faults(skeleton)
    assert [fault.startswith("heads cannot be removed") for fault in faults] == [True] * alibi


def test_norms_of_heads_go_with_their_heads(tmp_path):
    model = loud("stablelm", str(tmp_path), qk_layernorm=True)
    attention = model.blocks[1].self_attn
    queries, keys = list(attention.q_layernorm.norms), list(attention.k_layernorm.norms)
    surgery.remove(model, anatomy.heads(model, 1), [0])
    assert list(attention.q_layernorm.norms) == queries[2:]
    assert list(attention.k_layernorm.norms) == keys[1:]


def test_a_norm_over_all_heads_is_cut_with_them(tmp_path):
    model = loud("olmo2", str(tmp_path))
    attention = model.blocks[0].self_attn
    queries, keys = attention.q_norm.weight.clone(), attention.k_norm.weight.clone()
    surgery.remove(model, anatomy.heads(model, 0), [0])
    assert torch.equal(attention.q_norm.weight, queries[16:])
    assert torch.equal(attention.k_norm.weight, keys[8:])


def test_blocks_without_rotary_positions_stay_without(tmp_path):
    model = loud("smollm3", str(tmp_path), num_hidden_layers=3, no_rope_layers=[1, 1, 0])
    surgery.remove_blocks(model, [0])
    assert model.config.no_rope_layers == [1, 0]
    assert [block.self_attn.use_rope for block in model.blocks] == [1, 0]


def test_a_granite_divides_its_logits(tmp_path):
    model = loud("granite", str(tmp_path))
    hidden = model.hidden_states(text_batch(token_ids()))
    assert torch.equal(model.logits(hidden), hidden @ model.module.lm_head.weight.T / 5)


EXPERTS = ["mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "olmoe", "phimoe", "deepseek_v2", "deepseek_v3"]


@pytest.mark.parametrize("model_type", [*EXPERTS, "gpt_oss", "llama4", "llama4_text"])
def test_models_with_experts_are_refused_in_one_sentence(model_type, tmp_path):
    (fault,) = RandomModel(name="experts", shape={"model_type": model_type}, cache_dir=str(tmp_path)).faults()
    assert fault.startswith(f"Model type '{model_type}' has experts, which slimsweep does not support yet")
