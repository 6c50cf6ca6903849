from types import SimpleNamespace

import pytest
from conftest import TINY_SHAPE
from family_shapes import random_model

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.errors import TrainingError
from slimsweep.models.sources.random import RandomModel
from slimsweep.techniques.training.distill import Distill
from slimsweep.techniques.training.teachers import Teachers, frozen_teacher, vocabulary_fault


def test_a_path_belongs_to_a_teacher_of_another_source():
    assert not Teachers().teacher_faults()
    assert not Teachers(teacher="source", teacher_path="folder").teacher_faults()
    assert "belongs to teacher=source" in Teachers(teacher_path="folder").teacher_faults()[0]
    assert "belongs to teacher=source" in Teachers(teacher="source").teacher_faults()[0]
    assert "give base, chain or source" in Teachers(teacher="other").teacher_faults()[0]


def test_requirements_name_the_choice_or_the_path():
    assert Teachers(teacher="chain").asked_teacher == "chain"
    assert Teachers(teacher="source", teacher_path="folder").asked_teacher == "folder"


def test_a_teacher_is_frozen(tiny):
    tiny.module.train()
    teacher = frozen_teacher(StageContext(teacher=tiny.copy), tiny)
    assert not teacher.module.training and not any(one.requires_grad for one in teacher.module.parameters())


def test_another_vocabulary_is_refused(tiny, tmp_path):
    import torch

    higher = RandomModel(name="higher", shape=TINY_SHAPE | {"vocab_size": 300}, cache_dir=str(tmp_path))
    higher = higher.load(torch.float32, torch.device("cpu"))
    assert vocabulary_fault(tiny, higher) is None  # a table with unused rows, and one tokenizer
    higher.tokenizer.add_tokens(["more"])
    with pytest.raises(TrainingError, match="different vocabularies .0 of the student's 258 tokens"):
        frozen_teacher(StageContext(teacher=lambda: higher), tiny)
    higher.tokenizer = None
    assert "the student has 258 tokens, the teacher 300" in vocabulary_fault(tiny, higher)


def test_a_source_with_other_tokens_is_found_before_weights_load(tmp_path):
    def source(**tokens):
        return SimpleNamespace(tokenizer=lambda: SimpleNamespace(get_vocab=lambda: tokens))

    technique = Distill(teacher="source", teacher_path="folder")
    assert technique.data_faults(None, source(a=0, b=1), source(a=0, b=1)) == []
    assert technique.data_faults(None, source(a=0, b=1)) == []
    (fault,) = technique.data_faults(None, source(a=0, b=1), source(a=0, b=2, c=3))
    assert "1 of the student's 2 tokens have another id or none among the teacher's 3" in fault


def test_a_teacher_that_takes_fewer_tokens_than_the_data_has_is_refused(tmp_path):
    teacher = random_model("gpt2", str(tmp_path))
    longest = teacher.config().max_position_embeddings
    technique = Distill(teacher="source", teacher_path="folder")
    (fault,) = technique.data_faults(SimpleNamespace(tokens=longest + 1), teacher, teacher)
    assert f"takes {longest} tokens: set data.tokens={longest}" in fault
    assert technique.data_faults(SimpleNamespace(tokens=longest), teacher, teacher) == []
