import pytest
import torch
from small_stacks import encoder_decoder, pairs

from slimsweep.blockwise.walk import PROPAGATIONS, Walk
from slimsweep.errors import LayerError, ModelError
from slimsweep.linear.base import weight_2d
from slimsweep.models.batches import text_batch


def ids():
    return torch.randint(1, 250, (3, 12), generator=torch.Generator().manual_seed(0))


def own_layers(model, index):
    return {f"{model.block_names[index]}.{name}": layer for name, layer in model.linears(model.blocks[index]).items()}


def collected(model, batch, propagation, stop=None):
    """Sums of squares of the inputs of each block's first layer, every weight halved on the way."""
    sums = []

    def treat(visit):
        layers = own_layers(model, visit.index)
        first = dict([next(iter(layers.items()))])
        if propagation == "sequential":
            for shared in visit.collect_in_turn(
                layers, lambda inputs: inputs.square().sum(), model.module.get_submodule
            ):
                if next(iter(first)) in shared.layers:
                    sums.append(float(shared.summed))
                for name in shared.layers:
                    weight_2d(layers[name]).mul_(0.5)
            return [visit.index]
        (shared,) = visit.collect(first, lambda inputs: inputs.square().sum())
        sums.append(float(shared.summed))
        for layer in layers.values():
            weight_2d(layer).mul_(0.5)
        return [visit.index]

    return sums, Walk(title="test", batch=batch, propagation=propagation, stop=stop).run(model, treat)


def sums_of_forward(model, batch):
    """The same of the model as it is."""
    sums = []
    handles = [
        next(iter(model.linears(block).values())).register_forward_pre_hook(
            lambda _, args: sums.append(float(args[0].square().sum()))
        )
        for block in model.blocks
    ]
    model.hidden_states(batch)
    for handle in handles:
        handle.remove()
    return sums


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_the_next_block_is_given_outputs_of_the_dense_or_the_treated_block(propagation, tiny):
    batch, dense = text_batch(ids()), tiny.copy()
    sums, visited = collected(tiny, batch, propagation)
    assert visited == [0, 1]
    expected = sums_of_forward(dense if propagation == "dense" else tiny, batch)
    assert sums == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_a_decoder_follows_the_encoder_as_it_is_by_then(propagation, tmp_path):
    model, dense = encoder_decoder("t5", tmp_path), encoder_decoder("t5", tmp_path)
    batch = {name: values for name, values in pairs([6] * 3, [4] * 3).items() if not name.endswith("mask")}
    sums, visited = collected(model, batch, propagation)
    assert visited == [0, 1, 2, 3, 4]
    expected = sums_of_forward(dense if propagation == "dense" else model, batch)
    assert sums == pytest.approx(expected, rel=1e-5)


def test_outputs_that_nobody_needs_are_not_computed(tiny, monkeypatch):
    forwards = []
    monkeypatch.setattr(tiny.blocks[1], "forward", lambda *_, **__: forwards.append(1))
    _, visited = collected(tiny, text_batch(ids()), "compressed", stop=1)
    assert visited == [0] and not forwards


def test_without_a_batch_no_forward_runs(tiny, monkeypatch):
    monkeypatch.setattr(tiny, "hidden_states", None)
    assert Walk(title="test").run(tiny, lambda visit: [visit.activations]) == [None, None]


def test_a_failure_names_its_block_and_one_that_names_its_layers_stays_as_it_is(tiny):
    def fail(visit):
        raise {0: ZeroDivisionError("half-way")}.get(visit.index - start, ModelError("of a layer"))

    start = 1
    with pytest.raises(ModelError, match="^of a layer$"):
        Walk(title="test").run(tiny, fail)
    start = 0
    with pytest.raises(LayerError, match=r"^model\.layers\.0: ZeroDivisionError: half-way"):
        Walk(title="test").run(tiny, fail)


def test_no_gradients_are_kept_and_the_mode_is_restored(tiny):
    modes = Walk(title="test").run(tiny, lambda _: [torch.is_grad_enabled()])
    assert modes == [False, False] and torch.is_grad_enabled()


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_a_lack_of_memory_stays_what_it_is_and_names_the_block(tiny, error):
    def treat(_visit):
        raise error("no room")

    with pytest.raises(error) as raised:
        Walk(title="test").run(tiny, treat)
    assert raised.value.__notes__ == [f"at {tiny.block_names[0]}"]
