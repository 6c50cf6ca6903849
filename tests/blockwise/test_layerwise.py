import pytest
import torch
from contexts import text_context
from restatements import layer_inputs, perplexity, wanda_layer

from slimsweep.blockwise.activations import InputSum
from slimsweep.blockwise.layerwise import _by_size
from slimsweep.blockwise.shared_inputs import Prepared
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.errors import HessianError, ModelError
from slimsweep.linear.base import weight_2d
from slimsweep.models.language_model import LanguageModel
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.pruning.random import Random
from slimsweep.techniques.pruning.sparsegpt import SparseGPT
from slimsweep.techniques.pruning.wanda import Wanda


def ids(sequences: int = 5, tokens: int = 12) -> torch.Tensor:
    return torch.randint(1, 250, (sequences, tokens), generator=torch.Generator().manual_seed(0))


def weights(model) -> dict[str, torch.Tensor]:
    return {name: weight_2d(layer).clone() for name, layer in model.targets().items()}


def assert_same_weights(one, other):
    other = weights(other)
    assert all(torch.equal(weight, other[name]) for name, weight in weights(one).items())


def block_names(model, index: int) -> list[str]:
    return [name for name in model.targets() if name.startswith(model.block_names[index] + ".")]


def restated_wanda(model, ratio: float) -> None:
    """Each block calibrated by a forward of the whole model as it is then: dense blocks behind compressed ones."""
    for index in range(len(model.blocks)):
        names = block_names(model, index)
        for name, inputs in layer_inputs(model.module, names, ids()).items():
            weight = weight_2d(model.targets()[name])
            weight.copy_(wanda_layer(weight, inputs, ratio))


@torch.no_grad()
def test_each_block_is_calibrated_on_the_compressed_ones_before_it(tiny, tiny_source):
    Wanda(ratio=0.5).apply(tiny, text_context(ids()))
    restated = tiny_source.load(torch.float32, torch.device("cpu"))
    restated_wanda(restated, 0.5)
    assert_same_weights(tiny, restated)


@torch.no_grad()
def test_dense_inputs_are_those_of_the_dense_model(tiny, tiny_source):
    Wanda(ratio=0.7, inputs="dense").apply(tiny, text_context(ids()))
    dense = tiny_source.load(torch.float32, torch.device("cpu"))
    for name, inputs in layer_inputs(dense.module, list(dense.targets()), ids()).items():
        expected = wanda_layer(weight_2d(dense.targets()[name]), inputs, 0.7)
        assert torch.equal(weight_2d(tiny.targets()[name]), expected)


def test_without_calibration_nothing_is_run(tiny, monkeypatch):
    monkeypatch.setattr(LanguageModel, "hidden_states", None)
    assert Magnitude(ratio=0.5).apply(tiny, StageContext()).layers


