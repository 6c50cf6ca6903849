"""Train a student to predict what a teacher predicts."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import (
    choice_faults,
    flag_faults,
    is_number,
    number_faults,
    whole_number_faults,
)
from slimsweep.linear.base import PackedLinear, compute_dtype, layer_shape, linear_forms, set_layer
from slimsweep.linear.mask import removed, set_removed
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.techniques.base import Requirements, StageReport
from slimsweep.techniques.training.base import Training
from slimsweep.techniques.training.distillation import HIDDEN, LOSSES, Distillation, Losses
from slimsweep.techniques.training.kept_logits import LOSSES as KEPT_LOSSES
from slimsweep.techniques.training.kept_logits import KeptDistillation, KeptLogits, notes_of, teacher_folder
from slimsweep.techniques.training.objective import Objective
from slimsweep.techniques.training.students import StudentBlocks
from slimsweep.techniques.training.teachers import Teachers, frozen_teacher, teacher_bytes
from slimsweep.techniques.training.written import Writing, written_set

DEFAULT_LOSSES = {"hard": 0.5, "soft": 0.5}


@dataclass(frozen=True, kw_only=True)
class Distill(Teachers, StudentBlocks, Writing, Training):
    """Distil a frozen teacher into the model of the chain, or into some of its blocks.

    The teacher is the base of the experiment (the dense model after the leading fine-tuning stages), the model of the
    chain before this stage, or another model. The mean is over predictions, padding left out.
    """

    losses: Mapping[str, int | float] | None = None
    """Weights of the losses; null: `{hard: 0.5, soft: 0.5}`. `hard` is of the labels of the data, `soft` the forward
    KL; the others are `reverse_kl`, `skew`, `skew_reverse`, `jensen_shannon`, `hidden` and `attention`."""
    temperature: int | float = 2.0
    """Logits are divided by it; divergences are multiplied by its square."""
    skew: int | float = 0.1
    """Share of the first distribution in the mixture of `skew` and `skew_reverse`."""
    beta: int | float = 0.5
    """Place of `jensen_shannon` between forward (near 0) and reverse KL (near 1)."""
    hidden: str = "cosine"
    """Distance of hidden states: `cosine` or `mse`."""
    unpack: bool = False
    """Whether packed layers of the student become dense ones, which are trained."""
    keep_top_k: int | None = None
    """Most likely tokens of each place that are kept of the teacher, so that jobs ask it once; null keeps nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.losses == DEFAULT_LOSSES:  # one value has one key
            object.__setattr__(self, "losses", None)

    @property
    def weights(self) -> Mapping[str, int | float]:
        """Weights of the losses."""
        return DEFAULT_LOSSES if self.losses is None else self.losses

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values() + self.teacher_faults() + self.writing_faults() + self._loss_faults()
        faults += number_faults("temperature", self.temperature, "(0, inf)")
        faults += number_faults("skew", self.skew, "[0, 1)") + number_faults("beta", self.beta, "(0, 1)")
        faults += choice_faults("hidden", [self.hidden], HIDDEN) + flag_faults("unpack", self.unpack)
        faults += self.student_faults()
        return faults + self._kept_faults()

    def _kept_faults(self) -> list[str]:
        faults = whole_number_faults("keep_top_k", self.keep_top_k, is_optional=True)
        if self.keep_top_k is None or faults or not isinstance(self.weights, Mapping):
            return faults
        if others := [name for name, weight in self.weights.items() if weight and name not in KEPT_LOSSES]:
            faults.append(
                f"keep_top_k={self.keep_top_k} keeps what the losses {' and '.join(KEPT_LOSSES)} need, and losses has "
                f"{', '.join(others)} too: set keep_top_k=null, or leave them out"
            )
        return faults

    def _loss_faults(self) -> list[str]:
        if self.losses is None:
            return []
        if not isinstance(self.losses, Mapping) or not self.losses:
            return [f"losses={self.losses!r}: give weights by name, such as {{hard: 0.5, soft: 0.5}}"]
        faults = choice_faults("losses", list(self.losses), LOSSES)
        bad = {name: weight for name, weight in self.losses.items() if not is_number(weight) or weight < 0}
        faults += [f"losses.{name}={weight!r}: give a weight of at least 0" for name, weight in bad.items()]
        if not faults and not any(self.losses.values()):
            faults.append(f"losses={dict(self.losses)}: at least one weight must be above 0")
        return faults

    @property
    def requirements(self) -> Requirements:
        return Requirements(data=True, gradients=True, seed=True, teacher=self.asked_teacher)

    def faults(self, skeleton: LanguageModel) -> list[str]:
        faults = super().faults(skeleton) + self.task_faults(skeleton)
        faults += self.block_faults(skeleton)
        words = skeleton.config.get_text_config().vocab_size
        if self.keep_top_k is not None and not skeleton.task.generates:
            faults.append("keep_top_k keeps likely tokens, and this model predicts labels: set keep_top_k=null")
        elif self.keep_top_k is not None and self.keep_top_k > words:
            faults.append(f"keep_top_k={self.keep_top_k}: this model has {words} tokens, give fewer")
        return faults

    def plan(self, skeleton: Skeleton) -> StageReport:
        self._shape(skeleton)
        return super().plan(skeleton)

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        teacher, notes = functools.partial(frozen_teacher, context, model), {}
        attention = model.config._attn_implementation  # maps are only kept by another one
        if self.texts == "teacher" or self.keep_top_k is None:
            # May be a copy of the model, so it is made before the student loses blocks.
            teacher = functools.cache(teacher)
            teacher()
        context = dataclasses.replace(context, teacher=teacher)
        if self.texts == "teacher":
            data, notes["written"] = written_set(teacher(), context.data, self, context.generator("written"))
            context = dataclasses.replace(context, data=data)
        with teacher_folder(context) as folder:
            context = dataclasses.replace(context, teacher_dir=folder)
            if self.keep_top_k is not None:
                kept = self._kept(model, context)
                kept.fill(context.data, teacher)
            self._shape(model)
            report = super().walk(model, context)
            if self.keep_top_k is not None:
                notes["kept_logits"] = notes_of(kept, model, context.data)
        if self.weights.get("attention"):
            model.module.set_attn_implementation(attention)
        report.notes.update(notes)
        return report

    def objective(self, model: LanguageModel, context: StageContext) -> Objective:
        if self.keep_top_k is not None:
            return KeptDistillation(self.weights, self._kept(model, context))
        losses = Losses(self.weights, self.temperature, self.skew, self.beta, self.hidden)
        return Distillation(losses, model, context.teacher())

    def training_bytes(self, skeleton: Skeleton, batch: Batch) -> int:
        """Those of training the student, with the teacher's weights and the losses between two sets of logits."""
        student = skeleton.copy()
        self._shape(student)
        return super().training_bytes(student, batch) + teacher_bytes(skeleton, batch)

    def _kept(self, model: LanguageModel, context: StageContext) -> KeptLogits:
        words = model.module.get_input_embeddings().weight.shape[0]
        return KeptLogits(context.teacher_dir, self.keep_top_k, self.temperature, words)

    def _shape(self, model: LanguageModel) -> None:
        """Give the student its blocks, and dense layers where it is to be unpacked."""
        self.shape_student(model)
        if self.unpack:
            for name, layer in linear_forms(model.module).items():
                if isinstance(layer, PackedLinear):
                    set_layer(model.module, name, dense_layer(layer))


def dense_layer(layer: PackedLinear) -> nn.Linear:
    """A plain layer with the weight, bias and mask of a packed one."""
    rows, columns = layer_shape(layer)
    dense = nn.Linear(columns, rows, bias=layer.bias is not None, device="meta", dtype=compute_dtype(layer))
    is_meta = next(layer.parameters()).is_meta
    weight = torch.empty(rows, columns, device="meta", dtype=compute_dtype(layer)) if is_meta else layer.weight
    dense.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    dense.bias = layer.bias
    set_removed(dense, removed(layer))
    return dense
