import math

import pytest
import torch

from slimsweep.data.problems import Problem, text_ids
from slimsweep.models.batches import IGNORED
from slimsweep.models.sources.byte_tokenizer import byte_tokenizer
from slimsweep.techniques.training.reasoning import (
    InContext,
    TwoTasks,
    right_solutions,
    shots_ids,
    task_losses,
    two_task_batch,
    with_examples,
    without_examples,
)

PROBLEM = Problem("Q: 3+5=\n", "3+5=8", "8")
OTHER = Problem("Q: 1+1+1=\n", "1+1=2 2+1=3", "3")


def test_wrong_and_empty_solutions_are_left_out():
    texts = ["3+5=8\n#### 8", "3+5=9\n#### 9", "#### 8", "nothing"]
    assert right_solutions([PROBLEM] * 4, texts) == [PROBLEM]


def test_the_steps_kept_are_the_teachers():
    (kept,) = right_solutions([PROBLEM], ["5+3=8\n#### 8.0"])
    assert kept == Problem("Q: 3+5=\n", "5+3=8", "8")


def test_a_problem_gives_one_row_for_each_task():
    tokenizer = byte_tokenizer()
    batch = two_task_batch([PROBLEM, OTHER], tokenizer)
    rows = [tokenizer.decode(row[row != 257]) for row in batch["input_ids"]]
    assert [row.rstrip("\x00!") for row in rows] == [
        "[answer] Q: 3+5=\n8",
        "[answer] Q: 1+1+1=\n3",
        "[rationale] Q: 3+5=\n3+5=8",
        "[rationale] Q: 1+1+1=\n1+1=2 2+1=3",
    ]
    learned = [tokenizer.decode(row[row != IGNORED]) for row in batch["labels"]]
    assert learned == ["8</s>", "3</s>", "3+5=8</s>", "1+1=2 2+1=3</s>"]


def test_without_rationales_only_answers_are_learned():
    assert len(two_task_batch([PROBLEM, OTHER], byte_tokenizer(), with_rationales=False)["labels"]) == 2


def test_each_task_is_a_mean_over_its_own_tokens():
    half, quarter = [0.0, 0.0, -math.inf, -math.inf], [0.0, 0.0, 0.0, 0.0]
    logits = torch.tensor([[half, half, half], [quarter, quarter, half]])
    labels = torch.tensor([[0, IGNORED, IGNORED], [1, 3, IGNORED]])
    answer, rationale = task_losses(logits, labels, problems=1)
    assert math.isclose(answer, math.log(2), rel_tol=1e-6) and math.isclose(rationale, math.log(4), rel_tol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_loss_is_the_answers_and_the_weighted_rationales(tiny, weight):
    both = two_task_batch([PROBLEM, OTHER], tiny.tokenizer)
    answers, rationales = ({name: rows[part] for name, rows in both.items()} for part in (slice(0, 2), slice(2, 4)))
    batch = both if weight else two_task_batch([PROBLEM, OTHER], tiny.tokenizer, with_rationales=False)
    expected = tiny.task.loss(tiny.module, answers) + weight * tiny.task.loss(tiny.module, rationales)
    assert torch.allclose(TwoTasks(weight).loss(tiny, batch), expected)


def test_examples_come_after_the_beginning_and_before_the_prompt():
    batch = {"input_ids": torch.tensor([[9, 1, 2], [9, 3, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    longer = with_examples(batch, [5, 6], start=1)
    assert longer["input_ids"].tolist() == [[9, 5, 6, 1, 2], [9, 5, 6, 3, 0]]
    assert longer["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]


def test_an_example_is_a_prompt_its_solution_and_a_blank_line():
    assert byte_tokenizer().decode(shots_ids([PROBLEM], byte_tokenizer())) == "Q: 3+5=\n3+5=8\n#### 8\n\n"


def test_the_divergence_is_of_solution_tokens_from_the_teacher_with_examples(tiny):
    student = tiny.copy()
    objective = InContext(tiny, [OTHER])
    batch = without_examples([PROBLEM], tiny.tokenizer)
    shots = shots_ids([OTHER], tiny.tokenizer)
    prompt, solution = (text_ids(text, tiny.tokenizer) for text in (PROBLEM.prompt, PROBLEM.solution + "\n\n"))
    with torch.no_grad():
        theirs = tiny.module(torch.tensor([[*shots, *prompt, *solution]])).logits[0, -len(solution) - 1 : -1]
        ours = student.module(torch.tensor([[*prompt, *solution]])).logits[0, -len(solution) - 1 : -1]
    expected = torch.nn.functional.kl_div(
        ours.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert torch.allclose(objective.loss(student, batch), expected, rtol=1e-4) and expected > 0


def test_padded_rows_are_as_the_rows_alone(tiny):
    student, objective = tiny.copy(), InContext(tiny, [PROBLEM])
    batches = [without_examples(problems, tiny.tokenizer) for problems in ([PROBLEM], [OTHER], [PROBLEM, OTHER])]
    counts = [tiny.task.predictions(batch) for batch in batches]
    first, second, both = (objective.loss(student, batch) for batch in batches)
    assert torch.allclose(both, (first * counts[0] + second * counts[1]) / counts[2], rtol=1e-4)


def test_without_examples_a_teacher_and_its_copy_agree(tiny):
    assert float(InContext(tiny, []).loss(tiny.copy(), without_examples([PROBLEM], tiny.tokenizer))) < 1e-6
