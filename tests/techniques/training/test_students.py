import pytest
from family_shapes import random_model

from slimsweep.techniques.training.students import StudentBlocks, kept_blocks


def test_kept_blocks_end_with_the_last_of_each_pair():
    assert kept_blocks("every_second", 6) == [1, 3, 5]
    assert kept_blocks("every_second", 5) == [0, 2, 4]
    assert kept_blocks("first_half", 5) == [0, 1, 2]


@pytest.mark.parametrize(("blocks", "is_right"), [("every_second", True), ([0, 2], True), ("odd", False)])
def test_the_knob_is_a_word_or_numbers(blocks, is_right):
    assert (StudentBlocks(blocks=blocks).student_faults() == []) == is_right


@pytest.mark.parametrize("blocks", [[], [0, 7], [-1]])
def test_blocks_that_are_not_there_are_told(tmp_path, blocks):
    skeleton = random_model("llama", str(tmp_path)).skeleton()
    (fault,) = StudentBlocks(blocks=blocks).block_faults(skeleton)
    assert fault.endswith("this model has the blocks 0 to 1")
    assert StudentBlocks(blocks=[0, 1]).block_faults(skeleton) == StudentBlocks().block_faults(skeleton) == []


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_words_choose_in_each_stack_and_numbers_go_on_in_the_decoder(tmp_path, name):
    model = random_model(name, str(tmp_path)).skeleton().copy()
    encoder, decoder = map(len, model.stack_ranges)
    StudentBlocks(blocks="every_second").shape_student(model)
    assert [len(one) for one in model.stack_ranges] == [(encoder + 1) // 2, (decoder + 1) // 2]
    (fault,) = StudentBlocks(blocks=[0]).block_faults(model)
    assert "keep some of each stack; they have the blocks 0 to" in fault
    assert StudentBlocks(blocks=[0, len(model.blocks) - 1]).block_faults(model) == []
