"""Teacher's predictions kept on disk, reduced to the k most likely tokens of each place.

The teacher is asked once for each example; students of later jobs read its answers. An example is known by the digest
of its tokens and labels, so that batches carry no index, and neither their order nor their padding matters. Files:

    FOLDER/top8_t2_v512/<digest of the examples>.safetensors
        digests    [example 32]   SHA-256 of tokens and labels
        starts     [example + 1]  first place of each example, and the number of places at the end
        log_probs  [place k]      the teacher's highest log-probabilities at temperature 2, in fp32
        indices    [place k]      their tokens
        log_rest   [place]        log-probability of all other tokens together

A place is one that predicts a token: prompts and padding have none.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from slimsweep.atomic import whole_file
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.data.training import TrainingSet
from slimsweep.errors import TrainingError
from slimsweep.models.batches import IGNORED, Batch, to_device
from slimsweep.models.language_model import LanguageModel
from slimsweep.numerics.divergences import TopLogProbs, top_k_error_bound, top_k_forward_kl, top_log_probs
from slimsweep.numerics.log_likelihood import mean_nll
from slimsweep.progress import tracked
from slimsweep.techniques.training.objective import Objective

EXAMPLES_AT_ONCE = 16
"""Examples of one forward of the teacher."""
FORWARDS_OF_A_FILE = 16
LOSSES = ("hard", "soft")
"""Losses that need no more of a teacher than its most likely tokens."""


@dataclass(frozen=True)
class Places:
    """Places of one example in a file."""

    file: Path
    start: int
    end: int


class KeptLogits:
    """Top-k log-probabilities of a teacher, by example."""

    def __init__(self, folder: Path, k: int, temperature: int | float, vocabulary: int):
        """Open what is kept.

        Args:
            folder: Folder of one teacher. Each choice of the other arguments has its own subfolder.
            vocabulary: Size of the student's vocabulary. Further tokens of the teacher are padding and left out.
        """
        self.folder = folder / f"top{k}_t{temperature:g}_v{vocabulary}"
        self.k, self.temperature, self.vocabulary = k, float(temperature), vocabulary
        self.asked = 0
        """Examples that the teacher was asked for since this was opened."""
        self._files: dict[Path, Any] = {}
        self._places: dict[bytes, Places] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            self._read_index(file)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of all files that are open."""
        return sum(file.stat().st_size for file in self._files)

    def _read_index(self, file: Path) -> None:
        try:
            opened = safe_open(file, "pt")
            digests, starts = opened.get_tensor("digests"), opened.get_tensor("starts").tolist()
        except (SafetensorError, OSError):  # of another program, or damaged: its examples are asked for again
            return
        self._files[file] = opened
        for digest, start, end in zip(digests, starts, starts[1:], strict=False):
            self._places[digest.numpy().tobytes()] = Places(file, start, end)

    def fill(self, data: TrainingSet, teacher: Callable[[], LanguageModel]) -> None:
        """Ask the teacher for all examples that are not kept; it is made only if there are any.

        Raises:
            TrainingError: no disk for the files.
        """
        examples = [*data.training, *data.validation]
        absent = [
            index
            for start in range(0, len(examples), EXAMPLES_AT_ONCE)
            for index, digest in enumerate(digests_of(data.collate(examples[start : start + EXAMPLES_AT_ONCE])), start)
            if digest not in self._places
        ]
        if not absent:
            return
        model, at_once = teacher(), EXAMPLES_AT_ONCE * FORWARDS_OF_A_FILE
        for _, start in tracked(range(0, len(absent), at_once), "teacher's logits: file"):
            chosen = [examples[index] for index in absent[start : start + at_once]]
            self._keep(self._ask(model, data, chosen))
        self.asked += len(absent)

    @torch.no_grad()
    def _ask(self, teacher: LanguageModel, data: TrainingSet, examples: Sequence[Any]) -> dict[str, Tensor]:
        """Content of a file."""
        digests, counts, found = [], [], []
        for start in range(0, len(examples), EXAMPLES_AT_ONCE):
            batch = data.collate(examples[start : start + EXAMPLES_AT_ONCE])
            digests += digests_of(batch)
            batch = to_device(batch, teacher.compute_device)
            output = teacher.task.forward(teacher.module, batch)
            logits, labels = teacher.task.aligned(output.logits[..., : self.vocabulary], batch)
            counted = labels != IGNORED
            counts += counted.sum(dim=1).tolist()
            found.append(top_log_probs(logits[counted], self.k, self.temperature))
        return {
            "digests": torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, 32),
            "starts": functional.pad(torch.tensor(counts).cumsum(0), (1, 0)),
            "log_probs": torch.cat([one.log_probs.float() for one in found]).cpu(),
            "indices": torch.cat([one.indices.int() for one in found]).cpu(),
            "log_rest": torch.cat([one.log_rest.float() for one in found]).cpu(),
        }

    def _keep(self, content: dict[str, Tensor]) -> None:
        name = hashlib.sha256(content["digests"].numpy().tobytes()).hexdigest()[:32]
        file = self.folder / f"{name}.safetensors"
        try:
            with whole_file(file) as partial:
                save_file(content, partial)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"the teacher's logits cannot be kept in {self.folder} ({error}): free space, set a smaller "
                f"keep_top_k than {self.k}, or keep_top_k=null"
            ) from error
        self._read_index(file)

    def of(self, batch: Batch) -> TopLogProbs:
        """The teacher's log-probabilities at all places of a batch that predict a token, in a row."""
        parts = [self._places[digest] for digest in digests_of(batch)]
        tensors = [
            torch.cat([self._files[part.file].get_slice(name)[part.start : part.end] for part in parts])
            for name in ("log_probs", "indices", "log_rest")
        ]
        return TopLogProbs(*(one.to(batch["input_ids"].device) for one in tensors), self.temperature)


