import pytest
import torch
from small_pairs import pair_table, seq2seq, words
from tiny_training import text_batch_of, tiny_llama
from torch.nn import functional

from slimsweep.data.corpora import Corpora
from slimsweep.data.training import padded_batch
from slimsweep.data.training_pairs import TrainingPairs
from slimsweep.models.surgery import remove_blocks
from slimsweep.techniques.training import distillation
from slimsweep.techniques.training.distillation import LOSSES, Distillation, Losses, matched_blocks

CPU = torch.device("cpu")
WINDOWS = torch.randint(0, 250, (3, 12), generator=torch.Generator().manual_seed(0))


def losses(**weights) -> Losses:
    return Losses(weights, temperature=2.0, skew=0.1, beta=0.5, hidden="cosine")


@pytest.fixture
def student(tmp_path):
    return tiny_llama(tmp_path)


@pytest.fixture
def teacher(tmp_path):
    model = tiny_llama(tmp_path)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model


def loss(student, teacher, batch=None, **weights) -> torch.Tensor:
    return Distillation(losses(**weights), student, teacher).loss(student, batch or text_batch_of(WINDOWS))


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "hard"])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(student, name):
    assert float(loss(student, student.copy(), **{name: 1})) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_scale_a_loss_and_losses_add_up(student, teacher, name):
    one = loss(student, teacher, **{name: 1})
    assert float(one) > 0
    torch.testing.assert_close(loss(student, teacher, **{name: 3}), 3 * one)
    both = loss(student, teacher, hard=0.5, **({name: 1} if name != "hard" else {"soft": 1}))
    other = one if name != "hard" else loss(student, teacher, soft=1)
    torch.testing.assert_close(both, 0.5 * loss(student, teacher, hard=1) + other)


def test_soft_is_the_scaled_divergence_of_the_next_tokens(student, teacher):
    with torch.no_grad():
        ours, theirs = (one.module(WINDOWS).logits[:, :-1] / 2 for one in (student, teacher))
    expected = 4 * functional.kl_div(ours.log_softmax(-1), theirs.softmax(-1), reduction="none").sum(-1).mean()
    torch.testing.assert_close(loss(student, teacher, soft=1).detach(), expected)


def test_hard_is_the_loss_of_the_task(student, teacher):
    torch.testing.assert_close(
        loss(student, teacher, hard=1), student.task.loss(student.module, text_batch_of(WINDOWS))
    )


@pytest.mark.parametrize("name", LOSSES)
def test_padded_sequences_count_as_they_do_alone(student, teacher, name):
    long, short = WINDOWS[0].tolist(), WINDOWS[1, :7].tolist()
    together = padded_batch([{"input_ids": one, "labels": one} for one in (long, short)], padding=0)
    alone = [padded_batch([{"input_ids": one, "labels": one}], padding=0) for one in (long, short)]
    counts = [11, 6] if name in ("hard", *distillation.LOGITS) else [12, 7]
    apart = [float(loss(student, teacher, batch, **{name: 1}).detach()) for batch in alone]
    expected = sum(one * count for one, count in zip(apart, counts, strict=True)) / sum(counts)
    assert float(loss(student, teacher, together, **{name: 1}).detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_an_encoder_decoder_has_every_loss(tmp_path, name):
    source = seq2seq("bart", tmp_path)
    data = TrainingPairs(path=pair_table(tmp_path, words(60))).examples(source, Corpora(None, tmp_path))
    student, teacher = (source.load(torch.float32, CPU) for _ in range(2))
    value = loss(student, teacher, data.collate(data.training[:5]), **{name: 1})
    assert float(value.detach()) == pytest.approx(0, abs=1e-5) if name != "hard" else float(value.detach()) > 0


def test_blocks_are_matched_at_equal_depth():
    assert matched_blocks(3, 6) == [(0, 1), (1, 3), (2, 5)]
    assert matched_blocks(2, 5) == [(0, 2), (1, 4)]
    assert matched_blocks(4, 2) == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert matched_blocks(4, 4) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert matched_blocks(5, 5)[-1] == (4, 4) and matched_blocks(1, 30) == [(0, 29)]


def test_a_student_with_fewer_blocks_learns_hidden_states(student, teacher):
    remove_blocks(student, [0])
    value = loss(student, teacher, hidden=1)
    value.backward() if value.requires_grad else None
    assert 0 < float(value.detach()) <= 2


def test_other_widths_get_a_projection_that_learns(tmp_path, teacher):
    from family_shapes import LLAMA_LIKE

    from slimsweep.models.sources.random import RandomModel

    shape = {"model_type": "llama", **LLAMA_LIKE, "hidden_size": 16}
    narrow = RandomModel(name="narrow", shape=shape, cache_dir=str(tmp_path)).load(torch.float32, CPU)
    objective = Distillation(losses(hidden=1), narrow, teacher)
    assert [tuple(one.weight.shape) for one in objective.modules] == [(32, 16)] * 2
    objective.modules.requires_grad_(True)
    objective.loss(narrow, text_batch_of(WINDOWS)).backward()
    assert all(bool(one.weight.grad.any()) for one in objective.modules)


def test_the_teacher_gets_no_gradient(student, teacher):
    student.module.requires_grad_(True)
    loss(student, teacher, soft=1, hidden=1).backward()
    assert all(one.grad is None for one in teacher.module.parameters())
    assert student.module.lm_head.weight.grad is not None


def test_stacks_are_matched_each_by_itself(tmp_path):
    source = seq2seq("bart", tmp_path)
    student, teacher = (source.load(torch.float32, CPU) for _ in range(2))
    remove_blocks(student, [0])
    pairs = distillation.matched_stacks(student, teacher)
    assert pairs == [(0, 1, False), (1, 2, True), (2, 3, True), (3, 4, True)]