def test_layers_that_are_not_targeted_keep_their_bits(tiny):
    before = weights(tiny)
    report = SparseGPT(ratio=0.5, include=("*.mlp.*",), exclude=("*.1.*",)).apply(tiny, text_context(ids()))
    changed = [name for name, weight in weights(tiny).items() if not torch.equal(weight, before[name])]
    assert changed == [layer.name for layer in report.layers]
    assert changed == [f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")]


@pytest.mark.parametrize("inputs", ["compressed", "dense"])
@pytest.mark.parametrize("technique", [Wanda, Magnitude])
def test_blocks_without_a_target_are_passed_through(technique, inputs, tiny, tiny_source):
    only_last = technique(ratio=0.5, include=("*.1.mlp.*",), inputs=inputs)
    report = only_last.apply(tiny, text_context(ids()))
    assert {layer.name.split(".")[2] for layer in report.layers} == {"1"}
    dense = tiny_source.load(torch.float32, torch.device("cpu"))
    everywhere = technique(ratio=0.5, include=("*.1.*",), inputs="dense").apply(dense, text_context(ids()))
    name = "model.layers.1.mlp.down_proj"
    assert torch.equal(weight_2d(tiny.targets()[name]), weight_2d(dense.targets()[name]))
    assert len(everywhere.layers) == 7


def test_reports_come_in_forward_order_and_count_what_is_there(tiny):
    report = SparseGPT(ratio=0.4).apply(tiny, text_context(ids()))
    assert [layer.name for layer in report.layers] == list(tiny.targets())
    for layer in report.layers:
        weight = weight_2d(tiny.targets()[layer.name])
        assert (layer.weights, layer.zeros) == (weight.numel(), int((weight == 0).sum()))


def test_a_layers_chance_does_not_depend_on_the_others(tiny, tiny_source):
    Random(ratio=0.5).apply(tiny, StageContext(seed=3))
    alone = tiny_source.load(torch.float32, torch.device("cpu"))
    Random(ratio=0.5, include=("*1.mlp.up_proj",)).apply(alone, StageContext(seed=3))
    name = "model.layers.1.mlp.up_proj"
    assert torch.equal(weight_2d(tiny.targets()[name]), weight_2d(alone.targets()[name]))
    other = "model.layers.0.mlp.up_proj"
    assert not torch.equal(weight_2d(tiny.targets()[name]) == 0, weight_2d(tiny.targets()[other]) == 0)


def test_offloaded_blocks_are_compressed_in_their_place(tiny, tiny_source):
    SparseGPT(ratio=0.5).apply(tiny, text_context(ids()))
    offloaded = tiny_source.load(torch.float32, torch.device("cpu"), offload=True)
    SparseGPT(ratio=0.5).apply(offloaded, text_context(ids()))
    assert_same_weights(tiny, offloaded)


def test_inputs_that_are_not_finite_name_the_layers(tiny):
    tiny.module.get_submodule(tiny.family.embeddings).weight[5] = float("nan")
    with pytest.raises(ModelError, match=r"inputs of model.layers.0.self_attn.q_proj, .*v_proj are not finite"):
        Wanda(ratio=0.5).apply(tiny, text_context(torch.tensor([[4, 5, 6]])))


def test_a_hessian_that_cannot_be_factored_names_the_layers(tiny, monkeypatch):
    monkeypatch.setattr(SparseGPT, "statistic", lambda _self, inputs: torch.eye(inputs.shape[1]) - 3)
    with pytest.raises(HessianError, match=r"Hessian of model.layers.0.mlp.down_proj: no damping"):
        SparseGPT(ratio=0.5).apply(tiny, text_context(ids()))


@pytest.mark.parametrize("wide", [1, 2048**2])
@pytest.mark.parametrize("threads", [1, 4])
def test_what_layers_share_is_prepared_once_and_order_and_threads_do_not_matter(
    wide, threads, tiny, tiny_source, monkeypatch
):
    before = torch.get_num_threads()
    plain = tiny_source.load(torch.float32, torch.device("cpu"))
    try:
        torch.set_num_threads(1)
        SparseGPT(ratio=0.5).apply(plain, text_context(ids()))
        prepared, prepare = [], SparseGPT.prepare
        monkeypatch.setattr("slimsweep.blockwise.layerwise.WIDE_NUMBERS", wide)
        monkeypatch.setattr(SparseGPT, "prepare", lambda self, summed: prepared.append(1) or prepare(self, summed))
        torch.set_num_threads(threads)
        SparseGPT(ratio=0.5).apply(tiny, text_context(ids()))
    finally:
        torch.set_num_threads(before)
    assert len(prepared) == 4 * len(tiny.blocks)  # q, k and v; o; gate and up; down
    for name, layer in tiny.targets().items():
        other = weight_2d(plain.targets()[name])
        assert torch.equal(weight_2d(layer) == 0, other == 0) and torch.allclose(weight_2d(layer), other, atol=1e-5)


def test_one_layer_of_each_input_comes_first_then_the_largest():
    layers = {name: torch.nn.Linear(4, out) for name, out in (("q", 4), ("k", 2), ("o", 4), ("up", 9), ("gate", 8))}
    layers["down"] = torch.nn.Linear(9, 4)
    method, sizes = SparseGPT(ratio=0.5), {"q k": 4, "o": 4, "up gate": 4, "down": 9}
    every = [Prepared(method, InputSum(names.split(), torch.eye(size))) for names, size in sizes.items()]
    for prepared in every[2:3]:
        prepared()  # what is prepared already keeps its place
    assert [name for name, _ in _by_size(every, layers)] == ["down", "up", "q", "o", "gate", "k"]


@pytest.fixture
def stories(shared, stories260k):
    """Token windows of real stories: 16 to calibrate, 16 others to judge."""
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:60_000]
    token_ids = torch.tensor(stories260k.tokenizer(text)["input_ids"][: 32 * 256]).view(32, 256)
    return token_ids[:16], token_ids[16:]


def test_sharing_and_batching_agree_with_plain_forwards_on_a_trained_model(stories260k, stories260k_source, stories):
    calibration, judged = stories
    Wanda(ratio=0.5).apply(stories260k, text_context(calibration))
    restated = stories260k_source.load(torch.float32, torch.device("cpu"))
    for index in range(len(restated.blocks)):
        for name, inputs in layer_inputs(restated.module, block_names(restated, index), calibration).items():
            weight = weight_2d(restated.targets()[name])
            weight.copy_(wanda_layer(weight, inputs, 0.5))
    found = perplexity(stories260k.module, judged)
    assert found == pytest.approx(perplexity(restated.module, judged), rel=0.005)


def test_a_pruned_layer_tells_how_far_its_weight_moved(tiny):
    before = weights(tiny)
    report = Magnitude(ratio=0.5).apply(tiny, text_context(ids()))
    after = weights(tiny)
    for layer in report.layers:
        moved = (before[layer.name] - after[layer.name]).double().square().sum()
        expected = float((moved / before[layer.name].double().square().sum()).sqrt())
        assert 0 < expected < 1 and layer.change == pytest.approx(expected, rel=1e-5)
