import pytest
import torch

from slimsweep.linear.base import weight_2d
from slimsweep.models.batches import text_batch
from slimsweep.models.language_model import LanguageModel


def offloaded(model: LanguageModel, device: torch.device) -> LanguageModel:
    copied = model.copy()
    return LanguageModel(
        module=copied.module,
        family=model.family,
        task=model.task,
        tokenizer=model.tokenizer,
        compute_device=device,
        offload=True,
    )


def test_offloaded_forward_equals_the_plain_one(tiny):
    model = offloaded(tiny, torch.device("cpu"))
    token_ids = torch.arange(10).reshape(1, 10)
    assert torch.equal(model.hidden_states(text_batch(token_ids)), tiny.hidden_states(text_batch(token_ids)))


def test_weights_written_while_resident_stay(tiny):
    model = offloaded(tiny, torch.device("cpu"))
    block = model.blocks[0]
    with model.resident(block), model.resident(block):
        weight_2d(block.mlp.up_proj).zero_()
        model.hidden_states(text_batch(torch.arange(4).reshape(1, 4)))
    assert weight_2d(model.blocks[0].mlp.up_proj).count_nonzero() == 0


def test_host_weights_come_back_even_when_a_forward_fails(tiny, monkeypatch):
    model = offloaded(tiny, torch.device("cpu"))
    on_host = [parameter.data_ptr() for parameter in model.blocks[0].parameters()]

    def fail(*_):
        assert model._offload._visiting
        raise RuntimeError("no memory")

    monkeypatch.setattr(model.blocks[0].mlp, "forward", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        model.hidden_states(text_batch(torch.arange(4).reshape(1, 4)))
    assert not model._offload._visiting
    assert [parameter.data_ptr() for parameter in model.blocks[0].parameters()] == on_host


def test_a_copy_of_an_offloaded_model_has_its_own_hooks(tiny):
    model = offloaded(tiny, torch.device("cpu"))
    copied = model.copy()
    assert len(copied.blocks[0]._forward_pre_hooks) == len(model.blocks[0]._forward_pre_hooks) == 1
    with copied.resident(copied.blocks[0]):
        weight_2d(copied.blocks[0].mlp.up_proj).zero_()
    assert weight_2d(model.blocks[0].mlp.up_proj).count_nonzero() > 0


@pytest.mark.gpu
def test_offloaded_model_holds_one_block_on_the_gpu(tiny_source):
    device = torch.device("cuda")
    model = tiny_source.load(torch.float32, device, offload=True)
    plain = tiny_source.load(torch.float32, device)
    token_ids = torch.arange(10).reshape(1, 10)
    torch.testing.assert_close(model.hidden_states(text_batch(token_ids)), plain.hidden_states(text_batch(token_ids)))
    with model.resident(model.blocks[1]):
        weight_2d(model.blocks[1].mlp.up_proj).zero_()
    assert {parameter.device.type for block in model.blocks for parameter in block.parameters()} == {"cpu"}
    assert weight_2d(model.blocks[1].mlp.up_proj).count_nonzero() == 0
