import pytest
import torch
from family_shapes import DECODERS, random_model
from restatements import layer_inputs

from slimsweep.blockwise.activations import Activations
from slimsweep.errors import ModelError
from slimsweep.models import batch_sizes
from slimsweep.models.batches import text_batch

CPU = torch.device("cpu")


def ids(sequences: int = 5, tokens: int = 12) -> torch.Tensor:
    return torch.randint(1, 250, (sequences, tokens), generator=torch.Generator().manual_seed(0))


def block_layers(model, index: int) -> dict:
    return {f"{model.block_names[index]}.{name}": layer for name, layer in model.linears(model.blocks[index]).items()}


@pytest.mark.parametrize("family", DECODERS)
@torch.no_grad()
def test_walking_the_blocks_is_the_models_own_forward(family, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_sizes, "BATCH_TOKENS", 24)  # batches of two, and one of one
    model = random_model(family, str(tmp_path)).load(torch.float32, CPU)
    walked = Activations(model, text_batch(ids()))
    for index in range(len(model.blocks)):
        walked.advance(index)
    entered = []
    norm = model.module.get_submodule(model.family.final_norm)
    norm.register_forward_pre_hook(lambda _norm, args: entered.append(args[0]))
    model.hidden_states(text_batch(ids()))
    assert torch.allclose(walked.hidden, entered[0].view_as(walked.hidden), atol=1e-5)


@torch.no_grad()
def test_layers_that_share_an_input_share_a_sum(tiny):
    sums = Activations(tiny, text_batch(ids())).collect(
        0, block_layers(tiny, 0), lambda inputs: inputs.sum(dim=0), advance=False
    )
    names = [[name.rsplit(".", 1)[1] for name in shared.layers] for shared in sums]
    assert names == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]


@pytest.mark.parametrize("advance", [True, False])
@torch.no_grad()
def test_sums_are_over_all_tokens_of_all_sequences(tiny, advance, monkeypatch):
    monkeypatch.setattr(batch_sizes, "BATCH_TOKENS", 24)
    walked = Activations(tiny, text_batch(ids()))
    walked.advance(0)
    layers = block_layers(tiny, 1)
    sums = walked.collect(1, layers, lambda inputs: inputs.square().sum(dim=0), advance=advance)
    expected = layer_inputs(tiny.module, list(layers), ids())
    for shared in sums:
        for name in shared.layers:
            assert torch.allclose(shared.summed, expected[name].square().sum(dim=0), rtol=1e-4, atol=1e-7)


@torch.no_grad()
def test_collecting_moves_on_only_when_told(tiny):
    def collected(advance):
        walked = Activations(tiny, text_batch(ids()))
        walked.collect(0, block_layers(tiny, 0), lambda inputs: inputs.sum(dim=0), advance=advance)
        return walked.hidden

    start = Activations(tiny, text_batch(ids()))
    assert torch.equal(collected(False), start.hidden)
    start.advance(0)
    assert torch.equal(collected(True), start.hidden)


@torch.no_grad()
def test_the_rest_of_a_forward_is_skipped_when_all_layers_were_seen(tiny):
    ran = []
    tiny.blocks[0].mlp.register_forward_hook(lambda *_: ran.append("mlp"))
    attention = {name: layer for name, layer in block_layers(tiny, 0).items() if "attn" in name}
    walked = Activations(tiny, text_batch(ids()))
    ran.clear()
    walked.collect(0, attention, lambda inputs: inputs.sum(dim=0), advance=False)
    assert ran == []


def test_no_hooks_stay_behind(tiny):
    walked = Activations(tiny, text_batch(ids()))
    walked.collect(0, block_layers(tiny, 0), lambda inputs: inputs.sum(dim=0), advance=True)
    parts = list(tiny.module.modules())
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in parts)


def test_a_layer_no_token_reached_is_an_error(tiny):
    unused = torch.nn.Linear(4, 4)
    with pytest.raises(ModelError, match="No calibration token reached spare"):
        Activations(tiny, text_batch(ids())).collect(
            0, {"spare": unused}, lambda inputs: inputs.sum(dim=0), advance=False
        )
