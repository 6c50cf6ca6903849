"""Reasoning taught by a small teacher that is trained here, beside the same students without it.

    .venv/bin/python benchmarks/reasoning.py [steps] [context] [--seeds 0,1,2]

`steps`: a teacher learns sums of three digits modulo 10 with worked steps. A smaller student learns its steps and
answers, or answers only, in equal numbers of steps with equal problems in each. A step of both has twice the rows.
STUDENT_STEPS decides much: all students learn suddenly or not at all. At 800 steps only one of three seeds with steps
had begun to learn. At 4000 steps, which is as many rows, one of three seeds with answers only had learned.

`context`: a teacher learns sums and differences modulo 5 whose sign the prompt hides, `Q: 3?1?4?2=`; an example before
the prompt shows the sign. The student is a copy that sees no example and learns to predict what the teacher predicts
with it.

All models have random weights at first. Held-out problems are unseen by teacher and student. One core, some minutes.
"""

import argparse
import functools
import itertools
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.data.arithmetic import Arithmetic
from slimsweep.data.corpora import Corpora
from slimsweep.data.problems import Problem, answer_accuracy, opening, text_ids
from slimsweep.data.training import TrainingSet, padded_batch, split_by_content
from slimsweep.models.batches import IGNORED, Batch, padding_id
from slimsweep.models.generation import write
from slimsweep.models.language_model import LanguageModel, parameter_count
from slimsweep.models.sources.random import RandomModel
from slimsweep.techniques.training.distill_reasoning import DistillReasoning
from slimsweep.techniques.training.finetune import Finetune

