"""Train a student on its own texts, by the reverse KL to a teacher."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import choice_faults, flag_faults, number_faults, whole_number_faults
from slimsweep.data.training import TrainingSet
from slimsweep.errors import TrainingError
from slimsweep.models.batch_sizes import longest_context
from slimsweep.models.batches import IGNORED, Batch
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.numerics.divergences import log_probs, mixture_log_probs, reverse_kl
from slimsweep.numerics.policy_gradient import IMPORTANCE, SampledSequences, minillm_loss
from slimsweep.techniques.base import Requirements
from slimsweep.techniques.training.base import Training
from slimsweep.techniques.training.generation import continuations, prompts_of
from slimsweep.techniques.training.objective import Objective, TaskLoss
from slimsweep.techniques.training.teachers import Teachers, frozen_teacher, teacher_bytes

EXAMPLES_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class MiniLLM(Teachers, Training):
    """On-policy distillation of causal models. Source: arXiv:2306.08543, algorithm 1; see numerics/policy_gradient.py.

    Each step continues prompts of the data with a mixture of teacher and student, and follows the policy gradient of
    the reverse KL on these texts. The cross-entropy on the data is added. Departures: one gradient step per sample, so
    that nothing is clipped as in PPO, and the cross-entropy is on the prompts' own texts, not on a second corpus.
    """

    unkeyed = frozenset(("max_minutes",))  # parts of a step draw their texts one after another

    prompt_tokens: int = 16
    """Tokens of a prompt at most, of plain text; of instructions, the prompt is all before the first answer."""
    response_tokens: int = 48
    """Tokens that are written after a prompt at most; a token that ends the text ends it earlier."""
    teacher_share: int | float = 0.2
    """Teacher's share of the mixture that writes (the paper's alpha): 0 is on-policy, 1 is the teacher alone."""
    single_step: bool = True
    """Whether a token's own reward is taken over the whole vocabulary, which lowers the variance."""
    importance: str = "token"
    """Correction of texts that the student alone did not write: `none`, `token` (the paper's) or `sequence` (exact)."""
    length_normalisation: bool = True
    """Whether rewards of later tokens are averaged instead of summed, so that short texts are not favoured."""
    language_weight: int | float = 1.0
    """Weight of the cross-entropy on the data."""

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values() + self.teacher_faults()
        faults += whole_number_faults("prompt_tokens", self.prompt_tokens)
        faults += whole_number_faults("response_tokens", self.response_tokens)
        faults += number_faults("teacher_share", self.teacher_share, "[0, 1]")
        faults += flag_faults("single_step", self.single_step) + choice_faults(
            "importance", [self.importance], IMPORTANCE
        )
        faults += flag_faults("length_normalisation", self.length_normalisation)
        return faults + number_faults("language_weight", self.language_weight, "[0, inf)")

    @property
    def requirements(self) -> Requirements:
        return Requirements(data=True, gradients=True, seed=True, teacher=self.asked_teacher)

    def faults(self, skeleton: LanguageModel) -> list[str]:
        faults = super().faults(skeleton)
        if skeleton.task.name != "causal_lm":
            return [
                *faults,
                f"it continues texts, which a model of model.task={skeleton.task.name} does not: use technique=distill",
            ]
        longest, needed = longest_context(skeleton.config), self.prompt_tokens + self.response_tokens
        if longest is not None and needed > longest:
            faults.append(
                f"prompt_tokens={self.prompt_tokens} and response_tokens={self.response_tokens} make {needed} tokens, "
                f"and the model takes {longest}: give smaller ones"
            )
        return faults

    def training_bytes(self, skeleton: Skeleton, batch: Batch) -> int:
        """Those of training on the data, with a teacher; the written texts come after each other with it."""
        return super().training_bytes(skeleton, batch) + teacher_bytes(skeleton, batch)

    def objective(self, model: LanguageModel, context: StageContext) -> Objective:
        longest, prompt = longest_context(model.config), longest_prompt(context.data, self.prompt_tokens)
        if longest is not None and prompt + self.response_tokens > longest:
            raise TrainingError(
                f"{context.data.origin} has a prompt of {prompt} tokens; with response_tokens={self.response_tokens} "
                f"that is more than the {longest} that the model takes: set response_tokens={longest - prompt} or less,"
                " or a smaller data.tokens"
            )
        return OnPolicy(self, frozen_teacher(context, model))


class OnPolicy(Objective):
    """Policy gradient on sampled texts while training; in eval mode the reverse KL on the data, which draws nothing."""

    def __init__(self, settings: MiniLLM, teacher: LanguageModel):
        self.settings, self.teacher = settings, teacher

    def loss(self, model: LanguageModel, batch: Batch) -> Float[Tensor, ""]:
        if not model.module.training:
            return reverse_kl(*self._logits(model, batch))
        loss = self._sampled_loss(model, self.responses(model, batch))
        if weight := self.settings.language_weight:
            loss = loss + weight * TaskLoss().loss(model, batch)
        return loss

    def responses(self, student: LanguageModel, batch: Batch) -> Batch:
        """Prompts of a batch, continued by the mixture of teacher and student; labels are the written tokens."""
        prompts = prompts_of(batch, self.settings.prompt_tokens)
        return continuations([student, self.teacher], prompts, self._draw, self.settings.response_tokens)

    def _draw(self, predicted: list[Float[Tensor, "sequence vocabulary"]]) -> Int[Tensor, " sequence"]:
        # The trainer keeps the state of torch's global generator in its checkpoints.
        return torch.multinomial(mixture_log_probs(*predicted, float(self.settings.teacher_share)).exp(), 1)[:, 0]

    def _logits(self, model: LanguageModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of student and teacher over their common vocabulary, and the places that are predicted."""
        student, labels = model.task.aligned(model.task.forward(model.module, batch).logits, batch)
        with torch.no_grad():
            teacher = self.teacher.task.forward(self.teacher.module, batch).logits
        teacher = self.teacher.task.aligned(teacher, batch)[0]
        words = min(student.shape[-1], teacher.shape[-1])
        return student[..., :words], teacher[..., :words], labels != IGNORED

    def _sampled_loss(self, model: LanguageModel, sampled: Batch) -> Float[Tensor, ""]:
        """The gradient is the surrogate's, for a token. The value is the reverse KL on the sampled texts."""
        student, teacher, counted = self._logits(model, sampled)
        student, teacher = log_probs(student), log_probs(teacher)
        ids = sampled["input_ids"][:, 1:, None]
        sampler = mixture_log_probs(student.detach(), teacher, float(self.settings.teacher_share))
        surrogate = (
            minillm_loss(
                SampledSequences(
                    student=student.gather(-1, ids)[..., 0],
                    teacher=teacher.gather(-1, ids)[..., 0],
                    counted=counted,
                    sampler=sampler.gather(-1, ids)[..., 0],
                    student_vocabulary=student,
                    teacher_vocabulary=teacher,
                ),
                single_step=self.settings.single_step,
                importance=self.settings.importance,
                length_normalisation=self.settings.length_normalisation,
            ).sum()
            / counted.sum()
        )
        return surrogate - surrogate.detach() + reverse_kl(student.detach(), teacher, counted)


def longest_prompt(data: TrainingSet, tokens: int) -> int:
    """Tokens of the longest prompt of the training examples."""
    longest = 0
    for start in range(0, len(data.training), EXAMPLES_AT_ONCE):
        batch = data.collate(data.training[start : start + EXAMPLES_AT_ONCE])
        longest = max(longest, *(len(prompt) for prompt in prompts_of(batch, tokens)))
    return longest
