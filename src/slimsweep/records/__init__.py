"""Records on disk, and what is read from them: points, tables, comparisons.

Pictures lie in figures/; nothing here needs a model.
"""

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """This package, called: `slimsweep.records("unstructured")`."""

    def __call__(self, sweeps: Any = None, outputs: Any = None) -> Any:
        from slimsweep.records.frame import read

        return read(sweeps, outputs)


sys.modules[__name__].__class__ = _Room
