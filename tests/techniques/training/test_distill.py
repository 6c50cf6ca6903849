import pytest
import torch
from family_shapes import random_model
from tiny_training import FAST, counting_data, tiny_llama, training_context

from slimsweep.linear.base import linear_forms
from slimsweep.linear.mask import removed
from slimsweep.models.language_model import parameter_count
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.rtn import RTN
from slimsweep.techniques.training.distill import DEFAULT_LOSSES, Distill
from slimsweep.techniques.training.finetune import Finetune


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A Llama that has learned to count."""
    model = tiny_llama(tmp_path_factory.mktemp("teacher"))
    Finetune(**FAST | {"tokens": 16 * 4 * 60}).apply(model, training_context(model))
    return model


def taught(student, by, **fields):
    context = training_context(student, teacher=by.copy)
    return Distill(**FAST | fields).apply(student, context).notes["training"]


def test_a_pruned_model_learns_from_the_dense_one(trained):
    student = trained.copy()
    Magnitude(ratio=0.5).apply(student, training_context(student))
    training = taught(student, trained)
    assert training["loss_best"] < training["loss_start"]
    assert all(bool((one.weight[removed(one)] == 0).all()) for one in student.targets().values())


@pytest.mark.parametrize("losses", [{"soft": 1}, {"reverse_kl": 1}, {"skew": 1}, {"jensen_shannon": 1}, {"hidden": 1}])
def test_each_loss_falls_for_a_student_of_half_the_blocks(trained, losses):
    student = trained.copy()
    training = taught(student, trained, losses=losses, blocks="every_second")
    assert len(student.blocks) == 1 and training["loss_best"] < 0.9 * training["loss_start"]


def test_the_teacher_chain_is_the_model_before_the_student_loses_blocks(trained):
    student = trained.copy()
    training = taught(student, student, losses={"soft": 1}, blocks=[1], teacher="chain")
    assert training["loss_start"] > 0  # a teacher that had lost the block too would leave nothing to learn


def test_packed_layers_are_unpacked_where_asked(trained):
    student = trained.copy()
    RTN(bits=4, group_size=None).apply(student, training_context(student))
    packed = student.copy()
    taught(packed, trained, losses={"soft": 1})
    assert linear_forms(packed.module)
    training = taught(student, trained, losses={"soft": 1}, unpack=True)
    assert not linear_forms(student.module) and training["trained_parameters"] == parameter_count(student.module)


def test_plans_have_the_shapes_of_the_result(tmp_path, trained):
    skeleton = random_model("llama", str(tmp_path)).skeleton().copy()
    RTN(bits=4, group_size=None).plan(skeleton)
    Distill(blocks="first_half", unpack=True).plan(skeleton)
    assert len(skeleton.blocks) == 1 and not linear_forms(skeleton.module)
    student = trained.copy()
    taught(student, trained, blocks="first_half")
    assert parameter_count(student.module) == parameter_count(skeleton.module)


def test_what_is_required_names_the_teacher():
    assert Distill().requirements.teacher == "base" and Distill(teacher="chain").requirements.teacher == "chain"
    assert Distill(teacher="source", teacher_path="folder").requirements.teacher == "folder"
    assert Distill().weights == DEFAULT_LOSSES


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"teacher": "big"}, "base, chain or source"),
        ({"teacher": "source"}, "a path belongs to teacher=source"),
        ({"teacher_path": "folder"}, "a path belongs to teacher=source"),
        ({"losses": {"sof": 1}}, "losses='sof'"),
        ({"losses": {}}, "give weights by name"),
        ({"losses": {"soft": 0}}, "at least one weight"),
        ({"losses": {"soft": -1}}, "losses.soft=-1"),
        ({"temperature": 0}, "temperature=0"),
        ({"skew": 1}, "skew=1"),
        ({"beta": 0}, "beta=0"),
        ({"blocks": "odd"}, "every_second or first_half"),
    ],
)
def test_bad_values_are_told(fields, words):
    with pytest.raises(ValueError, match=words):
        Distill(**fields)


def test_blocks_that_are_not_there_are_told(tmp_path):
    skeleton = random_model("llama", str(tmp_path)).skeleton()
    assert "this model has the blocks 0 to 1" in Distill(blocks=[0, 7]).faults(skeleton)[0]
    t5 = random_model("t5", str(tmp_path)).skeleton()
    assert "keep some of each stack" in Distill(blocks=[0]).faults(t5)[0]
    assert Distill(blocks="every_second").faults(t5) == []


def test_the_weights_of_the_teacher_do_not_change(trained):
    before = {name: one.clone() for name, one in trained.module.state_dict().items()}
    student = trained.copy()
    context = training_context(student, teacher=lambda: trained)
    Distill(**FAST, losses={"soft": 1}, blocks="every_second").apply(student, context)
    assert all(torch.equal(one, before[name]) for name, one in trained.module.state_dict().items())
    assert counting_data(student).origin == "counting"
