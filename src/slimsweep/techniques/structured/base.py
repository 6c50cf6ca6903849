"""Bases of structured techniques: the ratio, the range of blocks, the plan on shapes alone, and the reports."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from slimsweep.blockwise.removal_walk import Choice, Choose, reduce_blocks
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import flag_faults, is_whole_number, number_faults, refuse
from slimsweep.linear.base import kinds_of, linear_forms
from slimsweep.models import anatomy
from slimsweep.models.anatomy import HEADS, Units, units_of
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel, parameter_count
from slimsweep.models.skeleton import Skeleton
from slimsweep.numerics import counts
from slimsweep.techniques.base import Requirements, StageReport, Technique

log = logging.getLogger(__name__)

SHORT_STACK = 2
"""Blocks of a stack that has no inner ones, so that a default range would leave none."""


@dataclass(frozen=True, kw_only=True)
class PartRemoval(ABC):
    """Mix-in of a technique that removes whole parts. A ratio is of what the model has when the stage begins.

    A plan removes as many parts, the last ones: which ones does not change any count as long as all blocks have one
    shape. Stands before Technique among the bases.
    """

    ratio: float | int
    """Fraction of the units to remove, [0, 1)."""
    blocks: Sequence[int] | None = None
    """First and last block of each stack to remove from, counted from 0; null is the technique's own range."""

    def __post_init__(self) -> None:
        if isinstance(self.blocks, list | tuple):
            object.__setattr__(self, "blocks", tuple(self.blocks))
        refuse(self._bad_values())
        if self.ratio is not None:
            object.__setattr__(self, "ratio", float(self.ratio))

    def _bad_values(self) -> list[str]:
        """Every field that holds what is not allowed."""
        faults = self._ratio_faults()
        given = self.blocks
        if given is not None and not (
            isinstance(given, tuple)
            and len(given) == 2
            and all(map(is_whole_number, given))
            and 0 <= given[0] <= given[1]
        ):
            faults.append(f"blocks={given!r}: give the first and the last block, such as [4,27]")
        return faults

    def _ratio_faults(self) -> list[str]:
        return number_faults("ratio", self.ratio, "[0, 1)", "the fraction of units to remove")

    def default_layers(self, blocks: int) -> tuple[int, int]:
        """First and last block where `blocks` is null."""
        return 0, blocks - 1

    def block_range(self, model: LanguageModel) -> list[int]:
        """The blocks this stage removes from; without a range of the user's, all of a stack of two or fewer."""
        chosen: list[int] = []
        for stack in model.stack_ranges:
            own = self.default_layers(len(stack)) if len(stack) > SHORT_STACK else (0, len(stack) - 1)
            first, last = self.blocks or own
            chosen += stack[first : last + 1]
        return chosen

    def faults(self, skeleton: LanguageModel) -> list[str]:
        return self._form_faults(skeleton) or self._range_faults(skeleton)

    def _form_faults(self, skeleton: LanguageModel) -> list[str]:
        """Parts can be cut out of plain weights only: groups, tables, outliers and factors span them."""
        forms = linear_forms(skeleton.module)
        if not forms:
            return []
        return [
            f"{len(forms)} layers are stored as {kinds_of(forms)}, and whole parts can be cut out of plain weights "
            "only: put this stage before the one that stores them so"
        ]

    def _range_faults(self, skeleton: LanguageModel) -> list[str]:
        blocks = min(len(stack) for stack in skeleton.stack_ranges)
        if self.blocks and self.blocks[1] >= blocks:
            where = "the model" if len(skeleton.stack_ranges) == 1 else "the shorter stack"
            return [f"blocks={list(self.blocks)} lie outside {where}, whose blocks are 0 to {blocks - 1}"]
        if self.blocks or self.block_range(skeleton):
            return []
        return [f"the default range leaves none of the {blocks} blocks: set blocks=[0,{blocks - 1}]"]

    @torch.no_grad()
    def apply(self, model: LanguageModel, context: StageContext) -> StageReport:
        """Remove parts in place."""
        return self._reported(model, lambda: self.reduce(model, context))

    @torch.no_grad()
    def plan(self, skeleton: Skeleton) -> StageReport:
        """Remove as many parts, the last ones."""
        return self._reported(skeleton, lambda: self.plan_removal(skeleton))

    def _reported(self, model: LanguageModel, remove: Callable[[], list[dict[str, Any]]]) -> StageReport:
        """Report what a removal did to the parameters and the shape of a model."""
        before, shape = parameter_count(model.module), anatomy.shape_of(model)
        details = remove()
        after = parameter_count(model.module)
        notes = {
            "removed_parameters": before - after,
            "before": shape.as_plain(),
            "after": anatomy.shape_of(model).as_plain(),
        }
        if before == after:
            notes["warning"] = "removed nothing: what was asked for is less than one whole unit"
            log.warning("%s %s", type(self).__name__, notes["warning"])
        return StageReport([], notes | {"details": details})

    @abstractmethod
    def reduce(self, model: LanguageModel, context: StageContext) -> list[dict[str, Any]]:
        """Remove parts in place; returns what is worth knowing of each place."""

    @abstractmethod
    def plan_removal(self, skeleton: Skeleton) -> list[dict[str, Any]]:
        """Remove as many parts from a skeleton, the last ones; returns what is known of each place."""


