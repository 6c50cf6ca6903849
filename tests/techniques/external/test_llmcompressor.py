import pytest
import torch
from contexts import text_context

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.base import weight_2d
from slimsweep.linear.mask import BITS, removed
from slimsweep.techniques.external.llmcompressor import LLMCompressor
from slimsweep.techniques.pruning.sparsegpt import SparseGPT
from slimsweep.techniques.pruning.wanda import Wanda


def token_ids(model, text: str | None = None, sequences: int = 8, tokens: int = 128):
    if text is None:
        return torch.randint(258, (sequences, tokens), generator=torch.Generator().manual_seed(0))
    ids = model.tokenizer(text)["input_ids"][: sequences * tokens]
    return torch.tensor(ids).view(sequences, tokens)


@pytest.mark.parametrize(
    ("knobs", "ours"),
    [
        ({"method": "wanda", "ratio": 0.5}, Wanda(ratio=0.5)),
        ({"method": "sparsegpt", "ratio": 0.3}, SparseGPT(ratio=0.3)),
        ({"method": "sparsegpt", "ratio": 0.5, "pattern": "2:4"}, SparseGPT(ratio=0.5, pattern="2:4")),
        ({"method": "sparsegpt", "ratio": 0.5, "pattern": "1:4"}, SparseGPT(ratio=0.5, pattern="1:4")),
        ({"method": "wanda", "ratio": 0.5, "pattern": "3:4"}, Wanda(ratio=0.5, pattern="3:4")),
    ],
)
def test_it_leaves_as_many_zeros_as_planned_and_nothing_else_changes(tiny, knobs, ours):
    before = {name: tensor.clone() for name, tensor in tiny.module.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in tiny.module.named_modules()}
    report = LLMCompressor(**knobs).apply(tiny, text_context(token_ids(tiny)))
    shapes = {name: tuple(weight_2d(layer).shape) for name, layer in tiny.targets().items()}
    planned = LLMCompressor(**knobs).planned_zeros(shapes, {})
    more = 1 if ours.pattern == "unstructured" and isinstance(ours, SparseGPT) else 0  # all inputs are one block here
    assert planned == {name: count + more for name, count in ours.planned_zeros(shapes, {}).items()}
    assert {layer.name: layer.zeros for layer in report.layers} == planned
    assert {name: int((weight_2d(layer) == 0).sum()) for name, layer in tiny.targets().items()} == planned
    assert {name: set(vars(module)) - {BITS} for name, module in tiny.module.named_modules()} == attributes
    assert all(torch.equal(removed(layer), weight_2d(layer) == 0) for layer in tiny.targets().values())
    assert all(type(module._parameters) is dict for module in tiny.module.modules()), "no container that offloads"
    assert list(tiny.module.state_dict()) == list(before)
    untouched = [name for name in before if name.removesuffix(".weight") not in planned]
    assert all(torch.equal(before[name], tiny.module.state_dict()[name]) for name in untouched)
    assert report.notes["llmcompressor"].startswith("0.14")


def test_only_the_chosen_layers_are_pruned(tiny):
    LLMCompressor(ratio=0.5, include=["*.mlp.*"]).apply(tiny, text_context(token_ids(tiny)))
    for name, layer in tiny.targets().items():
        assert bool((layer.weight == 0).any()) == (".mlp." in name)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_it_agrees_with_ours_on_a_trained_model(method, shared, stories260k, stories260k_source):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:20_000]
    ids = token_ids(stories260k, text)
    ours = {"wanda": Wanda, "sparsegpt": SparseGPT}[method](ratio=0.5)
    other = stories260k_source.load(torch.float32, torch.device("cpu"))
    ours.apply(stories260k, text_context(ids))
    LLMCompressor(ratio=0.5, method=method).apply(other, text_context(ids))
    same = [((weight_2d(a) == 0) == (weight_2d(b) == 0)).float().mean() for a, b in layers(stories260k, other)]
    # One mask that falls the other way changes the inputs of all later blocks; the first block sees equal ones.
    assert min(same[:7]) > 0.99
    assert min(same) > 0.9


def layers(one, other):
    return zip(one.targets().values(), other.targets().values(), strict=True)


@pytest.mark.parametrize(
    ("knobs", "word"),
    [
        ({"method": "magnitude"}, "method='magnitude'"),
        ({"batch_size": 0}, "batch_size=0: give a whole number"),
        ({"relative_to": "remaining"}, "relative_to='remaining'"),
        ({"inputs": "dense"}, "inputs='dense'"),
        ({"method": "wanda", "block_columns": 64}, "block_columns=64"),
    ],
)
def test_what_it_cannot_do_is_refused(knobs, word):
    with pytest.raises(ValueError, match=word):
        LLMCompressor(ratio=0.5, **knobs)


def test_packed_weights_and_a_missing_package_are_faults(tiny, monkeypatch):
    from slimsweep.techniques.quantization.rtn import RTN

    assert LLMCompressor(ratio=0.5).faults(tiny) == []
    RTN(bits=4, group_size=None).apply(tiny, StageContext())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    missing, packed = LLMCompressor(ratio=0.5).faults(tiny)
    assert "[peers]" in missing
    assert "before the quantizer" in packed
