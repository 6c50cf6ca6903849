import copy

import pytest
import torch
from family_shapes import DECODERS
from reductions import loud

from slimsweep.blockwise.layerwise import replace_weight
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.evaluation.memory import load_memory_bytes
from slimsweep.evaluation.size import Size
from slimsweep.linear.base import LinearForm, PackedLinear, install, kinds, packed_layers, relative_error, weight_2d
from slimsweep.linear.uniform import IntegerLinear
from slimsweep.models.batches import text_batch
from slimsweep.models.language_model import parameter_count, weights_digest
from slimsweep.records.record import FIELDS
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.rtn import RTN

NAME = "model.layers.1.mlp.up_proj"
TARGETED = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32)  # weights in the tiny model's blocks


def packed_of(weight: torch.Tensor, bits: int = 4) -> IntegerLinear:
    return RTN(bits=bits, group_size=None).compress_layer(weight)


def test_every_kind_has_a_word_of_its_own_and_says_what_it_stores():
    assert kinds()["integer"] is IntegerLinear
    for kind, form in kinds().items():
        assert form.kind == kind and issubclass(form, LinearForm)


def test_a_packed_layer_takes_over_place_bias_and_dtype(tmp_path):
    model = loud("qwen2", str(tmp_path), torch.bfloat16)  # has biases
    name = "model.layers.0.self_attn.q_proj"
    bias = model.targets()[name].bias
    install(model.module, name, packed_of(weight_2d(model.targets()[name]).float()))
    layer = model.targets()[name]
    assert isinstance(layer, PackedLinear) and layer.bias is bias and layer.dtype == torch.bfloat16
    inputs = torch.randn(3, 32, dtype=torch.bfloat16)
    assert torch.equal(layer(inputs), torch.nn.functional.linear(inputs, layer.weight, bias))


def test_a_conv1d_is_packed_as_out_by_in(tmp_path):
    model = loud("gpt2", str(tmp_path))
    name = "transformer.h.0.mlp.c_fc"
    before = model.targets()[name]
    inputs = torch.randn(2, 5, 32)
    expected = before(inputs)
    install(model.module, name, packed_of(weight_2d(before), bits=8))
    assert model.targets()[name](inputs).shape == expected.shape
    assert relative_error(model.targets()[name](inputs)[0], expected[0]) < 0.02


def test_counts_are_of_the_weights_and_bytes_of_what_is_stored(tiny):
    parameters, bytes_before = parameter_count(tiny.module), Size().measure(tiny, None).values["weight_bytes"]
    RTN(bits=4, group_size=None).apply(tiny, StageContext())
    values = Size().measure(tiny, None).values
    assert parameter_count(tiny.module) == values["parameters"] == parameters
    # A row of n weights: n / 8 words of 4 bytes, a scale of 2; a zero-point of half a byte; 16 bytes of shape a layer.
    rows = 2 * (32 + 16 + 16 + 32 + 48 + 48 + 32)
    stored = TARGETED // 2 + 2 * rows + rows // 2 + 14 * 16
    assert values["weight_bytes"] == bytes_before - 4 * TARGETED + stored
    assert values["bits_per_weight"] == pytest.approx(8 * stored / TARGETED)
    assert load_memory_bytes(tiny.module) >= values["weight_bytes"]


def test_a_dense_model_stores_its_dtype(tiny):
    assert Size().measure(tiny, None).values["bits_per_weight"] == 32
    assert "bits_per_weight" in FIELDS


def test_zeros_of_packed_layers_count_in_sparsity_and_in_the_bitmap(tiny):
    Magnitude(ratio=0.5).apply(tiny, StageContext())
    RTN(bits=8, grid="symmetric", group_size=None).apply(tiny, StageContext())
    values = Size().measure(tiny, None).values
    zeros = sum(int((layer.weight == 0).sum()) for layer in packed_layers(tiny.module).values())
    assert values["sparsity"] == zeros / TARGETED >= 0.5
    assert values["nonzero_parameters"] == values["parameters"] - zeros - int(
        sum((part == 0).sum() for name, part in tiny.module.named_parameters() if "layers" not in name)
    )
    assert values["bitmap_bytes"] == values["weight_bytes"] - (zeros - TARGETED // 8)  # a byte each, less a bit each


def test_shapes_alone_give_the_bytes_of_real_weights(tiny, tiny_source):
    from dataclasses import replace

    technique = RTN(bits=3, group_size=16)
    technique.apply(tiny, StageContext())
    meta = replace(tiny_source, weights="meta").load(torch.float32, torch.device("cpu"))
    report = technique.plan(meta)
    planned, real = (Size().measure(model, None).values for model in (meta, tiny))
    same = ("parameters", "weight_bytes", "bits_per_weight", "checkpoint_bytes", "compression_factor")
    assert {name: planned[name] for name in same} == {name: real[name] for name in same}
    assert report.notes["bits_per_weight"] == real["bits_per_weight"]


def test_a_changed_weight_is_packed_again_on_its_own_levels(tiny):
    RTN(bits=8, grid="symmetric", group_size=None).apply(tiny, StageContext())
    before = tiny.targets()[NAME].weight.clone()
    wanted = before.masked_fill(before.abs() < before.abs().median(), 0)
    report = replace_weight(tiny, NAME, wanted)
    assert torch.equal(tiny.targets()[NAME].weight, wanted)
    assert report.error == 0
    assert report.zeros == int((wanted == 0).sum())
    moved = replace_weight(tiny, NAME, wanted + 0.3 * before.abs().max() / 127 * (wanted != 0))
    assert 0 < moved.error < 0.01


def test_pruning_packed_weights_records_what_packing_again_cost(tiny):
    RTN(bits=4, group_size=None).apply(tiny, StageContext())
    report = Magnitude(ratio=0.5, scope="global").apply(tiny, StageContext())
    assert all(isinstance(layer, PackedLinear) for layer in tiny.targets().values())
    assert [layer.error for layer in report.layers] == [0] * 14
    assert sum(layer.zeros for layer in report.layers) >= TARGETED // 2


def test_a_copy_shares_nothing_and_a_digest_sees_every_code(tiny):
    RTN(bits=4, group_size=None).apply(tiny, StageContext())
    other = tiny.copy()
    assert weights_digest(other) == weights_digest(tiny)
    other.targets()[NAME].weight_packed.data[0, 0] ^= 1
    assert weights_digest(other) != weights_digest(tiny)
    assert not torch.equal(other.targets()[NAME].weight, tiny.targets()[NAME].weight)
    assert torch.equal(copy.deepcopy(tiny.targets()[NAME]).weight, tiny.targets()[NAME].weight)


def test_families_keep_their_forward_through_packed_layers(tmp_path):
    for name in DECODERS:
        model = loud(name, str(tmp_path))
        RTN(bits=8, group_size=16).apply(model, StageContext())
        ids = torch.arange(3, 20)[None]
        found = model.logits(model.hidden_states(text_batch(ids)))
        for full, layer in packed_layers(model.module).items():  # the same weights, dense
            dense = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            dense.weight.data, dense.bias = layer.weight, layer.bias
            holder, _, last = full.rpartition(".")
            setattr(model.module.get_submodule(holder), last, dense)
        assert torch.equal(found, model.logits(model.hidden_states(text_batch(ids)))), name


def test_an_error_that_is_not_a_number_is_not_none():
    wanted = torch.ones(2, 2)
    assert relative_error(torch.zeros(2, 2), torch.zeros(2, 2)) == 0
    wanted[0, 0] = torch.nan
    assert relative_error(torch.ones(2, 2), wanted) != relative_error(torch.ones(2, 2), wanted)  # NaN