@dataclass(frozen=True, kw_only=True)
class UnitRemoval(PartRemoval):
    """Mix-in of a technique that removes heads or neurons within blocks, which may be repaired."""

    version: ClassVar[int] = 2

    repair: bool = False
    """Fit the columns that read the surviving units to the calibration text, by least squares."""

    def _bad_values(self) -> list[str]:
        return super()._bad_values() + flag_faults("repair", self.repair)

    @property
    @abstractmethod
    def kinds(self) -> tuple[str, ...]:
        """Kinds of units removed from each block, in order."""

    def kinds_by_block(self, model: LanguageModel) -> dict[int, tuple[str, ...]]:
        """Kinds of units to remove by block."""
        return {index: self._kinds_of_block(model, index) for index in self.block_range(model)}

    def _kinds_of_block(self, model: LanguageModel, index: int) -> tuple[str, ...]:
        """Kinds of units that a block has: its heads are those of self-attention and of cross-attention."""
        own = {HEADS: anatomy.head_kinds(model, index)}
        return tuple(part for kind in self.kinds for part in own.get(kind, (kind,)))

    def removed_count(self, units: Units) -> int:
        """Number of units to remove from a block."""
        return counts.unit_drop_count(self.ratio, units.reader.index.numel(), len(units))

    def faults(self, skeleton: LanguageModel) -> list[str]:
        return super().faults(skeleton) or self._alibi_faults(skeleton) or self._count_faults(skeleton)

    def _alibi_faults(self, skeleton: LanguageModel) -> list[str]:
        """One line where heads may go, and a table for all blocks gives each head its position slope."""
        if not self.ratio or HEADS not in self.kinds or not skeleton.has_alibi:
            return []
        return [
            "heads cannot be removed from this model: each has a position slope of its own (ALiBi), in one table for "
            "all blocks. Use qap with parts=[neurons], llm_pruner with level=channel, or layers (whole blocks)"
        ]

    def _lone_head_faults(self, skeleton: LanguageModel) -> list[str]:
        """One line where only heads may go and each block has a single key/value head, which must stay."""
        if not self.ratio or self.kinds != (HEADS,):
            return []
        units = [
            units_of(skeleton, kind, index) for index, kinds in self.kinds_by_block(skeleton).items() for kind in kinds
        ]
        if max(len(groups) for groups in units) > 1:
            return []
        blocks = len(self.block_range(skeleton))
        head = "key/value head that all its query heads read" if units[0].members > 1 else "attention head"
        return [
            f"ratio={self.ratio:g}: nothing can be removed there, since each of {blocks} blocks has one {head}, "
            "and it must stay: use qap or glu (neurons), llm_pruner (neurons or channels) or layers (whole blocks)"
        ]

    def _count_faults(self, skeleton: LanguageModel) -> list[str]:
        """Blocks in which no head or no neuron would be left, by kind."""
        if faults := self._lone_head_faults(skeleton):
            return faults
        for kind in dict.fromkeys(kind for kinds in self.kinds_by_block(skeleton).values() for kind in kinds):
            sizes = {
                index: units_of(skeleton, kind, index)
                for index, kinds in self.kinds_by_block(skeleton).items()
                if kind in kinds
            }
            empty = [index for index, units in sizes.items() if self.removed_count(units) >= len(units)]
            if empty:
                more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
                faults.append(
                    f"ratio={self.ratio:g} would leave none of the {len(sizes[empty[0]])} {kind} of block "
                    f"{empty[0]}{more}: give a smaller ratio"
                )
        return faults

    def remove_chosen(self, model: LanguageModel, choose: Choose, batch: Batch | None) -> list[dict[str, Any]]:
        """Remove what `choose` names, block by block, with repair; text is given where the Gram matrix is needed."""
        title = type(self).__name__
        return reduce_blocks(model, self.kinds_by_block(model), choose, batch, self.repair, title)


@dataclass(frozen=True, kw_only=True)
class BlockwiseTechnique(UnitRemoval, Technique):
    """A technique that chooses heads or neurons to remove block by block: a subclass writes `kinds` and `choose`."""

    @property
    def requirements(self) -> Requirements:
        return Requirements(calibration=self.looks or self.repair)

    @property
    def looks(self) -> bool:
        """Whether `choose` needs the Gram matrix of the inputs of each reader."""
        return False

    @abstractmethod
    def choose(self, index: int, units: Units, second_moment: Float[Tensor, "in in"] | None) -> Choice:
        """Choose the units of a block to remove."""

    def reduce(self, model: LanguageModel, context: StageContext) -> list[dict[str, Any]]:
        return self.remove_chosen(model, self.choose, context.batches if self.requirements.calibration else None)

    def plan_removal(self, skeleton: Skeleton) -> list[dict[str, Any]]:
        return self.remove_chosen(skeleton, lambda _, units, __: last_units(units, self.removed_count(units)), None)


def last_units(units: Units, count: int) -> Choice:
    """The last units of a block, for plans."""
    return Choice(range(len(units) - count, len(units)))


def last_first(units: Units) -> Float[Tensor, " unit"]:
    """Made-up scores for plans, by which the last unit goes first."""
    return -torch.arange(len(units), dtype=torch.float32)
