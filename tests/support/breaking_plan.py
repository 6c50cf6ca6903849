"""A technique that raises while it is planned on shapes alone."""

from dataclasses import dataclass

from slimsweep.techniques.pruning.magnitude import Magnitude


@dataclass(frozen=True, kw_only=True)
class BreakingPlan(Magnitude):
    """Fails in the check before weights load, as a bug would."""

    def plan(self, skeleton):
        raise RuntimeError("no plan for this")