SHAPE = {
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 258,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "initializer_range": 0.1,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
NEW_TOKENS = 32
EXAMPLES = 1
SIGNS = ("+", "-")
SUMS = Arithmetic(terms=3, digits=1, modulus=10, problem_count=1000, validation=64)
TEACHER_STEPS, STUDENT_STEPS = 1000, 2000
SHORT_STEPS, LONG_STEPS, COPY_STEPS = 600, 400, 150
"""Steps of the teacher of `context` on single problems, and on problems behind an example; steps of its student."""


def drawn(blocks: int, width: int, seed: int) -> LanguageModel:
    """A Llama with random weights and one token per byte."""
    return source(blocks, width, seed).load(torch.float32, torch.device("cpu"))


def source(blocks: int, width: int, seed: int) -> RandomModel:
    shape = SHAPE | {"num_hidden_layers": blocks, "hidden_size": width, "intermediate_size": 2 * width}
    return RandomModel(name="drawn", shape=shape, seed=seed, cache_dir="outputs/cache")


def schedule(data: TrainingSet, steps: int, problems: int) -> dict[str, Any]:
    """Knobs of a stage of so many steps. It measures the validation loss only at its ends, and keeps the best."""
    return {
        "tokens": None,
        "epochs": steps * problems / len(data.training),
        "batch_sequences": problems,
        "learning_rate": 5e-3,
        "evaluations": 4,
        "patience": 99,
    }


def accuracy(model: LanguageModel, problems: Sequence[Problem], new_tokens: int = NEW_TOKENS) -> float:
    """Share of problems whose written solution is right."""
    start = opening(model.tokenizer)
    prompts = [[*start, *text_ids(one.prompt, model.tokenizer)] for one in problems]
    return answer_accuracy(write(model, prompts, new_tokens), problems)


def steps_table(seeds: Sequence[int]) -> None:
    """A narrower student taught steps and answers, beside answers only."""
    data = SUMS.examples(source(2, 64, 0), Corpora(None, Path("outputs/cache")))
    teacher, began = drawn(2, 64, 0), time.time()
    Finetune(**schedule(data, TEACHER_STEPS, 32)).apply(teacher, StageContext(data=data))
    taught = accuracy(teacher, data.validation)
    print(
        f"Teacher: {parameter_count(teacher.module):,} parameters, {TEACHER_STEPS} steps, {time.time() - began:.0f} s, "
        f"accuracy with worked steps {taught:.3f} on {len(data.validation)} held-out problems\n",
        flush=True,
    )
    print("| student learns | seed | kept | answers before | answers after | at the end of written steps |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    after: dict[float, list[float]] = {}
    for seed in seeds:
        for weight in (0.0, 1.0):
            student = drawn(2, 48, 100 + seed)
            technique = DistillReasoning(
                **schedule(data, STUDENT_STEPS, 32), shots=0, rationale_weight=weight, new_tokens=NEW_TOKENS
            )
            report = technique.apply(student, StageContext(data=data, seed=seed, teacher=teacher.copy))
            told = report.notes["reasoning"]
            after.setdefault(weight, []).append(told["answer_accuracy_after"])
            written = told.get("steps_accuracy_after")
            print(
                f"| {'steps and answers' if weight else 'answers only'} | {seed} | {told['share_kept']:.3f} | "
                f"{told['answer_accuracy_before']:.3f} | {told['answer_accuracy_after']:.3f} | "
                f"{'' if written is None else f'{written:.3f}'} |",
                flush=True,
            )
    print(
        f"\nStudent: {parameter_count(student.module):,} parameters, {STUDENT_STEPS} steps of 32 problems. Mean answer "
        f"accuracy: answers only {statistics.mean(after[0.0]):.3f}, steps and answers {statistics.mean(after[1.0]):.3f}"
    )


def hidden_sign(sign: str, numbers: Sequence[int]) -> Problem:
    """A chain of sums or differences modulo 5, whose sign only the steps show."""
    total, steps = numbers[0], []
    for number in numbers[1:]:
        following = (total + number if sign == "+" else total - number) % 5
        steps.append(f"{total}{sign}{number}={following}")
        total = following
    return Problem(f"Q: {'?'.join(map(str, numbers))}=\n", " ".join(steps), str(total))


def rows_of_examples(rows: Sequence[Sequence[Problem]], tokenizer: Any) -> Batch:
    """Some solved problems in a row, all of one sign; every solution is predicted."""
    made = []
    for row in rows:
        ids, labels = list(opening(tokenizer)), [IGNORED] * len(opening(tokenizer))
        for one in row:
            prompt, solution = text_ids(one.prompt, tokenizer), text_ids(one.solution + "\n\n", tokenizer)
            ids += [*prompt, *solution]
            labels += [IGNORED] * len(prompt) + solution
        made.append({"input_ids": ids, "labels": labels})
    return padded_batch(made, padding_id(tokenizer))


def context_table(seeds: Sequence[int]) -> None:
    """A student without examples that learns from the teacher with examples."""
    numbers = list(itertools.product(range(5), repeat=4))
    training, held_out = split_by_content(numbers, lambda one: str(one).encode(), 64)
    teacher, chance, began = drawn(2, 64, 0), random.Random(0), time.time()
    collate = functools.partial(rows_of_examples, tokenizer=teacher.tokenizer)
    for examples, batch, steps in (
        (0, 32, SHORT_STEPS),
        (EXAMPLES, 16, LONG_STEPS),
    ):  # short rows are cheap
        rows = [
            [hidden_sign(sign, one) for one in (*chance.sample(training, examples), first)]
            for first in chance.sample(training * 8, 8 * len(training))
            for sign in [chance.choice(SIGNS)]
        ]
        data = TrainingSet(rows[64:], rows[:64], collate, "rows of problems with one sign")
        Finetune(**schedule(data, steps, batch)).apply(teacher, StageContext(data=data))
    print(
        f"\nTeacher: {SHORT_STEPS + LONG_STEPS} steps, {time.time() - began:.0f} s; examples it sees: {EXAMPLES}\n",
        flush=True,
    )
    print(
        "| sign of the examples | seed | KL before | KL after | student before | student after | "
        "teacher with examples |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for seed in seeds:
        sign = SIGNS[seed % 2]
        problems = TrainingSet(
            [hidden_sign(sign, one) for one in training], [hidden_sign(sign, one) for one in held_out], collate, "sums"
        )
        knobs = schedule(problems, COPY_STEPS, 16) | {"learning_rate": 1e-3}
        technique = DistillReasoning(**knobs, mode="in_context", shots=EXAMPLES, new_tokens=NEW_TOKENS)
        context = StageContext(data=problems, seed=seed, teacher=teacher.copy)
        told = technique.apply(teacher.copy(), context).notes["reasoning"]
        print(
            f"| {sign} | {seed} | {told['kl_before']:.1e} | {told['kl_after']:.1e} | "
            f"{told['answer_accuracy_before']:.3f} | {told['answer_accuracy_after']:.3f} | "
            f"{told['teacher_accuracy']:.3f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["steps", "context"], help="steps, context")
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [int(one) for one in given.seeds.split(",")]
    if "steps" in given.parts:
        steps_table(seeds)
    if "context" in given.parts:
        context_table(seeds)


if __name__ == "__main__":
    main()
