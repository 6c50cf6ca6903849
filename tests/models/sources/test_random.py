import dataclasses

import pytest
import torch
from conftest import TINY_SHAPE

from slimsweep.errors import ModelError
from slimsweep.models.sources.random import RandomModel

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
