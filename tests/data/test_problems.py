from pathlib import Path

import pytest
from conftest import TINY_SHAPE

from slimsweep.data.arithmetic import Arithmetic
from slimsweep.data.corpora import Corpora
from slimsweep.data.problems import (
    Problem,
    answer_accuracy,
    answer_of,
    ended,
    is_right,
    labelled,
    rationale_of,
    unreadable_fault,
)
from slimsweep.models.batches import IGNORED
from slimsweep.models.sources.byte_tokenizer import byte_tokenizer
from slimsweep.models.sources.random import RandomModel

NO_CORPORA = Corpora(None, Path("unused"))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3+5=8 8+9=17\n#### 17", "17"),
        ("3+5=8 8+9=17", "17"),  # no mark: the last number
        ("#### 5 or 6", "5"),
        ("so it is $1,200.50.", "1,200.50"),
        ("it is -3", "-3"),
        ("none", None),
        ("3+5=8 ####", None),
    ],
)
def test_the_answer_is_the_marked_number_or_the_last(text, answer):
    assert answer_of(text) == answer


def test_answers_are_compared_as_numbers():
    assert is_right("#### 1,000", "1000") and is_right("#### 17.0", "17")
    assert not is_right("#### 18", "17") and not is_right("", "17")


def test_steps_are_what_stands_before_the_mark():
    assert rationale_of("3+5=8 8+9=17\n#### 17") == "3+5=8 8+9=17"


def test_accuracy_counts_right_answers():
    problems = [Problem("Q", "", answer) for answer in ("1", "2", "3", "4")]
    assert answer_accuracy(["1", "#### 2", "5", "none"], problems) == 0.5


def test_only_the_completion_has_labels():
    tokenizer = byte_tokenizer()
    row = labelled("ab", ended("c", tokenizer), tokenizer)
    assert tokenizer.decode(row["input_ids"][:3]) == "abc" and row["input_ids"][3] == tokenizer.eos_token_id
    assert row["labels"] == [IGNORED, IGNORED, *row["input_ids"][2:]]


def test_the_solution_ends_in_the_marked_answer():
    assert Problem("Q", "3+5=8", "8").solution == "3+5=8\n#### 8"
    assert Problem("Q", "", "8").solution == "#### 8"


def test_a_tokenizer_that_lacks_signs_is_named(tiny_source):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"3": 0, "<unk>": 1, "</s>": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    assert "no token for a part of '3+3'" in unreadable_fault(["3", "3+3"], tokenizer, tiny_source)
    assert unreadable_fault(["3", "3+3"], byte_tokenizer(), tiny_source) is None


def test_a_model_that_is_too_short_is_told_the_longest_problem():
    source = RandomModel(name="short", shape=TINY_SHAPE | {"max_position_embeddings": 16}, cache_dir="unused")
    (fault,) = Arithmetic(problem_count=4).faults(source, NO_CORPORA)
    assert "takes 16: choose shorter problems" in fault


def test_classifiers_get_no_problems():
    shape = {"model_type": "bert", "vocab_size": 300, "num_hidden_layers": 1, "hidden_size": 36}
    source = RandomModel(name="bert", task="sequence_classification", shape=shape, cache_dir="unused")
    (fault,) = Arithmetic(problem_count=4).faults(source, NO_CORPORA)
    assert "data=arithmetic is for models of model.task=causal_lm" in fault


def test_real_tokenizers_know_all_signs(stories260k_source):
    assert Arithmetic(problem_count=50).faults(stories260k_source, NO_CORPORA) == []
