import dataclasses

import pytest
import torch
from contexts import text_context
from family_shapes import random_model
from tiny_training import FAST, tiny_llama, training_context

import slimsweep
from slimsweep.linear.adapter import AdapterLinear, without_adapter
from slimsweep.linear.base import linear_forms, weight_count
from slimsweep.linear.mask import removed
from slimsweep.models.language_model import parameter_count
from slimsweep.models.storage import saved_model
from slimsweep.techniques.factorization.eora import EoRA
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.nf4 import NF4
from slimsweep.techniques.quantization.rtn import RTN
from slimsweep.techniques.training.lora import LoRA


@torch.no_grad()
def logits(model):
    return model.module(torch.arange(12)[None] % 32, use_cache=False).logits


def test_adapters_lower_the_loss_and_are_merged(tmp_path):
    model, dense = tiny_llama(tmp_path), tiny_llama(tmp_path)
    report = LoRA(**FAST, rank=2).apply(model, training_context(model))
    training = report.notes["training"]
    assert training["loss_best"] < training["loss_start"]
    assert not linear_forms(model.module)
    assert training["trained_parameters"] == sum(2 * sum(one.weight.shape) for one in model.targets().values())
    for name, layer in model.targets().items():
        change = layer.weight - dense.targets()[name].weight
        assert 0 < torch.linalg.matrix_rank(change, rtol=1e-4) <= 2
    assert torch.equal(model.module.lm_head.weight, dense.module.lm_head.weight)


def test_the_merge_gives_what_the_adapters_gave(tmp_path):
    kept, merged = tiny_llama(tmp_path), tiny_llama(tmp_path)
    LoRA(**FAST, rank=2, merge=False).apply(kept, training_context(kept))
    LoRA(**FAST, rank=2).apply(merged, training_context(merged))
    torch.testing.assert_close(logits(kept), logits(merged), atol=1e-4, rtol=1e-4)


def test_sparsity_is_exact_through_training_and_merge(tmp_path):
    model = tiny_llama(tmp_path)
    Magnitude(ratio=0.5).apply(model, training_context(model))
    masks = {name: removed(layer) for name, layer in model.targets().items()}
    report = LoRA(**FAST, rank=2).apply(model, training_context(model))
    assert report.notes["training"]["loss_best"] < report.notes["training"]["loss_start"]
    for name, layer in model.targets().items():
        assert torch.equal(layer.weight == 0, masks[name]) and torch.equal(removed(layer), masks[name])


def test_without_preserve_sparsity_the_zeros_are_filled_in(tmp_path):
    model = tiny_llama(tmp_path)
    Magnitude(ratio=0.5).apply(model, training_context(model))
    LoRA(**FAST, rank=2, preserve_sparsity=False).apply(model, training_context(model))
    layers = model.targets().values()
    assert all(int((layer.weight == 0).sum()) < 0.1 * layer.weight.numel() for layer in layers)


def test_a_packed_layer_is_packed_again_and_the_error_told(tmp_path, caplog):
    model = tiny_llama(tmp_path)
    RTN(bits=8, group_size=None).apply(model, training_context(model))
    # At a rate that keeps weights near the grids, which were fitted to them before.
    report = LoRA(**FAST | {"learning_rate": 1e-3}, rank=2).apply(model, training_context(model))
    assert {form.kind for form in linear_forms(model.module).values()} == {"integer"}
    assert 0 < report.notes["packing_error"]["largest"] < 0.05
    assert "changes smaller than half a level are lost. merge=false keeps them" in caplog.text
    assert report.notes["training"]["loss_best"] < report.notes["training"]["loss_start"]


@pytest.mark.parametrize("first", [None, NF4()])
def test_kept_adapters_are_counted_saved_and_read_back(tmp_path, first):
    model = tiny_llama(tmp_path)
    if first:
        first.apply(model, training_context(model))
    before = parameter_count(model.module)
    LoRA(**FAST, rank=2, merge=False).apply(model, training_context(model))
    adapters = linear_forms(model.module)
    assert all(isinstance(one, AdapterLinear) for one in adapters.values())
    extra = sum(2 * (one.in_features + one.out_features) for one in adapters.values())
    assert parameter_count(model.module) == before + extra
    one = next(iter(adapters.values()))
    assert weight_count(one) == one.in_features * one.out_features + 2 * (one.in_features + one.out_features)
    saved_model.save(model, tmp_path / "saved")
    again = slimsweep.load(tmp_path / "saved")
    with torch.no_grad():
        read = again(torch.arange(12)[None] % 32, use_cache=False).logits
    assert torch.equal(read, logits(model))


