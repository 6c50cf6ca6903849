import hashlib

import torch
from torch import nn

from slimsweep.linear.base import is_linear, weight_2d
from slimsweep.models.batches import text_batch
from slimsweep.models.language_model import parameter_count, weights_digest


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
    assert weight_2d(Conv1D(3, 2)).shape == (3, 2)


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
    logits = stories260k.logits(stories260k.hidden_states(text_batch(token_ids))[:, -1])
    assert stories260k.tokenizer.decode(logits[0].argmax()).strip() == "Lily"


def test_a_digest_sees_names_dtypes_shapes_and_bytes_and_no_strides(tiny):
    layer = tiny.targets()["model.layers.0.self_attn.q_proj"]
    whole = layer.weight.data
    before = weights_digest(tiny)
    layer.weight.data = whole.T.contiguous().T
    assert weights_digest(tiny) == before
    layer.weight.data = torch.zeros(8)[::4][:1].view(1, 1)  # one number, a stride of 4
    assert weights_digest(tiny) != before
    layer.weight.data = whole.clone()
    layer.weight.data[0, 0] *= 1.0001
    assert weights_digest(tiny) != before
    layer.weight.data = whole.view(torch.int32)
    assert weights_digest(tiny) != before


def test_the_digest_is_one_whether_equal_tensors_are_tied_or_not_and_tied_ones_are_read_once(tiny, monkeypatch):
    read, plain = [], hashlib.sha256
    embeddings = tiny.module.get_submodule(tiny.family.embeddings)
    apart = torch.nn.Linear(*embeddings.weight.T.shape, bias=False)
    apart.weight.data = embeddings.weight.data.clone()
    tied = torch.nn.Linear(*embeddings.weight.T.shape, bias=False)
    tied.weight = embeddings.weight
    digests, reads = [], []
    for head in (apart, tied):
        tiny.module.lm_head = head
        with monkeypatch.context() as patch:
            patch.setattr(hashlib, "sha256", lambda data=b"": read.append(1) or plain(data))
            digests.append(weights_digest(tiny))
        reads.append(len(read))
        read.clear()
    assert digests[0] == digests[1] and reads == [reads[1] + 1, reads[1]]
