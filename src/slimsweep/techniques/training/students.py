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
    """Blocks that the student keeps: `every_second` or `first_half` of each stack, or their numbers from 0, those of an
    encoder before those of its decoder; null keeps all."""

    def student_faults(self) -> list[str]:
        """Faults of the knob by itself."""
        return [] if self.blocks is None or _is_list(self.blocks) else choice_faults("blocks", [self.blocks], CHOICES)

    def block_faults(self, skeleton: LanguageModel) -> list[str]:
        """Faults of the knob on a model of this shape."""
        count = len(skeleton.blocks)
        if not _is_list(self.blocks):
            return []
        if not (self.blocks and all(0 <= one < count for one in self.blocks)):
            return [f"blocks={list(self.blocks)}: this model has the blocks 0 to {count - 1}"]
        if all(set(of_stack) & set(self.blocks) for of_stack in skeleton.stack_ranges):
            return []
        stacks = " and ".join(f"{of_stack[0]} to {of_stack[-1]}" for of_stack in skeleton.stack_ranges)
        return [f"blocks={list(self.blocks)}: keep some of each stack; they have the blocks {stacks}"]

    def shape_student(self, model: LanguageModel) -> None:
        """Remove the blocks that the student does not keep."""
        if self.blocks is None:
            return
        if _is_list(self.blocks):
            kept = set(self.blocks)
        else:
            kept = {of_stack[one] for of_stack in model.stack_ranges for one in kept_blocks(self.blocks, len(of_stack))}
        remove_blocks(model, [index for index in range(len(model.blocks)) if index not in kept])


def kept_blocks(blocks: str, count: int) -> list[int]:
    """Numbers of the blocks of one stack that a student keeps; the last of a pair, so that the last block stays."""
    if blocks == "every_second":
        return list(range(count - 1, -1, -2))[::-1]
    return list(range((count + 1) // 2))


def _is_list(blocks: Any) -> bool:
    return isinstance(blocks, Sequence) and not isinstance(blocks, str) and all(map(is_whole_number, blocks))
