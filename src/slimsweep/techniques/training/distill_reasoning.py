"""Teach a student to reason from step-by-step solutions that a teacher writes."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import choice_faults, number_faults, whole_number_faults
from slimsweep.data.problems import (
    Problem,
    ProblemData,
    answer_accuracy,
    longest_solved,
    opening,
    text_ids,
    unreadable_fault,
)
from slimsweep.errors import TrainingError
from slimsweep.models.batch_sizes import longest_context
from slimsweep.models.batches import Batch
from slimsweep.models.generation import BLANK_LINE, Decoding, generate
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.techniques.base import Requirements, StageReport
from slimsweep.techniques.training.base import Training
from slimsweep.techniques.training.objective import Objective
from slimsweep.techniques.training.reasoning import (
    ANSWER,
    RATIONALE,
    InContext,
    SolvedProblems,
    TwoTasks,
    collate_of,
    right_solutions,
    shots_ids,
)
from slimsweep.techniques.training.students import StudentBlocks
from slimsweep.techniques.training.teachers import Teachers, teacher_bytes

log = logging.getLogger(__name__)

STEP_BY_STEP, IN_CONTEXT = MODES = ("step_by_step", "in_context")
SPARE_TOKENS = 4
"""Tokens that a written answer may have beyond the longest of the key."""
WRITTEN = "solutions.json"


@dataclass(frozen=True, kw_only=True)
class DistillReasoning(Teachers, StudentBlocks, Training):
    """Distil a teacher's worked solutions into the model of the chain, or into some of its blocks.

    The teacher writes a solution for each prompt, and those with a wrong answer are left out. With `step_by_step` the
    student learns steps and answer as two tasks, told apart by a prefix of the prompt (arXiv:2305.02301). With
    `in_context` it learns to predict without examples what the teacher predicts with them (arXiv:2212.10670).
    """

    mode: str = STEP_BY_STEP
    """`step_by_step` or `in_context`."""
    shots: int = 4
    """Worked examples before each prompt of the teacher, taken from the training problems. 0: a teacher that was
    trained on single problems."""
    rationale_weight: int | float = 1.0
    """Weight of the steps beside the answer, for `step_by_step`; 0 trains on answers only."""
    least_kept: int | float = 0.2
    """Smallest share of the prompts that the teacher must solve."""
    new_tokens: int = 128
    """Longest solution that is written, in tokens."""
    temperature: int | float = 0.0
    """Temperature of the teacher's writing: 0 takes the likeliest token, above it tokens are drawn."""

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values() + self.teacher_faults() + self.student_faults()
        faults += choice_faults("mode", [self.mode], MODES)
        faults += whole_number_faults("shots", self.shots, least=1 if self.mode == IN_CONTEXT else 0)
        faults += number_faults("rationale_weight", self.rationale_weight, "[0, inf)")
        faults += number_faults("least_kept", self.least_kept, "(0, 1]")
        faults += whole_number_faults("new_tokens", self.new_tokens)
        return faults + number_faults("temperature", self.temperature, "[0, inf)")

    @property
    def requirements(self) -> Requirements:
        return Requirements(data=True, gradients=True, seed=True, teacher=self.asked_teacher)

    @property
    def is_in_context(self) -> bool:
        """Whether the student learns from a teacher that sees examples."""
        return self.mode == IN_CONTEXT

    def faults(self, skeleton: LanguageModel) -> list[str]:
        if skeleton.task.name != "causal_lm":
            return [
                f"solutions are written by language models (model.task=causal_lm), and this model's task is "
                f"{skeleton.task.name}: choose technique=distill"
            ]
        return super().faults(skeleton) + self.block_faults(skeleton)

    def data_faults(self, data: Any, source: Any, teacher: Any = None) -> list[str]:
        if not isinstance(data, ProblemData):
            return [
                "the data holds no problems with a key of answers: set data=arithmetic, or data=problems "
                "data.path=FILE with questions and answers as GSM8K has them"
            ]
        teacher, tokenizer = teacher or source, source.tokenizer()
        if fault := unreadable_fault((ANSWER, RATIONALE), tokenizer, source):
            return [fault]
        if teacher.tokenizer() is None or teacher.tokenizer().eos_token_id is None:
            return [f"teacher {teacher.name} has no tokenizer with an eos_token, with which a written solution ends"]
        if self.is_in_context and teacher.tokenizer().get_vocab() != tokenizer.get_vocab():
            return [
                f"mode=in_context compares next tokens, and teacher {teacher.name} has another vocabulary than model "
                f"{source.name}: set mode=step_by_step, which passes text, or take a teacher with the same tokenizer"
            ]
        problems = data.problems(tokenizer)
        if self.shots and sum(bool(one.rationale) for one in problems) <= self.shots:
            return [
                f"shots={self.shots} needs more than so many problems with worked steps, and the data has "
                f"{sum(bool(one.rationale) for one in problems)}: set shots=0 with a teacher that needs no examples"
            ]
        return self._length_faults(problems, teacher)

    def _length_faults(self, problems: Sequence[Problem], teacher: Any) -> list[str]:
        """Fault of examples and a solution that are longer together than the teacher takes."""
        longest, tokenizer = longest_context(teacher.config()), teacher.tokenizer()
        prompt = max(len(text_ids(one.prompt, tokenizer)) for one in problems) + len(RATIONALE)
        most = self.shots * (longest_solved(problems, tokenizer) + 2) + prompt + self.new_tokens
        if longest is None or most <= longest:
            return []
        return [
            f"shots={self.shots} examples and new_tokens={self.new_tokens} take up to {most} tokens with the prompt, "
            f"and teacher {teacher.name} takes {longest}: set fewer shots or new_tokens"
        ]

    def plan(self, skeleton: Skeleton) -> StageReport:
        self.shape_student(skeleton)
        return super().plan(skeleton)

    def training_bytes(self, skeleton: Skeleton, batch: Batch) -> int:
        """Those of training the student on such a batch, with a teacher; a batch of both tasks has twice the rows."""
        student = skeleton.copy()
        self.shape_student(student)
        rows = 1 if self.is_in_context or not self.rationale_weight else 2
        both = {name: values.repeat(rows, 1) for name, values in batch.items()}
        return super().training_bytes(student, both) + teacher_bytes(skeleton, batch)

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        teacher = context.teacher()  # a copy, made before the student loses blocks
        teacher.module.eval()
        self.shape_student(model)
        held_out = context.data.validation
        solved, notes = self._solved(model, teacher, context)
        notes |= self._accuracies(model, held_out, "before")
        report = super().walk(model, dataclasses.replace(context, data=solved, teacher=lambda: teacher))
        notes |= self._accuracies(model, held_out, "after")
        if self.is_in_context:
            training = report.notes["training"]
            notes |= {"kl_before": training["loss_start"], "kl_after": training["loss_best"]}
        report.notes["reasoning"] = notes
        log.info(
            "DistillReasoning: the teacher solved %.1f %% of the prompts; answers right before %.3f, after %.3f",
            *(100 * notes["share_kept"], notes["answer_accuracy_before"], notes["answer_accuracy_after"]),
        )
        return report

    def objective(self, model: LanguageModel, context: StageContext) -> Objective:
        if self.is_in_context:
            return InContext(context.teacher(), context.data.shots)
        return TwoTasks(self.rationale_weight)

    def _solved(
        self, model: LanguageModel, teacher: LanguageModel, context: StageContext
    ) -> tuple[SolvedProblems, dict[str, Any]]:
        """Problems that the teacher solved, with its steps, and what is to be told of it."""
        data = context.data
        shots = self._shots(data.training, context.generator("shots"))
        prompts = [one for one in data.training if one not in shots]
        texts = self._texts(teacher, [*prompts, *data.validation], shots, context)
        written, checked = texts[: len(prompts)], texts[len(prompts) :]
        training, validation = right_solutions(prompts, written), right_solutions(data.validation, checked)
        share = len(training) / max(1, len(prompts))
        if share < self.least_kept or not validation:
            raise TrainingError(self._too_few(len(training), prompts, written, len(validation), len(checked)))
        collate = collate_of(self.is_in_context, self.rationale_weight > 0, model.tokenizer)
        notes = {
            "mode": self.mode,
            "prompts": len(prompts),
            "kept": len(training),
            "share_kept": share,
            "held_out": len(checked),
            "teacher_accuracy": answer_accuracy(checked, data.validation),
        }
        return SolvedProblems(training, validation, collate, data.origin, shots), notes

    def _shots(self, problems: Sequence[Problem], generator: torch.Generator) -> list[Problem]:
        """Worked examples for the teacher, the same for all prompts."""
        worked = [one for one in problems if one.rationale]
        order = torch.randperm(len(worked), generator=generator).tolist()
        return [worked[place] for place in order[: self.shots]]

    def _texts(
        self, teacher: LanguageModel, problems: Sequence[Problem], shots: Sequence[Problem], context: StageContext
    ) -> list[str]:
        """Solutions that the teacher writes; a killed stage finds them in its work folder."""
        file = context.work_dir and context.work_dir / WRITTEN
        if file and file.is_file():
            return json.loads(file.read_text())
        decoding = Decoding(
            max_new_tokens=self.new_tokens,
            temperature=self.temperature,
            sampling_seed=int(context.generator("solutions").initial_seed() % 2**31),
            stops=(BLANK_LINE,) if shots else (),
        )
        prompts, examples = [one.prompt for one in problems], shots_ids(shots, teacher.tokenizer)
        texts = _written(teacher, prompts, decoding, "The teacher writes: prompt", examples)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(texts))
            partial.replace(file)
        return texts

    def _too_few(
        self, kept: int, prompts: Sequence[Problem], written: Sequence[str], held_out: int, checked: int
    ) -> str:
        return (
            f"the teacher solved {kept} of {len(prompts)} prompts and {held_out} of {checked} held-out ones, and "
            f"least_kept={self.least_kept:g} of the prompts and one held-out problem are needed. To "
            f"{prompts[0].prompt!r} it wrote {written[0]!r}. Take a teacher that was trained on such problems "
            "(technique=finetune with this data makes one; set shots=0 for it), change "
            f"shots={self.shots} or new_tokens={self.new_tokens}, choose easier problems, or lower least_kept"
        )

    def _accuracies(self, model: LanguageModel, problems: Sequence[Problem], when: str) -> dict[str, float]:
        """Share of held-out problems that the student answers right, at once and at the end of written steps."""
        if self.is_in_context:
            prompts = [one.prompt for one in problems]
            decoding = Decoding(max_new_tokens=self.new_tokens, stops=(BLANK_LINE,))
            texts = _written(model, prompts, decoding, "Student: solution")
            return {f"answer_accuracy_{when}": answer_accuracy(texts, problems)}
        most = max(len(text_ids(one.answer, model.tokenizer)) for one in problems) + SPARE_TOKENS
        prompts = [ANSWER + one.prompt for one in problems]
        texts = _written(model, prompts, Decoding(max_new_tokens=min(most, self.new_tokens)), "Student: answer")
        found = {f"answer_accuracy_{when}": answer_accuracy(texts, problems)}
        if self.rationale_weight:
            prompts = [RATIONALE + one.prompt for one in problems]
            texts = _written(model, prompts, Decoding(max_new_tokens=self.new_tokens), "Student: steps")
            found[f"steps_accuracy_{when}"] = answer_accuracy(texts, problems)
        return found


def _written(
    model: LanguageModel, prompts: Sequence[str], decoding: Decoding, title: str, shots: Sequence[int] = ()
) -> list[str]:
    start = [*opening(model.tokenizer), *shots]
    ids = [[*start, *text_ids(one, model.tokenizer)] for one in prompts]
    return generate(model, ids, decoding, title).texts
