"""Weights on disk: in a folder, or in a GGUF file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimsweep.errors import ModelError
from slimsweep.models.sources import gguf_file
from slimsweep.models.sources.base import ModelSource, tokenizer_of
from slimsweep.models.sources.tokenizer_digest import tokenizer_digest
from slimsweep.models.storage import checkpoint
from slimsweep.paths import project_path


@dataclass(frozen=True, kw_only=True)
class LocalModel(ModelSource):
    """A folder as `save_pretrained` leaves it (config.json, *.safetensors, tokenizer files), or a GGUF file.

    A GGUF file is converted once to fp32 safetensors in `cache_dir`, as transformers reads it.
    """

    path: str | None = None
    """The folder or the .gguf file; a relative path counts from the project root."""
    tokenizer_path: str | None = None
    """Folder of a tokenizer to use instead of the one beside the weights or in the GGUF file."""
    name: str = ""
    """Empty: the name of the folder or file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name:
            path = project_path(self.path or "")
            name = path.stem if self._gguf() else path.name
            object.__setattr__(self, "name", name if self.path else "local")

    @property
    def described_baseline(self) -> str:
        """The knob; of a GGUF file, what its weights were quantized to."""
        if self.baseline or self.weights != "trained" or (file := self._gguf()) is None:
            return self.baseline
        return gguf_file.baseline(file, Path(self.cache_dir))

    def folder(self) -> Path:
        if (file := self._gguf()) is None:
            return project_path(self.path or "")
        if fault := gguf_file.fault(file):
            raise ModelError(fault)
        return gguf_file.converted(file, Path(self.cache_dir))

    def light_folder(self) -> Path:
        file = self._gguf()
        return (
            self.folder() if file is None or gguf_file.fault(file) else gguf_file.described(file, Path(self.cache_dir))
        )

    def _gguf(self) -> Path | None:
        """The GGUF file; None where the path is a folder."""
        path = project_path(self.path or "")
        return path if path.suffix.lower() == ".gguf" and not path.is_dir() else None

    def digest(self) -> str:
        """SHA-256 of the files, before a GGUF file is converted, and of the tokenizer where one is given."""
        file = self._gguf()
        if file and self.weights == "trained":
            digest = gguf_file.digest(file, Path(self.cache_dir))
        else:
            digest = super().digest()
        if not self.tokenizer_path or self.weights != "trained":
            return digest
        return checkpoint.json_digest([digest, tokenizer_digest(self.tokenizer())])

    def tokenizer(self) -> Any:
        if self.tokenizer_path and self.weights == "trained":
            return tokenizer_of(str(project_path(self.tokenizer_path)), self.trust_remote_code)
        return super().tokenizer()

    def faults(self) -> list[str]:
        if not self.path and not (self.shape and self.weights != "trained"):
            return [
                "model=local needs model.path=FOLDER, a folder with config.json and *.safetensors files, or "
                "model.path=FILE.gguf."
            ]
        return super().faults()

    def _folder_faults(self) -> list[str]:
        if self.tokenizer_path and not project_path(self.tokenizer_path).is_dir():
            return [f"model.tokenizer_path={self.tokenizer_path} is no folder; give one with tokenizer.json."]
        file = self._gguf()
        faults = [] if file and gguf_file.is_unconverted(file, Path(self.cache_dir)) else super()._folder_faults()
        if file is None:
            files = sorted(project_path(self.path or "").glob("*.gguf"))
            hint = (
                f"The folder holds {files[0].name}: set model.path={self.path}/{files[0].name} to read it."
                if files
                else ""
            )
            return [*faults, hint] if faults and hint else faults
        fault = None if faults or self.tokenizer_path else gguf_file.tokenizer_fault(self.tokenizer(), file)
        return [fault] if fault else faults