def test_plans_have_the_shapes_of_the_result(tmp_path):
    model = tiny_llama(tmp_path)
    skeleton = random_model("llama", str(tmp_path)).skeleton().copy()
    technique = LoRA(**FAST, rank=3, merge=False)
    technique.plan(skeleton)
    technique.apply(model, training_context(model))
    assert parameter_count(skeleton.module) == parameter_count(model.module)


def test_kept_adapters_beside_pruned_weights_are_refused(tmp_path):
    skeleton = random_model("llama", str(tmp_path)).skeleton().copy()
    Magnitude(ratio=0.5).plan(skeleton)
    assert "set merge=true, or preserve_sparsity=false" in LoRA(merge=False).faults(skeleton)[0]
    assert LoRA().faults(skeleton) == [] and LoRA(merge=False, preserve_sparsity=False).faults(skeleton) == []


def test_a_rank_beyond_the_widths_is_refused(tmp_path):
    skeleton = random_model("llama", str(tmp_path)).skeleton()
    assert "rank=500 is more than the smaller width" in LoRA(rank=500).faults(skeleton)[0]


@pytest.mark.parametrize("fields", [{"rank": None}, {"rank": 0}, {"tokens": None}, {"epochs": 2}, {"decay": "step"}])
def test_bad_values_are_refused(fields):
    with pytest.raises(ValueError):
        LoRA(**fields)


def with_eora(folder, family="llama"):
    """A pruned model with the adapters that eora leaves, beside what it was before."""
    model, dense = tiny_llama(folder, family), tiny_llama(folder, family)
    context = training_context(model)
    Magnitude(ratio=0.5).apply(model, context)
    ids = torch.randint(0, 32, (4, 24), generator=torch.Generator().manual_seed(0))
    EoRA(rank=2).apply(model, dataclasses.replace(text_context(ids), teacher=lambda: dense))
    return model


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_training_goes_on_with_the_adapters_of_eora(tmp_path, family):
    model = with_eora(tmp_path, family)
    before = logits(model)
    still = FAST | {"learning_rate": 1e-12}
    LoRA(**still, rank=2, merge=False, preserve_sparsity=False).apply(model, training_context(model))
    torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-4)
    LoRA(**still, rank=2, preserve_sparsity=False).apply(model, training_context(model))
    assert not linear_forms(model.module)
    torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-4)
    saved_model.save(model, tmp_path / "saved")
    again = slimsweep.load(tmp_path / "saved")
    torch.testing.assert_close(again(torch.arange(12)[None] % 32).logits, before, atol=1e-4, rtol=1e-4)


def test_the_adapters_of_eora_are_trained_and_merged_into_the_zeros_only_where_asked(tmp_path):
    model = with_eora(tmp_path)
    masks = {name: removed(without_adapter(layer)) for name, layer in model.targets().items()}
    report = LoRA(**FAST, rank=2).apply(model, training_context(model))
    assert report.notes["training"]["loss_best"] < report.notes["training"]["loss_start"]
    for name, layer in model.targets().items():
        assert torch.equal(layer.weight == 0, masks[name])


def test_another_rank_than_that_of_standing_adapters_is_refused(tmp_path):
    skeleton = random_model("llama", str(tmp_path)).skeleton().copy()
    Magnitude(ratio=0.5).plan(skeleton)
    EoRA(rank=4).plan(skeleton)
    assert "whose rank is 4: set rank to that" in LoRA(rank=2).faults(skeleton)[0]
    technique = LoRA(rank=4)
    assert technique.faults(skeleton) == []
    technique.plan(skeleton)
    assert not linear_forms(skeleton.module)
    assert any(skeleton.zeros.values())
