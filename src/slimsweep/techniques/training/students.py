"""Mix-in of stages whose student has only some of the blocks of the model that it begins as."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slimsweep.checks import choice_faults, is_whole_number
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.surgery import remove_blocks

CHOICES = ("every_second", "first_half")


@dataclass(frozen=True, kw_only=True)
class StudentBlocks:
    """The knob that chooses the blocks of a student. Stands before Training among the bases."""

    blocks: str | Sequence[int] | None = None
    """Blocks that the student keeps: `every_second`, `first_half` or their numbers from 0; null keeps all."""

    def student_faults(self) -> list[str]:
        """Faults of the knob by itself."""
        return [] if self.blocks is None or _is_list(self.blocks) else choice_faults("blocks", [self.blocks], CHOICES)

    def block_faults(self, skeleton: LanguageModel) -> list[str]:
        """Faults of the knob on a model of this shape."""
        count, faults = len(skeleton.blocks), []
        if _is_list(self.blocks) and not (self.blocks and all(0 <= one < count for one in self.blocks)):
            faults.append(f"blocks={list(self.blocks)}: this model has the blocks 0 to {count - 1}")
        if self.blocks is not None and skeleton.family.encoder is not None:
            faults.append(
                "blocks chooses blocks of one stack, and this model has an encoder and a decoder: set blocks=null"
            )
        return faults

    def shape_student(self, model: LanguageModel) -> None:
        """Remove the blocks that the student does not keep."""
        if self.blocks is not None:
            kept = kept_blocks(self.blocks, len(model.blocks))
            remove_blocks(model, [index for index in range(len(model.blocks)) if index not in kept])


def kept_blocks(blocks: str | Sequence[int], count: int) -> list[int]:
    """Numbers of the blocks that a student keeps; the last of a pair, so that the last block stays."""
    if blocks == "every_second":
        return list(range(count - 1, -1, -2))[::-1]
    if blocks == "first_half":
        return list(range((count + 1) // 2))
    return sorted(set(blocks))


def _is_list(blocks: Any) -> bool:
    return isinstance(blocks, Sequence) and not isinstance(blocks, str) and all(map(is_whole_number, blocks))
