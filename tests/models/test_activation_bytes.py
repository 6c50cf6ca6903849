import pytest
import torch
from family_shapes import random_model
from tiny_training import text_batch_of

from slimsweep.models.activation_bytes import activation_bytes


def skeleton(name, folder):
    return random_model(name, str(folder)).skeleton().copy()


def batch(sequences, tokens):
    return text_batch_of([torch.zeros(tokens, dtype=torch.long)] * sequences)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text", "bloom"])
def test_bytes_grow_with_sequences_and_not_with_the_square_of_tokens(name, tmp_path):
    model = skeleton(name, tmp_path)
    trained = list(model.module.parameters())
    one, two, long = (activation_bytes(model, batch(*shape), trained) for shape in ((1, 16), (2, 16), (1, 32)))
    assert one > 0 and two == pytest.approx(2 * one, rel=0.05) and long == pytest.approx(2 * one, rel=0.25)
    assert not any(parameter.requires_grad for parameter in trained)


def test_a_linear_layer_keeps_its_input(tmp_path):
    model = skeleton("llama", tmp_path)
    head = activation_bytes(model, batch(1, 16), [model.module.lm_head.weight])
    # Its input, and of the loss: log-probabilities in fp32, with what cross-entropy keeps of the labels.
    width, vocabulary = model.config.hidden_size, model.config.vocab_size
    assert head >= 16 * 4 * width + 15 * 4 * vocabulary
    assert head < 16 * 4 * width + 4 * 15 * 4 * vocabulary


def test_embeddings_as_a_tensor_train_are_counted_too(tmp_path):
    from slimsweep.techniques.factorization.tensor_train import TensorTrain

    model = skeleton("llama", tmp_path)
    TensorTrain(ratio=0.3).plan(model)
    assert activation_bytes(model, batch(1, 16), list(model.module.parameters())) > 0


def test_sixteen_bits_are_counted_as_autocast_keeps_them(tmp_path):
    """The same forward on real tensors, under torch's own autocast."""
    source = random_model("llama", str(tmp_path))
    model, shapes = source.load(torch.bfloat16, torch.device("cpu")), batch(2, 32)
    trained, kept = list(model.module.parameters()), {}
    for parameter in trained:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    weights = {parameter.untyped_storage()._cdata for parameter in trained}

    def pack(tensor):
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16), hooks:
        model.task.loss(model.module, shapes)
    skeleton = source.skeleton(torch.bfloat16).copy()
    found = activation_bytes(skeleton, shapes, list(skeleton.module.parameters()))
    assert found == pytest.approx(sum(storage.nbytes() for storage in kept.values()), rel=0.1)
    assert {parameter.dtype for parameter in skeleton.module.parameters()} == {torch.bfloat16}
