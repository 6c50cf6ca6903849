import dataclasses

import pytest
import torch
from conftest import TINY_SHAPE
from family_shapes import random_model

from slimsweep.errors import ModelError
from slimsweep.models.language_model import weights_digest
from slimsweep.models.sources.random import RandomModel
from slimsweep.models.storage.saved_model import save

CPU = torch.device("cpu")


def random_source(tmp_path, **fields):
    return RandomModel(**({"name": "tiny", "shape": TINY_SHAPE, "cache_dir": str(tmp_path)} | fields))


def test_digest_of_random_weights_is_of_shape_and_seed(tmp_path):
    digest = random_source(tmp_path).digest()
    assert random_source(tmp_path, name="other", cache_dir="elsewhere").digest() == digest
    assert random_source(tmp_path, seed=1).digest() != digest
    assert random_source(tmp_path, shape=TINY_SHAPE | {"hidden_size": 64}).digest() != digest
    meta = random_source(tmp_path, weights="meta")
    assert meta.digest() == random_source(tmp_path, weights="meta", seed=1).digest()


def test_byte_tokenizer_needs_room_in_the_vocabulary(tmp_path):
    with pytest.raises(ModelError, match=r"258 or more"):
        random_source(tmp_path, shape=TINY_SHAPE | {"vocab_size": 100}).load(torch.float32, CPU)


def test_the_tokenizer_of_random_weights_is_part_of_what_they_are(tiny_source, shared):
    other = dataclasses.replace(tiny_source, tokenizer_path=str(shared / "models" / "stories260K"))
    assert other.digest() != tiny_source.digest()


def test_an_encoder_decoder_and_its_tokenizer_number_their_special_tokens_alike(tmp_path, shared):
    """stories260K pads with nothing and ends with token 2."""
    shape = {"model_type": "bart", "vocab_size": 512, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    shape |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    fields = {"task": "seq2seq_lm", "tokenizer_path": str(shared / "models" / "stories260K")}
    assert not random_source(tmp_path, shape=shape | {"eos_token_id": 2}, **fields).faults()
    (fault,) = random_source(tmp_path, shape=shape | {"eos_token_id": 3}, **fields).faults()
    assert fault.endswith("has eos_token_id=2, and model tiny has 3: set model.shape.eos_token_id=2")


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5", "bart", "marian"])
def test_drawn_weights_come_back_from_a_file_with_equal_dtypes(name, tmp_path):
    source = random_model(name, str(tmp_path))
    drawn = source.load(torch.bfloat16, CPU)
    save(drawn, tmp_path / "saved")
    read = source.restored(tmp_path / "saved", torch.bfloat16, CPU, False, 0)
    assert weights_digest(read) == weights_digest(drawn)
    for (name_, one), other in zip(drawn.module.named_buffers(), read.module.buffers(), strict=True):
        assert one.dtype == other.dtype, name_
