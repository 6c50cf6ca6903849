"""Base of structured techniques: the ratio, the range of blocks, and the reports."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slimsweep.blockwise.removal_walk import Choice, reduce_blocks, units_of
from slimsweep.checks import flag_faults, is_whole_number, number_faults, refuse
from slimsweep.linear.base import packed_layers
from slimsweep.models import anatomy
from slimsweep.models.anatomy import HEADS, Units
from slimsweep.models.language_model import LanguageModel, parameter_count
from slimsweep.numerics import counts
from slimsweep.techniques.base import StageReport, Technique

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StructuredTechnique(Technique):
    """A technique that removes whole parts. A ratio is of what the model has when the stage begins.

    On the meta device the same parts go in number, the last ones: which ones does not change any count as long as
    all blocks have one shape.
    """

    ratio: float | int
    """Fraction of the units to remove, [0, 1)."""
    blocks: Sequence[int] | None = None
    """First and last block to remove from, counted from 0; null is the technique's own range."""

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

    def block_range(self, model: LanguageModel) -> range:
        """The blocks this stage removes from."""
        first, last = self.blocks or self.default_layers(len(model.blocks))
        return range(first, last + 1)

    def faults(self, skeleton: LanguageModel) -> list[str]:
        return self._packed_faults(skeleton) or self._range_faults(skeleton)

    def _packed_faults(self, skeleton: LanguageModel) -> list[str]:
        """Parts cannot be cut out of packed weights: groups, tables and outliers span them."""
        packed = packed_layers(skeleton.module)
        if not packed:
            return []
        kinds = ", ".join(sorted({layer.kind for layer in packed.values()}))
        return [
            f"{len(packed)} layers are packed already ({kinds}), and whole parts cannot be cut out of packed weights: "
            "put this stage before the quantizing one"
        ]

    def _range_faults(self, skeleton: LanguageModel) -> list[str]:
        blocks = len(skeleton.blocks)
        if self.blocks and self.blocks[1] >= blocks:
            return [f"blocks={list(self.blocks)} lie outside the model, whose blocks are 0 to {blocks - 1}"]
        chosen = self.block_range(skeleton)
        if self.blocks or (chosen and chosen[-1] < blocks):
            return []
        return [f"the default range leaves none of the {blocks} blocks: set blocks=[0,{blocks - 1}]"]

    @torch.no_grad()
    def apply(self, model: LanguageModel, token_ids: Int[Tensor, "sequence token"] | None, seed: int) -> StageReport:
        before, shape = parameter_count(model.module), anatomy.shape_of(model)
        details = self.reduce(model, token_ids, seed)
        after = parameter_count(model.module)
        notes = {
            "removed_parameters": before - after,
            "before": asdict(shape),
            "after": asdict(anatomy.shape_of(model)),
        }
        if before == after:
            notes["warning"] = "removed nothing: what was asked for is less than one whole unit"
            log.warning("%s %s", type(self).__name__, notes["warning"])
        return StageReport([], notes | {"details": details})

    @abstractmethod
    def reduce(
        self, model: LanguageModel, token_ids: Int[Tensor, "sequence token"] | None, seed: int
    ) -> list[dict[str, Any]]:
        """Remove parts in place; returns what is worth knowing of each place."""


@dataclass(frozen=True, kw_only=True)
class BlockwiseTechnique(StructuredTechnique):
    """A structured technique that removes heads or neurons within blocks, which may be repaired."""

    version: ClassVar[int] = 2

    repair: bool = False
    """Fit the columns that read the surviving units to the calibration text, by least squares."""

    def _bad_values(self) -> list[str]:
        return super()._bad_values() + flag_faults("repair", self.repair)

    @property
    def needs_calibration(self) -> bool:
        return self.looks or self.repair

    @property
    def looks(self) -> bool:
        """Whether `choose` needs the Gram matrix of the inputs of each reader."""
        return False

    @property
    @abstractmethod
    def kinds(self) -> tuple[str, ...]:
        """Kinds of units removed from each block, in order."""

    def plan(self, model: LanguageModel) -> dict[int, tuple[str, ...]]:
        """Kinds of units to remove by block."""
        return dict.fromkeys(self.block_range(model), self.kinds)

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
        units = [anatomy.heads(skeleton, index) for index in self.plan(skeleton)]
        if max(len(groups) for groups in units) > 1:
            return []
        head = "key/value head that all its query heads read" if units[0].members > 1 else "attention head"
        return [
            f"ratio={self.ratio:g}: nothing can be removed there, since each of {len(units)} blocks has one {head}, "
            "and it must stay: use qap or glu (neurons), llm_pruner (neurons or channels) or layers (whole blocks)"
        ]

    def _count_faults(self, skeleton: LanguageModel) -> list[str]:
        """Blocks in which no head or no neuron would be left, by kind."""
        if faults := self._lone_head_faults(skeleton):
            return faults
        for kind in self.kinds:
            sizes = {
                index: units_of(skeleton, kind, index) for index, kinds in self.plan(skeleton).items() if kind in kinds
            }
            empty = [index for index, units in sizes.items() if self.removed_count(units) >= len(units)]
            if empty:
                more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
                faults.append(
                    f"ratio={self.ratio:g} would leave none of the {len(sizes[empty[0]])} {kind} of block "
                    f"{empty[0]}{more}: give a smaller ratio"
                )
        return faults

    @abstractmethod
    def choose(self, index: int, units: Units, second_moment: Float[Tensor, "in in"] | None) -> Choice:
        """Choose the units of a block to remove; on the meta device any in the right number."""

    def reduce(
        self, model: LanguageModel, token_ids: Int[Tensor, "sequence token"] | None, seed: int
    ) -> list[dict[str, Any]]:
        title = type(self).__name__
        return reduce_blocks(model, self.plan(model), self.choose, token_ids, self.looks, self.repair, title)