class KeptDistillation(Objective):
    """Weighted sum of the losses `hard` and `soft` of a student, whose teacher has answered before."""

    def __init__(self, weights: Mapping[str, int | float], kept: KeptLogits):
        self.weights, self.kept = weights, kept

    def loss(self, model: LanguageModel, batch: Batch) -> Float[Tensor, ""]:
        logits, labels = model.task.aligned(model.task.forward(model.module, batch).logits, batch)
        total = logits.new_zeros((), dtype=torch.float32)
        if weight := self.weights.get("hard"):
            total = total + weight * mean_nll(logits, labels, IGNORED)
        if weight := self.weights.get("soft"):
            places = logits[labels != IGNORED]
            everywhere = torch.ones(len(places), dtype=torch.bool, device=places.device)
            total = total + weight * top_k_forward_kl(places, self.kept.of(batch), everywhere)
        return total


@torch.no_grad()
def notes_of(kept: KeptLogits, model: LanguageModel, data: TrainingSet) -> dict[str, Any]:
    """Size and error of what is kept, measured on the validation examples with the student as it is."""
    bounds, rests, places = 0.0, 0.0, 0
    for start in range(0, len(data.validation), EXAMPLES_AT_ONCE):
        batch = to_device(data.collate(data.validation[start : start + EXAMPLES_AT_ONCE]), model.compute_device)
        logits, labels = model.task.aligned(model.task.forward(model.module, batch).logits, batch)
        logits, top = logits[labels != IGNORED], kept.of(batch)
        everywhere = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        bounds += float(top_k_error_bound(logits, top, everywhere)) * len(logits)
        rests += float(top.log_rest.exp().sum())
        places += len(logits)
    return {
        "k": kept.k,
        "bytes": kept.size_bytes,
        "asked_examples": kept.asked,
        "mean_rest_probability": rests / max(1, places),
        "soft_loss_missing_at_most": bounds / max(1, places),
    }


@contextmanager
def teacher_folder(context: StageContext) -> Iterator[Path]:
    """Folder for what the teacher predicts: the one that jobs share, else one that goes with the stage."""
    if context.teacher_dir is not None:
        yield context.teacher_dir
    elif context.work_dir is not None:
        yield context.work_dir / "teacher"
    else:
        with tempfile.TemporaryDirectory(prefix="slimsweep-teacher-") as folder:
            yield Path(folder)


def digests_of(batch: Batch) -> list[bytes]:
    """SHA-256 of each sequence of a batch, its labels included, whatever it is padded to."""
    columns = []
    for name, mask in (("input_ids", "attention_mask"), ("decoder_input_ids", "decoder_attention_mask")):
        if name in batch:
            keep = batch[mask].bool() if mask in batch else torch.ones_like(batch[name], dtype=torch.bool)
            columns.append([row[kept] for row, kept in zip(batch[name].cpu(), keep.cpu(), strict=True)])
    labels = batch.get("labels", batch["input_ids"]).cpu()
    places = torch.arange(1, labels.shape[1] + 1)
    ends = (places * (labels != IGNORED)).amax(dim=1).tolist()
    columns.append([row[:end] for row, end in zip(labels, ends, strict=True)])
    found = []
    for parts in zip(*columns, strict=True):
        digest = hashlib.sha256()
        for part in parts:
            digest.update(len(part).to_bytes(8, "little") + part.long().numpy().tobytes())
        found.append(digest.digest())
    return found
