"""Folders of the project: found from this file, never from the working directory."""

import os
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parents[1]


def is_checkout() -> bool:
    """Whether this package runs from a checkout (editable install) and not from a wheel."""
    return (_CHECKOUT / "conf" / "config.yaml").is_file() and (_CHECKOUT / "sweeps").is_dir()


def config_root() -> Path:
    """Folder that holds `conf/`, `sweeps/` and `records/`: the checkout, or the package in an installed wheel."""
    return _CHECKOUT if is_checkout() else _PACKAGE


def project_root() -> Path:
    """Folder that relative `outputs_dir` and `data_dir` count from: the checkout, else the working directory."""
    return _CHECKOUT if is_checkout() else Path.cwd()


def project_path(path: str | Path) -> Path:
    """`path` as an absolute path; a relative one counts from the project root, `~` is the home folder."""
    return project_root() / Path(path).expanduser()


def outputs_dir() -> Path:
    """Output folder of commands that read records: environment SLIMSWEEP_OUTPUTS, else `outputs`."""
    return project_path(os.environ.get("SLIMSWEEP_OUTPUTS") or "outputs")


@dataclass(frozen=True)
class OwnFolders:
    """Folders of the user that a job has read, and that no record names."""

    data_dir: Path | None = None
    """Local copies of corpora."""
    config_dir: Path | None = None
    """YAML files of choices beside those of the project: the folder of `--config-dir`."""


NO_FOLDERS = OwnFolders()
"""Folders of a job that was launched without any."""


STANDS_FOR = "stands_for"
"""Link in the throwaway cache of a dry run to the cache that it stands for."""


def lasting_cache(cache_dir: Path) -> Path:
    """The cache that a throwaway one stands for; any other cache itself."""
    link = cache_dir / STANDS_FOR
    return link.resolve() if link.is_symlink() else cache_dir
