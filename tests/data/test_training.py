from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from slimsweep.data import training
from slimsweep.errors import CorpusError
from slimsweep.models.batches import IGNORED, padding_id


def test_the_split_follows_the_content_and_not_the_order():
    texts = [f"text {number}" for number in range(400)]
    kept, held_out = training.split_by_content(texts, str.encode, 400)
    assert sorted(kept + held_out) == sorted(texts)
    assert 10 <= len(held_out) <= 32  # one in twenty
    again, also_out = training.split_by_content(texts[::-1], str.encode, 400)
    assert set(again) == set(kept) and set(also_out) == set(held_out)


def test_equal_examples_stay_on_one_side():
    kept, held_out = training.split_by_content(["same"] * 30 + [f"{n}" for n in range(60)], str.encode, 100)
    assert not set(kept) & set(held_out)


def test_something_is_held_out_of_very_little():
    assert training.split_by_content(["a", "b"], str.encode, 5) == (["a"], ["b"])
    with pytest.raises(CorpusError, match="of 3 examples none is left to train on"):
        training.split_by_content(["a"] * 3, str.encode, 5)


def test_the_limit_of_validation_leaves_the_others_out_of_both():
    texts = [f"text {number}" for number in range(400)]
    every = training.split_by_content(texts, str.encode, 400)
    fewer = training.split_by_content(texts, str.encode, 3)
    assert fewer[0] == every[0] and fewer[1] == every[1][:3]


def test_padding_predicts_nothing():
    examples = [{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    batch = training.padded_batch(examples, padding=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert "attention_mask" not in training.padded_batch(examples[:1], padding=0)


def test_token_bytes_tell_sequences_apart():
    every = [training.token_bytes(ids) for ids in ([1], [1, 0], [256], [1, 256])]
    assert len(set(every)) == 4 and all(one != two for one, two in pairwise(every))


def test_the_padding_is_the_tokenizers_or_the_end_or_zero():
    given = [(3, 2), (None, 2), (None, None)]
    made = [padding_id(SimpleNamespace(pad_token_id=pad, eos_token_id=end)) for pad, end in given]
    assert made == [3, 2, 0]


def test_a_batch_is_made_of_long_integers():
    batch = training.padded_batch([{"input_ids": [1], "labels": [1]}], 0)
    assert all(one.dtype == torch.long for one in batch.values())
