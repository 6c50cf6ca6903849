"""Outcomes of a measurement as a file beside it: compressed arrays by field, which nothing unpickles."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from slimsweep.atomic import whole_file
from slimsweep.errors import StoreError
from slimsweep.evaluation.outcomes import Outcomes


def write(path: Path, outcomes: dict[str, Outcomes]) -> None:
    """Write the values of some outcomes, whole.

    Raises:
        StoreError: the folder cannot be written or the disk is full.
    """
    try:
        with whole_file(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **{field: one.values for field, one in outcomes.items()})
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}. Free space or choose outputs_dir=FOLDER") from error


def described(outcomes: dict[str, Outcomes]) -> dict[str, dict[str, Any]]:
    """Part of the outcomes that stands in the measurement's own file, by field."""
    return {field: {"aggregate": one.aggregate, "items": one.items} for field, one in outcomes.items()}


def read(path: Path, told: dict[str, dict[str, Any]]) -> dict[str, Outcomes]:
    """Outcomes by field, of which `described` told; none where the file is missing.

    Raises:
        StoreError: the file is damaged.
    """
    if not told or not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {field: Outcomes(arrays[field], **about) for field, about in told.items()}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(
            f"{path} is damaged ({error}): remove it and {path.with_suffix('.json')}, and run again"
        ) from error
