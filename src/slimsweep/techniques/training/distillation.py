"""Objective of distillation: weighted losses between a student and a frozen teacher on one batch."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from slimsweep.models.batches import IGNORED, Batch, token_mask
from slimsweep.models.language_model import LanguageModel
from slimsweep.numerics import divergences
from slimsweep.numerics.log_likelihood import mean_nll
from slimsweep.techniques.training.objective import Objective

LOGITS = {
    "soft": divergences.forward_kl,
    "reverse_kl": divergences.reverse_kl,
    "skew": divergences.skew_kl,
    "skew_reverse": divergences.skew_reverse_kl,
    "jensen_shannon": divergences.generalized_jensen_shannon,
}
"""Losses between next-token distributions; see numerics/divergences.py for sources."""
INNER = ("hidden", "attention")
"""Losses between hidden states and attention maps of matched blocks, as DistilBERT and TinyBERT have them."""
LOSSES = ("hard", *LOGITS, *INNER)
"""All losses; `hard` is the cross-entropy with the labels of the data."""
HIDDEN = ("cosine", "mse")


@dataclass(frozen=True)
class Losses:
    """Weights and settings of the losses."""

    weights: Mapping[str, int | float]
    temperature: int | float
    skew: int | float
    beta: int | float
    hidden: str

    def of_logits(self, name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """A loss between logits, as a function of student, teacher and the places that count."""
        settings = {"temperature": float(self.temperature)}
        if name in ("skew", "skew_reverse"):
            settings["skew"] = float(self.skew)
        if name == "jensen_shannon":
            settings["beta"] = float(self.beta)
        return functools.partial(LOGITS[name], **settings)


class Distillation(Objective):
    """Weighted sum of losses of a student; the teacher runs without gradients."""

    def __init__(self, losses: Losses, student: LanguageModel, teacher: LanguageModel | None):
        self.losses, self.teacher = losses, teacher
        self._inner = [name for name in INNER if losses.weights.get(name)]
        if teacher is not None:
            teacher.module.requires_grad_(False).eval()
        if "attention" in self._inner:  # kernels that are faster keep no attention maps
            for model in (student, teacher):
                model.module.set_attn_implementation("eager")
        self._pairs = matched_stacks(student, teacher) if teacher is not None else []
        widths = [one.module.get_input_embeddings().weight.shape[1] for one in (student, teacher) if one is not None]
        self.modules = None
        if "hidden" in self._inner and widths[0] != widths[1]:
            self.modules = nn.ModuleList(projection(*widths) for _ in self._pairs).to(student.compute_device)

    def loss(self, model: LanguageModel, batch: Batch) -> Float[Tensor, ""]:
        wanted = {"output_hidden_states": True} if "hidden" in self._inner else {}
        wanted |= {"output_attentions": True} if "attention" in self._inner else {}
        student = model.task.forward(model.module, batch, **wanted)
        logits, labels = model.task.aligned(student.logits, batch)
        counted = labels != IGNORED
        total = logits.new_zeros((), dtype=torch.float32)
        if weight := self.losses.weights.get("hard"):
            total = total + weight * mean_nll(logits, labels, IGNORED)
        if self.teacher is None:
            return total
        with torch.no_grad():
            teacher = self.teacher.task.forward(self.teacher.module, batch, **wanted)
        theirs = self.teacher.task.aligned(teacher.logits, batch)[0]
        words = min(logits.shape[-1], theirs.shape[-1])  # tables may be padded to different heights
        for name in LOGITS:
            if weight := self.losses.weights.get(name):
                total = total + weight * self.losses.of_logits(name)(logits[..., :words], theirs[..., :words], counted)
        return total + self._inner_losses(student, teacher, batch)

    def _inner_losses(self, student: Any, teacher: Any, batch: Batch) -> Tensor | float:
        total: Tensor | float = 0.0
        if weight := self.losses.weights.get("hidden"):
            total = total + weight * self._hidden_loss(states_of(student), states_of(teacher), batch)
        if weight := self.losses.weights.get("attention"):
            total = total + weight * self._attention_loss(maps_of(student), maps_of(teacher), batch)
        return total

    def _hidden_loss(self, student: list[Tensor], teacher: list[Tensor], batch: Batch) -> Tensor:
        """Mean over matched blocks and over tokens without padding."""
        losses = []
        for place, (mine, theirs, is_target) in enumerate(self._pairs):
            ours, wanted = student[mine], teacher[theirs]
            ours = ours if self.modules is None else self.modules[place](ours.float())
            keep = token_places(ours, batch, is_target)
            ours, wanted = ours[keep].float(), wanted[keep].float()
            if self.losses.hidden == "cosine":
                losses.append((1 - functional.cosine_similarity(ours, wanted, dim=-1)).mean())
            else:
                losses.append(functional.mse_loss(ours, wanted))
        return torch.stack(losses).mean()

    def _attention_loss(self, student: list[Tensor], teacher: list[Tensor], batch: Batch) -> Tensor:
        """Mean squared difference of the maps, averaged over heads: models may differ in their number."""
        losses = []
        for mine, theirs, is_target in self._pairs:
            ours, wanted = student[mine].float().mean(dim=1), teacher[theirs].float().mean(dim=1)
            keep = token_places(ours, batch, is_target)
            losses.append((ours[keep] - wanted[keep]).square().sum(dim=-1).mean())
        return torch.stack(losses).mean()


def matched_blocks(student: int, teacher: int) -> list[tuple[int, int]]:
    """Pairs of blocks at equal depth: the last of the student learns from the last of the teacher."""
    return [(place, -(-(place + 1) * teacher // student) - 1) for place in range(student)]


def matched_stacks(student: LanguageModel, teacher: LanguageModel) -> list[tuple[int, int, bool]]:
    """Pairs of blocks, each within its stack, and whether they are of a decoder that reads an encoder."""
    found = []
    for place, (mine, theirs) in enumerate(zip(student.stack_ranges, teacher.stack_ranges, strict=True)):
        pairs = matched_blocks(len(mine), len(theirs))
        found += [(mine[one], theirs[other], place > 0) for one, other in pairs]
    return found


def projection(student: int, teacher: int) -> nn.Linear:
    """A linear map between widths; it begins as the identity as far as that fits, so that nothing is drawn."""
    layer = nn.Linear(student, teacher, bias=False)
    with torch.no_grad():
        nn.init.eye_(layer.weight)
    return layer


def states_of(output: Any) -> list[Tensor]:
    """Hidden states after each block of all stacks, in forward order."""
    encoder = getattr(output, "encoder_hidden_states", None)
    if encoder is not None:
        return [*encoder[1:], *output.decoder_hidden_states[1:]]
    return list(output.hidden_states[1:])


def maps_of(output: Any) -> list[Tensor]:
    """Attention maps of each block of all stacks [sequence head query key], in forward order; self-attention only."""
    encoder = getattr(output, "encoder_attentions", None)
    if encoder is not None:
        return [*encoder, *output.decoder_attentions]
    return list(output.attentions)


def token_places(
    states: Float[Tensor, "sequence token _"], batch: Batch, is_target: bool
) -> Bool[Tensor, "sequence token"]:
    """True where the states are of a token and not of padding.

    Args:
        is_target: whether the states are of a decoder that reads an encoder.
    """
    mask = token_mask(batch, is_target)
    return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device) if mask is None else mask
