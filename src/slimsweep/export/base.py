"""Base of export formats.

A format is one file of this folder with one class that inherits `Format`. The file's stem is its word on the command
line. Its options are the fields of the class, given as KEY=VALUE: `slim export KEY --to gguf --output F type=Q8_0`.

The order of an export (`writing.py`): `faults` on shapes alone, the model is made again, `faults` on the model,
`write` into an empty folder, record.json beside it, `verify` in a new process. Only then the folder takes its name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from slimsweep.linear.mask import MASKS_FILE
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel

WEIGHTS = (".safetensors", ".gguf", ".onnx", ".data")
"""Suffixes of files that hold weights."""
RECORD_KEY = "slimsweep.record"
"""Key under which a file with metadata of its own (GGUF, ONNX) holds the record as one JSON string."""


def weight_files(folder: Path) -> list[Path]:
    """Files of an export that hold its weights. Masks beside them are left out: a program needs none to run."""
    return sorted(file for file in folder.iterdir() if file.suffix in WEIGHTS and file.name != MASKS_FILE)


@dataclass(frozen=True)
class Sample:
    """A short input, and the logits that the model gave for it before it was exported."""

    batch: Batch
    """Arguments of one forward: `input_ids` [1 token], and those of a decoder that reads an encoder."""
    logits: Float[Tensor, "1 *token vocabulary"]
    """fp32, computed in fp32 whatever the dtype of the model; of a classifier [1 label]."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """Everything that a format may write."""

    model: LanguageModel
    """Compressed model with its tokenizer (`model.tokenizer`), on the CPU; must not be changed."""
    record: dict[str, Any]
    """Its record, with an entry `export` that names the format and its options."""
    calibration: Callable[[], Batch]
    """Draw the calibration sequences of the record's job; read only where a format needs them."""


@dataclass(frozen=True, kw_only=True)
class Format(ABC):
    """One export format; its options are its fields."""

    summary: ClassVar[str]
    """Short text for help and docs: what is written, and which program reads it."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Import names of optional packages that it needs; the extra `export` of the project installs them."""

    @property
    def name(self) -> str:
        """Word on the command line: the stem of its file, with `-` for `_`."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")

    @property
    def reads_calibration(self) -> bool:
        """Whether `write` draws the calibration sequences, whose faults must be found before weights load."""
        return False

    @abstractmethod
    def faults(self, model: LanguageModel) -> list[str]:
        """Reasons why this format cannot express a model, each with what would work; empty where it can.

        Called twice: before weights load, with a skeleton and its tokenizer, and then with the model itself.
        """

    @abstractmethod
    def write(self, content: Content, folder: Path) -> None:
        """Write all files into an empty folder; record.json is added by the caller.

        Raises:
            ExportError: the model cannot be written, in a way that its shapes do not show.
        """

    @abstractmethod
    def verify(self, folder: Path, sample: Sample) -> list[str]:
        """Load the folder as its users do, compare with the sample; returns lines that tell what was compared.

        Runs in a new process that has only the folder and the sample.

        Raises:
            ExportError: it does not load, or computes something else.
        """

    @abstractmethod
    def read(self, folder: Path, model: LanguageModel) -> LanguageModel:
        """A model that computes with the weights of the files, to measure their quality.

        Args:
            model: the model that was written; it may be changed.
        """

    @abstractmethod
    def weight_bytes(self, folder: Path) -> int:
        """Bytes of all weights in the files, as they are stored."""
