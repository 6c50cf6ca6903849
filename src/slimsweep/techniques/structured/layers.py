"""Remove whole blocks: the ones that change what passes through them least."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimsweep.blockwise.gradients import sequence_losses
from slimsweep.blockwise.removal_walk import lowest_units
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.blockwise.walk import Visit, Walk
from slimsweep.checks import choice_faults, whole_number_faults
from slimsweep.models.anatomy import shape_of
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.models.surgery import remove_blocks
from slimsweep.numerics import counts
from slimsweep.numerics.means import pooled_mean
from slimsweep.techniques.base import Requirements, Technique
from slimsweep.techniques.structured.base import SHORT_STACK, PartRemoval

IMPORTANCES = ("block_influence", "perplexity")


@dataclass(frozen=True, kw_only=True)
class Layers(PartRemoval, Technique):
    """Prune depth: floor(ratio x blocks) blocks of each stack go.

    `block_influence` is 1 - the mean cosine between a block's input and output over tokens; `perplexity` that of the
    calibration text with this one block left out.

    Source: block influence: arXiv:2403.03853, eq. 1; perplexity: Shortened LLaMA, arXiv:2402.02834, sec. 3.2.
    """

    importance: str = "block_influence"
    """`block_influence` (one pass) or `perplexity` (one pass for each block)."""
    protect_first: int = 1
    """Blocks at the beginning of a stack that always stay."""
    protect_last: int = 1
    """Blocks at the end of a stack that always stay."""

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values() + choice_faults("importance", [self.importance], IMPORTANCES)
        for name in ("protect_first", "protect_last"):
            faults += whole_number_faults(name, getattr(self, name), least=0)
        return faults

    @property
    def requirements(self) -> Requirements:
        return Requirements(calibration=True)

    def default_layers(self, blocks: int) -> tuple[int, int]:
        return self.protect_first, blocks - self.protect_last - 1

    def block_range(self, model: LanguageModel) -> list[int]:
        """The blocks that may go: those of `blocks`, less the protected ones."""
        free: set[int] = set()
        for stack in model.stack_ranges:
            first, last = self.default_layers(len(stack))
            free.update(stack if len(stack) <= SHORT_STACK < len(model.blocks) else stack[first : last + 1])
        return [index for index in super().block_range(model) if index in free]

    def _counts(self, model: LanguageModel) -> list[tuple[list[int], int, int]]:
        """For each stack: its blocks that may go, how many of them go, and its number of blocks."""
        free = self.block_range(model)
        return [
            ([index for index in free if index in stack], counts.drop_count(self.ratio, len(stack)), len(stack))
            for stack in model.stack_ranges
        ]

    def faults(self, skeleton: LanguageModel) -> list[str]:
        faults = self._range_faults(skeleton) if self.blocks else []  # whole blocks may go, packed or not
        if self.importance == "perplexity" and not skeleton.task.generates:
            faults.append("importance=perplexity needs a language model: set importance=block_influence")
        if getattr(skeleton.config, "scale_attn_by_inverse_layer_idx", False):
            faults.append(
                "this model scales attention by the number of its block, so none can go: choose another technique"
            )
        for free, count, blocks in [] if faults else self._counts(skeleton):
            if count > min(len(free), blocks - 1):
                faults.append(
                    f"ratio={self.ratio:g} would remove {count} of {blocks} blocks, and only {len(free)} are not "
                    f"protected: give at most {_below(len(free), blocks)}"
                )
        return faults

    def plan_removal(self, skeleton: Skeleton) -> list[dict[str, Any]]:
        removed = [index for free, count, _ in self._counts(skeleton) for index in free[len(free) - count :]]
        differ = len(set(shape_of(skeleton).blocks)) > len(skeleton.stack_ranges)
        remove_blocks(skeleton, removed)
        note = {"note": "blocks differ, and which go is not known without weights: the last were taken"}
        return [{"kind": "blocks", "removed": len(removed)} | (note if differ else {})]

    def reduce(self, model: LanguageModel, context: StageContext) -> list[dict[str, Any]]:
        measure = block_influence if self.importance == "block_influence" else loss_without
        scores, removed = measure(model, context.batches), []
        for free, count, _ in self._counts(model):
            removed += sorted(free[place] for place in lowest_units(scores[free], count))
        remove_blocks(model, removed)
        scored = [float(score) for score in scores]
        return [{"kind": "blocks", "removed": len(removed), "blocks": removed, "scores": scored}]


def _below(count: int, blocks: int) -> str:
    """The largest ratio of four digits that removes `count` blocks and no more."""
    return f"{math.floor(10_000 * min(count + 1, blocks) / blocks - 1e-9) / 10_000:g}"


def block_influence(model: LanguageModel, batch: Batch) -> Float[Tensor, " block"]:
    """1 - mean cosine between what enters and what leaves each block, over all tokens; padding is left out."""

    def influence(visit: Visit) -> list[Float[Tensor, ""]]:
        before = visit.activations.sequences(visit.index)
        visit.advance()
        pairs = list(zip(before, visit.activations.sequences(visit.index), strict=True))
        cosines = [nn.functional.cosine_similarity(one.float(), two.float(), dim=-1).mean() for one, two in pairs]
        return [1 - pooled_mean(torch.stack(cosines), [len(one) for one, _ in pairs]).cpu()]

    return torch.stack(Walk(title="block influence", batch=batch).run(model, influence))


def loss_without(model: LanguageModel, batch: Batch) -> Float[Tensor, " block"]:
    """Mean loss of the text when each block in turn hands on its input; log of the perplexity."""

    def loss(visit: Visit) -> list[Float[Tensor, ""]]:
        handle = visit.block.register_forward_hook(_pass_on, with_kwargs=True)
        try:
            losses, counts = sequence_losses(model, batch)
            return [pooled_mean(torch.stack(losses), counts).cpu()]
        finally:
            handle.remove()

    return torch.stack(Walk(title="loss without a block").run(model, loss))


def _pass_on(_block: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
    hidden = args[0] if args else kwargs["hidden_states"]
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
