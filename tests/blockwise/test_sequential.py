import pytest
import torch
from contexts import text_context

from slimsweep.blockwise.activations import Activations
from slimsweep.errors import LayerError, ModelError
from slimsweep.linear.base import packed_layers, weight_2d
from slimsweep.models.batches import text_batch
from slimsweep.models.language_model import weights_digest
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.pruning.sparsegpt import SparseGPT
from slimsweep.techniques.pruning.wanda import Wanda
from slimsweep.techniques.quantization.awq import AWQ
from slimsweep.techniques.quantization.gptq import GPTQ
from slimsweep.techniques.quantization.rtn import RTN

ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


def token_ids(sequences: int = 6):
    return torch.randint(258, (sequences, 32), generator=torch.Generator().manual_seed(0))


def seen_by(model, name, ids):
    """Inputs of a layer in a plain forward of the whole model."""
    seen = []
    handle = model.module.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.hidden_states(text_batch(ids))
    handle.remove()
    return seen[0].flatten(0, -2)


@pytest.mark.parametrize(
    "technique",
    [
        SparseGPT(ratio=0.5, inputs="sequential"),
        Wanda(ratio=0.5, inputs="sequential"),
        GPTQ(bits=4, group_size=8, inputs="sequential"),
        SparseGPT(ratio=0.5, bits=4, group_size=8, inputs="sequential"),
    ],
)
@torch.no_grad()
def test_each_layer_is_calibrated_on_a_forward_of_all_that_was_compressed_before(technique, tiny, tiny_source):
    """Restated plainly: one group after the other, each on the inputs that a forward of the whole model gives it."""
    ids = token_ids()
    plain = tiny_source.load(torch.float32, torch.device("cpu"))
    from slimsweep.blockwise.layerwise import replace_weight

    for block in plain.block_names:
        for group in GROUPS:
            names = [name for name in plain.targets() if name.startswith(f"{block}.") and name.endswith(group)]
            prepared = technique.prepare(technique.statistic(seen_by(plain, names[0], ids)))
            for name in names:
                weight = weight_2d(plain.targets()[name]).float()
                replace_weight(plain, name, technique.compress_layer(weight, prepared, None))
    technique.apply(tiny, text_context(ids))
    assert list(packed_layers(tiny.module)) == list(packed_layers(plain.module))
    for name, layer in tiny.targets().items():
        ours, theirs = weight_2d(layer), weight_2d(plain.targets()[name])
        assert ((ours == 0) == (theirs == 0)).float().mean() > 0.995, name
        assert torch.allclose(ours, theirs, atol=2e-2), name
    first = [name for name in tiny.targets() if ".0.self_attn." in name and name.endswith(GROUPS[0])]
    same = [torch.equal(weight_2d(tiny.targets()[name]), weight_2d(plain.targets()[name])) for name in first]
    assert all(same), "the first group sees what a plain forward shows, to the bit"


def test_a_technique_that_looks_at_no_inputs_ends_the_same(tiny, tiny_source):
    other = tiny_source.load(torch.float32, torch.device("cpu"))
    RTN(bits=4, group_size=None).apply(tiny, text_context(token_ids()))
    RTN(bits=4, inputs="sequential", group_size=None).apply(other, text_context(token_ids()))
    assert weights_digest(tiny) == weights_digest(other)


def test_batches_and_the_last_block(tiny, tiny_source, monkeypatch):
    """Statistics add up over batches, and nothing is computed beyond the last group."""
    other = tiny_source.load(torch.float32, torch.device("cpu"))
    technique = Wanda(ratio=0.5, inputs="sequential", exclude=["*.1.mlp.*"])
    technique.apply(tiny, text_context(token_ids()))
    monkeypatch.setattr("slimsweep.models.batch_sizes.BATCH_TOKENS", 64)
    calls = []
    other.blocks[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    before = len(calls)
    technique.apply(other, text_context(token_ids()))
    assert len(calls) - before <= 1, "the forward that records calls runs whole"
    for name, layer in tiny.targets().items():
        assert ((weight_2d(layer) == 0) == (weight_2d(other.targets()[name]) == 0)).float().mean() > 0.99


def test_it_leaves_no_trace_after_an_error(tiny):
    forwards = {name: layer.forward.__func__ for name, layer in tiny.targets().items()}

    class Stop(Exception):
        pass

    class Failing(Wanda):
        def compress_layer(self, *args):
            raise Stop

    with pytest.raises(LayerError, match="q_proj: Stop"):
        Failing(ratio=0.5, inputs="sequential").apply(tiny, text_context(token_ids()))
    assert {name: layer.forward.__func__ for name, layer in tiny.targets().items()} == forwards
    assert all("forward" not in vars(layer) for layer in tiny.targets().values())
    assert tiny.hidden_states(text_batch(token_ids())).isfinite().all()


def test_groups_are_layers_that_share_an_input_in_forward_order(tiny):
    layers = {name: layer for name, layer in tiny.targets().items() if ".0." in name}
    found = Activations(tiny, text_batch(token_ids())).groups(0, dict(reversed(layers.items())))
    assert [{name.rsplit(".", 1)[1] for name in group} for group in found] == [set(group) for group in GROUPS]


def test_a_layer_no_token_reaches_is_named(tiny):
    tiny.blocks[0].mlp.extra = torch.nn.Linear(32, 32)
    with pytest.raises(ModelError, match="mlp.extra"):
        Wanda(ratio=0.5, inputs="sequential").apply(tiny, text_context(token_ids()))


def test_techniques_with_a_walk_of_their_own_refuse_it():
    assert Magnitude(ratio=0.5, inputs="sequential").inputs == "sequential"
    with pytest.raises(ValueError, match="inputs='sequential': give compressed or dense"):
        AWQ(inputs="sequential")


def test_it_is_no_worse_on_a_trained_model(shared, stories260k_source):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:40_000]

    def divergence(inputs: str) -> float:
        model = stories260k_source.load(torch.float32, torch.device("cpu"))
        ids = torch.tensor(model.tokenizer(text)["input_ids"][: 16 * 256]).view(16, 256)
        dense = model.module(ids[8:]).logits.log_softmax(-1)
        SparseGPT(ratio=0.5, inputs=inputs).apply(model, text_context(ids[:8]))
        found = model.module(ids[8:]).logits.log_softmax(-1)
        return float((dense.exp() * (dense - found)).sum(-1).mean())

    assert divergence("sequential") < 1.05 * divergence("compressed")
