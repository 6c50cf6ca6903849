"""Mix-in of stages that learn from a frozen teacher."""

from dataclasses import dataclass
from typing import Any

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import choice_faults
from slimsweep.data.training import length_faults
from slimsweep.errors import TrainingError
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel
from slimsweep.techniques.training.base import logits_bytes

TEACHERS = ("base", "chain", "source")
LOSS_LOGITS = 4
"""Copies of the logits that a divergence keeps beside those of the student: the teacher's, and both as log-softmax."""
VOCABULARIES = (
    "teacher and student have different vocabularies ({}), so that their predictions cannot be compared token by "
    "token: choose a teacher with the student's tokenizer, or train on text that the teacher wrote "
    "(technique=finetune with data.path=FILE)"
)


@dataclass(frozen=True, kw_only=True)
class Teachers:
    """Knobs that choose the teacher: the base of the experiment (the dense model after the leading fine-tuning
    stages), the model of the chain before this stage, or another model."""

    teacher: str = "base"
    """`base`, `chain`, or `source`: the model in `teacher_path`."""
    teacher_path: str | None = None
    """Folder or GGUF file of a teacher that is another model, with the same tokenizer."""

    def teacher_faults(self) -> list[str]:
        """Faults of the two knobs."""
        faults = choice_faults("teacher", [self.teacher], TEACHERS)
        if (self.teacher == "source") != bool(self.teacher_path):
            faults.append(
                f"teacher={self.teacher} with teacher_path={self.teacher_path}: a path belongs to teacher=source"
            )
        return faults

    def data_faults(self, data: Any, source: Any, teacher: Any = None) -> list[str]:
        """A teacher whose tokens are others than the student's, or that takes fewer; found before weights are read."""
        tokens = getattr(data, "tokens", None)
        if teacher is not None and tokens and (faults := length_faults(teacher, "data.tokens", tokens)):
            return faults
        tokenizers = [one.tokenizer() for one in (source, teacher) if one is not None]
        if len(tokenizers) < 2 or None in tokenizers:
            return []
        found = _token_difference(*(one.get_vocab() for one in tokenizers))
        return [VOCABULARIES.format(found)] if found else []

    @property
    def asked_teacher(self) -> str | None:
        """The teacher as a stage's requirements name it."""
        if self.teacher != "source":
            return self.teacher
        return f"./{self.teacher_path}" if self.teacher_path in TEACHERS else self.teacher_path


def teacher_bytes(skeleton: LanguageModel, batch: Batch) -> int:
    """Predicted bytes of a teacher of this shape, and of what lies between two sets of logits."""
    weights = sum(one.nbytes for one in skeleton.module.parameters())
    return weights + LOSS_LOGITS * logits_bytes(skeleton, batch)


def frozen_teacher(context: StageContext, student: LanguageModel) -> LanguageModel:
    """The teacher of a stage, in eval mode and without gradients.

    Raises:
        TrainingError: its vocabulary is another than the student's.
    """
    teacher = context.teacher()
    if fault := vocabulary_fault(student, teacher):
        raise TrainingError(fault)
    teacher.module.requires_grad_(False).eval()
    return teacher


def vocabulary_fault(student: LanguageModel, teacher: LanguageModel) -> str | None:
    """Fault of models whose token ids mean different texts; None where they agree.

    Without both tokenizers, equal numbers of tokens count as agreement.
    """
    if student.tokenizer is not None and teacher.tokenizer is not None:
        found = _token_difference(student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab())
    else:
        mine, theirs = (one.config.get_text_config().vocab_size for one in (student, teacher))
        found = "" if mine == theirs else f"the student has {mine} tokens, the teacher {theirs}"
    return VOCABULARIES.format(found) if found else None


def _token_difference(mine: dict[str, int], theirs: dict[str, int]) -> str:
    """Words on the tokens in which two vocabularies differ; empty where they agree."""
    differ = sum(theirs.get(text) != token_id for text, token_id in mine.items())
    if not differ and len(mine) == len(theirs):
        return ""
    return f"{differ} of the student's {len(mine)} tokens have another id or none among the teacher's {len(theirs)}"
