from dataclasses import replace

import pytest
import torch
from conftest import meta_model
from family_shapes import DECODERS, ENCODER_DECODERS, ENCODERS, random_model
from llm_pruner_counting import gmacs_llm_pruner

from slimsweep.evaluation.cost import Cost, Lengths, attention_macs, linear_macs
from slimsweep.linear.base import weight_2d

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "tokens", "gmacs"),
    [
        ("llama_2_7b", 64, 423.93),
        ("smollm2_135m", 64, 8.748),
        ("smollm2_135m", 128, 17.780),
        ("smollm2_135m", 2048, 420.37),
        ("bert_base", 64, 5.511),
        ("bert_base", 128, 11.174),
        ("distilbert", 64, 2.756),
        ("distilbert", 128, 5.587),
    ],
)
def test_published_shapes_cost_what_is_known(name, tokens, gmacs):
    measured = Cost(tokens=tokens).measure(meta_model(name), None).values["gmacs"]
    assert measured == pytest.approx(gmacs, abs=1e-3 if gmacs < 400 else 5e-3)


def test_llama_2_7b_by_llm_pruners_counting():
    assert gmacs_llm_pruner(meta_model("llama_2_7b")) == pytest.approx(425.12, abs=0.01)


def test_fewer_heads_and_neurons_in_some_blocks_are_counted_as_they_are():
    """Blocks 4..29 of Llama-2-7B without a quarter of heads and neurons, as LLM-Pruner's tables have it."""
    model = meta_model("llama_2_7b")
    for block in model.blocks[4:30]:
        for layer in (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj):
            layer.out_features = 3072
        for layer in (block.mlp.gate_proj, block.mlp.up_proj):
            layer.out_features = 8256
        block.self_attn.o_proj.in_features = 3072
        block.mlp.down_proj.in_features = 8256
    assert Cost().measure(model, None).values["gmacs"] == pytest.approx(339.52, abs=5e-3)
    assert gmacs_llm_pruner(model) == pytest.approx(340.48, abs=0.01)


def test_count_by_hand(tiny):
    # a block: q, o 32 x 32; k, v 16 x 32; gate, up, down 48 x 32; the head 258 x 32; 10 tokens
    block = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32
    assert linear_macs(tiny, Lengths(10, 10)) == 10 * (2 * block + 258 * 32)
    assert attention_macs(tiny, Lengths(10, 10)) == 2 * (2 * 10 * 10 * 32)  # QK and AV of two blocks, 4 heads of 8


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_closed_form_equals_torchs_flop_counter(name, tmp_path):
    from torch.utils.flop_counter import FlopCounterMode

    model = random_model(name, str(tmp_path)).load(torch.float32, CPU)
    model.module.set_attn_implementation("eager")  # the counter misses fused attention on a CPU
    model.config._attn_implementation = "eager"  # Falcon lets nobody set it by the line above
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.module(input_ids=torch.full((1, 64), 5))
    rotary = sum(  # positions times frequencies, a product the closed form leaves out, once for each table
        64 * buffer.numel()
        for path, buffer in model.module.named_buffers()
        if path.endswith("inv_freq") and "original" not in path
    )
    counted = counter.get_total_flops() / 2 - rotary
    lengths = Lengths(64, 64)
    assert linear_macs(model, lengths) + attention_macs(model, lengths) == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize("name", ENCODER_DECODERS)
@pytest.mark.parametrize("lengths", [Lengths(7, 5), Lengths(16, 33)])
def test_macs_of_an_encoder_decoder_equal_torchs_flop_counter(name, lengths, tmp_path):
    from torch.utils.flop_counter import FlopCounterMode

    model = random_model(name, str(tmp_path)).load(torch.float32, CPU)
    for config in {id(part.config): part.config for part in model.module.modules() if hasattr(part, "config")}.values():
        config._attn_implementation = "eager"  # each stack of T5 has a config of its own
    source, target = torch.full((1, lengths.source), 5), torch.full((1, lengths.target), 5)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.module(input_ids=source, decoder_input_ids=target, use_cache=False)
    counted = counter.get_total_flops() / 2
    assert linear_macs(model, lengths) + attention_macs(model, lengths) == pytest.approx(counted, rel=1e-3)


def test_lengths_of_an_encoder_decoder_are_told(tmp_path):
    model = random_model("bart", str(tmp_path)).load(torch.float32, CPU)
    measured = Cost(tokens=16, target_tokens=8).measure(model, None)
    assert measured.protocols["gmacs"].startswith("one source of 16 tokens and one target of 8:")
    assert measured.values["gmacs"] < Cost(tokens=16).measure(model, None).values["gmacs"]


def test_zero_weights_are_left_out_of_gmacs_nonzero_only(tiny):
    weight_2d(tiny.blocks[0].mlp.up_proj)[:3] = 0  # 3 x 32 weights
    values = Cost(tokens=10).measure(tiny, None).values
    assert round((values["gmacs"] - values["gmacs_nonzero"]) * 1e9) == 3 * 32 * 10
    dense = Cost(tokens=10).measure(tiny.copy(), None).values["gmacs"]
    assert values["gmacs"] == dense


def test_planned_zeros_count_on_the_meta_device(tiny_source):
    model = replace(tiny_source, weights="meta").load(torch.float32, CPU)
    model.zeros = {"model.layers.0.mlp.up_proj": 100, "model.layers.1.self_attn.q_proj": 20}
    values = Cost(tokens=10).measure(model, None).values
    assert round((values["gmacs"] - values["gmacs_nonzero"]) * 1e9) == 120 * 10


def test_a_zero_in_an_encoders_classifier_saves_one_token_only(tmp_path):
    model = random_model("distilbert", str(tmp_path)).load(torch.float32, CPU)
    weight_2d(model.module.classifier)[0] = 0
    values = Cost(tokens=10).measure(model, None).values
    assert round((values["gmacs"] - values["gmacs_nonzero"]) * 1e9) == 32


def test_fields_are_those_measured(tiny):
    measurement = Cost().measure(tiny, None)
    assert list(measurement.values) == [one.field for one in Cost().quantities()] == list(measurement.protocols)


def test_no_token_is_refused():
    with pytest.raises(ValueError, match="evaluation.cost_tokens=0: give a whole number of at least 1"):
        Cost(tokens=0)


def test_the_label_of_an_axis_names_the_tokens_that_were_counted():
    assert [one.label for one in Cost(tokens=8).quantities()] == [
        "GMacs of 8 tokens",
        "GMacs without zero weights of 8 tokens",
    ]
