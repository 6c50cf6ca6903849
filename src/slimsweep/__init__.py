"""Sweeps of LLM compression: how small can a language model become, by which technique, at what cost?"""

from typing import Any

__version__ = "0.1.0"


def load(folder: Any, dtype: Any = None, device: Any = "cpu") -> Any:
    """A model that `slimsweep` saved, whatever its widths, as a transformers module; see models/storage."""
    from slimsweep.models.storage import saved_model  # not above: the commands' --help does not wait for torch

    return saved_model.load(folder, dtype, device)
