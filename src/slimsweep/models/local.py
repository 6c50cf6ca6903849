"""Weights in a folder on disk."""

from dataclasses import dataclass
from pathlib import Path

from slimsweep.models.source import ModelSource
from slimsweep.paths import project_path


@dataclass(frozen=True, kw_only=True)
class LocalModel(ModelSource):
    """A folder as `save_pretrained` leaves it: config.json, *.safetensors, tokenizer files."""

    path: str | None = None
    """The folder; a relative one counts from the project root."""
    name: str = ""
    """Empty: the name of the folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name:
            object.__setattr__(self, "name", self.folder().name if self.path else "local")

    def folder(self) -> Path:
        return project_path(self.path or "")

    def faults(self) -> list[str]:
        if not self.path and not (self.shape and self.weights != "trained"):
            return ["model=local needs model.path=FOLDER, a folder with config.json and *.safetensors files."]
        return super().faults()
