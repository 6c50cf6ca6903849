import pytest
import torch
from torch import nn

from slimsweep.models.language_model import LanguageModel, is_linear, matrix, parameter_count


def offloaded(model: LanguageModel, device: torch.device) -> LanguageModel:
    copied = model.copy()
    return LanguageModel(
        module=copied.module,
        family=model.family,
        tokenizer=model.tokenizer,
        compute_device=device,
        offload=True,
    )


def test_full_names_are_paths_of_the_module(tiny):
    names = list(tiny.targets())
    assert names[0] == "model.layers.0.self_attn.q_proj"
    assert names[-1] == "model.layers.1.mlp.down_proj"
    assert len(names) == 14


def test_tied_head_is_counted_once(tiny):
    # embedding 258 x 32; a block: q, o 32 x 32; k, v 16 x 32; gate, up, down 48 x 32; two norms; a last norm
    block = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32 + 2 * 32
    assert parameter_count(tiny.module) == 258 * 32 + 2 * block + 32
    assert tiny.original_parameters == parameter_count(tiny.module)


def test_blocks_are_read_live(tiny):
    tiny.module.model.layers = tiny.module.model.layers[:1]
    assert tiny.block_names == ["model.layers.0"]
    assert len(tiny.targets()) == 7


def test_original_parameters_outlive_a_smaller_model(tiny):
    whole = tiny.original_parameters
    tiny.module.model.layers = tiny.module.model.layers[:1]
    assert tiny.copy().original_parameters == whole > parameter_count(tiny.module)


def test_linear_means_linear_and_conv1d():
    from transformers.pytorch_utils import Conv1D

    assert is_linear(nn.Linear(2, 3))
    assert is_linear(Conv1D(3, 2))
    assert not is_linear(nn.Embedding(2, 3))
    assert matrix(Conv1D(3, 2)).shape == (3, 2)


def test_weights_need_no_gradient(tiny):
    assert not any(parameter.requires_grad for parameter in tiny.module.parameters())
    assert not tiny.module.training


def test_skeleton_is_meta_and_a_loaded_model_is_not(tiny, tiny_source):
    assert tiny_source.skeleton().is_meta
    assert not tiny.is_meta
    assert list(tiny_source.skeleton().targets()) == list(tiny.targets())


def test_trained_model_predicts_the_next_word(stories260k):
    text = "Once upon a time, there was a little girl named"
    token_ids = stories260k.tokenizer(text, return_tensors="pt").input_ids
    logits = stories260k.logits(stories260k.hidden_states(token_ids)[:, -1])
    assert stories260k.tokenizer.decode(logits[0].argmax()).strip() == "Lily"


def test_offloaded_forward_equals_the_plain_one(tiny):
    model = offloaded(tiny, torch.device("cpu"))
    token_ids = torch.arange(10).reshape(1, 10)
    assert torch.equal(model.hidden_states(token_ids), tiny.hidden_states(token_ids))


def test_weights_written_while_resident_stay(tiny):
    model = offloaded(tiny, torch.device("cpu"))
    block = model.blocks[0]
    with model.resident(block), model.resident(block):
        matrix(block.mlp.up_proj).zero_()
        model.hidden_states(torch.arange(4).reshape(1, 4))
    assert matrix(model.blocks[0].mlp.up_proj).count_nonzero() == 0


def test_host_weights_come_back_even_when_a_forward_fails(tiny, monkeypatch):
    model = offloaded(tiny, torch.device("cpu"))
    on_host = [parameter.data_ptr() for parameter in model.blocks[0].parameters()]

    def fail(*_):
        assert model._offload._visiting
        raise RuntimeError("no memory")

    monkeypatch.setattr(model.blocks[0].mlp, "forward", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        model.hidden_states(torch.arange(4).reshape(1, 4))
    assert not model._offload._visiting
    assert [parameter.data_ptr() for parameter in model.blocks[0].parameters()] == on_host


def test_a_copy_of_an_offloaded_model_has_its_own_hooks(tiny):
    model = offloaded(tiny, torch.device("cpu"))
    copied = model.copy()
    assert len(copied.blocks[0]._forward_pre_hooks) == len(model.blocks[0]._forward_pre_hooks) == 1
    with copied.resident(copied.blocks[0]):
        matrix(copied.blocks[0].mlp.up_proj).zero_()
    assert matrix(model.blocks[0].mlp.up_proj).count_nonzero() > 0


@pytest.mark.gpu
def test_offloaded_model_holds_one_block_on_the_gpu(tiny_source):
    device = torch.device("cuda")
    model = tiny_source.load(torch.float32, device, offload=True)
    plain = tiny_source.load(torch.float32, device)
    token_ids = torch.arange(10).reshape(1, 10)
    torch.testing.assert_close(model.hidden_states(token_ids), plain.hidden_states(token_ids))
    with model.resident(model.blocks[1]):
        matrix(model.blocks[1].mlp.up_proj).zero_()
    assert {parameter.device.type for block in model.blocks for parameter in block.parameters()} == {"cpu"}
    assert matrix(model.blocks[1].mlp.up_proj).count_nonzero() == 0
