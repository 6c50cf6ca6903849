"""Mix-in of techniques that solve a layer by columns with the inverse Hessian of its inputs: SparseGPT and GPTQ."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from slimsweep.blockwise.layer_method import InputStatistic
from slimsweep.numerics.column_solver import knob_faults
from slimsweep.numerics.hessian import FACTOR_BYTES, InverseFactor, factor_inverse, factor_name, gram


@dataclass(frozen=True, kw_only=True)
class HessianMethod(InputStatistic):
    """Statistic, factor and knobs of a solve by columns. Stands first among the bases."""

    statistic_name: ClassVar[str] = "gram"

    block_columns: int = 128
    """Columns solved together; the columns after them are corrected in one product, so it changes speed.

    A pruner chooses the mask of these columns together, which changes the result slightly; a multiple of m in n:m.
    A quantizer's result changes by rounding only."""
    damping_fraction: float | int = 0.01
    """Fraction of the Hessian's mean diagonal added to its diagonal, (0, 1]; ten times more where that fails."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "damping_fraction", float(self.damping_fraction))

    def _bad_values(self) -> list[str]:
        return [*super()._bad_values(), *knob_faults(self.block_columns, self.damping_fraction)]

    def statistic(self, inputs: Float[Tensor, "token in"]) -> Float[Tensor, "in in"]:
        """Hessian of the layer's squared output error, up to a factor."""
        return gram(inputs)

    def prepare(self, summed: Float[Tensor, "in in"]) -> Any:
        """Factor of the damped inverse Hessian, shared by all layers with this input."""
        return factor_inverse(summed, self.damping_fraction)

    @property
    def prepared_name(self) -> str:
        """Name of the factor, which jobs share."""
        return factor_name(self.damping_fraction)

    def to_tensors(self, prepared: Any) -> dict[str, Tensor]:
        """Tensors of a factor, for a file."""
        return prepared.to_tensors()

    def from_tensors(self, tensors: dict[str, Tensor]) -> Any:
        """Read a factor from its tensors."""
        return InverseFactor.from_tensors(tensors)

    def notes(self, prepared: Any) -> dict[str, Any]:
        """The damping, where it had to be raised."""
        raised = prepared.damping_fraction > self.damping_fraction
        return {"damping_raised": prepared.damping_fraction} if raised else {}

    def layer_bytes(self, shape: tuple[int, int]) -> int:
        return super().layer_bytes(shape) + FACTOR_BYTES * shape[1] ** 2
