"""Base of pruners of other packages: they walk the model themselves, and our evaluator measures them."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from slimsweep.blockwise.walk import PROPAGATIONS
from slimsweep.linear.base import has_single_weights, is_plain
from slimsweep.linear.orientation import is_transposed
from slimsweep.models.language_model import LanguageModel
from slimsweep.numerics.column_solver import knob_faults
from slimsweep.techniques.base import Requirements, Technique
from slimsweep.techniques.pruning.base import PruningCounts


@dataclass(frozen=True, kw_only=True)
class PeerPruner(PruningCounts, Technique):
    """A pruner of another package, with SparseGPT's knobs.

    No package tells its mask: every zero of a layer after its run counts as removed.
    """

    version: ClassVar[int] = 2

    known_inputs: ClassVar[tuple[str, ...]] = (
        PROPAGATIONS  # those that the package lacks are refused below, by its name
    )
    package: ClassVar[str]
    """Its name in messages."""

    block_columns: int = 128
    """SparseGPT: columns whose mask is chosen together."""
    damping_fraction: float | int = 0.01
    """SparseGPT: fraction of the Hessian's mean diagonal added to its diagonal."""

    def _bad_values(self) -> list[str]:
        only = {"relative_to": "original", "inputs": "compressed"}
        faults = [*super()._bad_values(), *knob_faults(self.block_columns, self.damping_fraction)]
        return faults + [
            f"{name}={getattr(self, name)!r}: {self.package} has only {value}"
            for name, value in only.items()
            if getattr(self, name) != value
        ]

    @property
    def mask_structure(self) -> str:
        """The pattern as both packages write it: how many of m are removed, where ours says how many stay."""
        if not self.group:
            return "0:0"
        kept, size = self.group
        return f"{size - kept}:{size}"

    def faults(self, skeleton: LanguageModel) -> list[str]:
        faults = [*super().faults(skeleton), *dense_faults(self.targets(skeleton), self.package)]
        return faults + stack_faults(skeleton, self.package)

    @property
    def requirements(self) -> Requirements:
        return Requirements(calibration=True)

    def units(self, rows: int, columns: int) -> list[tuple[int, int]]:
        step = self.block_columns
        return [(1, rows * (min(start + step, columns) - start)) for start in range(0, columns, step)]

    @property
    def drops_threshold(self) -> bool:
        """True if the weight at the threshold goes too, one more in every unit, as in SparseGPT of both packages."""
        return not self.group

    def _planned(self, shape: tuple[int, int], zeros: int) -> int:
        return super()._planned(shape, zeros) + (len(self.units(*shape)) if self.drops_threshold else 0)


def stack_faults(skeleton: LanguageModel, package: str) -> list[str]:
    """One fault of a model that has more than one stack of blocks."""
    if len(skeleton.stack_ranges) == 1:
        return []
    return [
        f"{package} is run on models of one stack of blocks, and this one has an encoder and a decoder: use our own "
        "techniques, such as technique=sparsegpt or technique=gptq"
    ]


def dense_faults(targets: dict[str, nn.Module], package: str) -> list[str]:
    """Layers that another package does not treat: packed ones, and GPT-2's Conv1D.

    Layers without single weights are refused earlier, by the faults of LayerTargets.
    """
    faults = []
    if packed := [name for name, layer in targets.items() if not is_plain(layer) and has_single_weights(layer)]:
        faults.append(f"{package} cannot work on packed weights: put it before the quantizer ({packed[0]}, ...)")
    if others := [name for name, layer in targets.items() if is_transposed(layer)]:
        faults.append(f"{package} treats torch's linear layers only; these are none: {others[0]}, ...")
    return faults
