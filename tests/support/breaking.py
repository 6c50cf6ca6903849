"""A technique of another package, and one that breaks half-way: what a sweep must survive."""

from dataclasses import dataclass

from slimsweep.techniques.pruning.magnitude import Magnitude


@dataclass(frozen=True, kw_only=True)
class Breaking(Magnitude):
    """Fails while it compresses, as a bug or a full memory would."""

    def apply(self, model, context):
        raise RuntimeError("broke half-way\nsecond line")
