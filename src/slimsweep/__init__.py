"""Sweeps of LLM compression: how small can a language model become, by which technique, at what cost?"""

import importlib
from typing import Any

__version__ = "0.2.0"


def load(folder: Any, dtype: Any = None, device: Any = "cpu") -> Any:
    """A model that `slimsweep` saved, whatever its widths, as a transformers module; see models/storage."""
    from slimsweep.models.storage import saved_model  # not above: the commands' --help does not wait for torch

    return saved_model.load(folder, dtype, device)


def compress(model: Any, technique: Any, ratio: float | None = None, calibration: Any = None, **settings: Any) -> Any:
    """Compress a transformers module, a named model or a folder by one technique or a chain; see `slimsweep.api`."""
    from slimsweep import api

    return api.compress(model, technique, ratio, calibration, **settings)


def __getattr__(name: str) -> Any:
    """The room of records, which is a function too: `slimsweep.records(...)` reads records as a pandas frame."""
    if name != "records":
        raise AttributeError(f"module 'slimsweep' has no attribute {name!r}")
    return importlib.import_module("slimsweep.records")
