"""Store linear layers as products of two thin matrices, by singular values.

All variants are one formula. Let S weigh the inputs, and U hold the first left singular vectors of W S:

    plain        S = I                   smallest error of W
    activation   S = diag(s^alpha)       s: mean magnitude of each input (ASVD)
    whitened     S S^T = X^T X           smallest error of the outputs X W^T (SVD-LLM)

    W S = U Sigma V^T   =>   W' = U_r Sigma_r V_r^T S^-1 = U_r U_r^T W

The papers compute the middle form. The last form needs no inverse of S. So an input that is never active is no special
case: its column is projected on the outputs that the other inputs need.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimsweep.blockwise.layer_method import InputStatistic
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import choice_faults, number_faults
from slimsweep.linear.base import LinearForm, is_plain
from slimsweep.linear.low_rank import LowRankLinear
from slimsweep.linear.mask import removed as removed_of
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.numerics import counts
from slimsweep.numerics.hessian import FACTOR_BYTES, InverseFactor, factor_inverse, factor_name, gram
from slimsweep.numerics.low_rank import projection_factors
from slimsweep.techniques.base import StageReport, Technique
from slimsweep.techniques.layer_names import format_layer_names
from slimsweep.techniques.layerwise import Form, LayerWalk

VARIANTS = ("plain", "activation", "whitened")
SVD_BYTES = 64
"""For each number of a weight while it is factored: fp64 copies, vectors and LAPACK's workspace."""
PLANNED = (
    "ranks by energy depend on the weights: the plan has the largest ranks at which factors are smaller than the weight"
)


@dataclass(frozen=True, kw_only=True)
class SVD(InputStatistic, LayerWalk, Technique):
    """Replace each weight W [out in] by B A with B [out rank] and A [rank in].

    With a ratio the rank is floor((1 - ratio) * out * in / (out + in)), at least 1. With `energy` it is the smallest
    that keeps this fraction of the squared singular values of W S. A layer whose factors would be no smaller than its
    weight stays as it is, which is exact; so does every layer at ratio 0. Any other ratio starts at the rank where both
    hold equally many numbers: half of the full rank for a square layer.

    The record notes the `rank` of each layer and the layers that were `left_dense`. `refilled_zeros` counts weights
    that an earlier stage removed and the factors fill again.

    Source: `activation` is the absolute mean of arXiv:2312.05821, without its search for ranks; `whitened` is
        arXiv:2403.07378, sec. 3.1, with a damped X^T X, and without its update of parameters.
    """

    ratio: float | int | None
    """Fraction of each layer's parameters to remove, [0, 1); null where `energy` is given."""
    energy: float | int | None = None
    """Fraction of the squared singular values to keep, (0, 1], instead of a ratio."""
    variant: str = "whitened"
    """`plain`, of the weight alone; `activation` or `whitened`, which look at calibration text."""
    alpha: float | int = 0.5
    """Power of an input's mean magnitude in `activation`, at least 0; 0 is `plain`."""
    damping_fraction: float | int = 0.01
    """Fraction of the mean diagonal of X^T X added to its diagonal in `whitened`, (0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.energy is not None:
            object.__setattr__(self, "ratio", None)
        for name in ("ratio", "energy", "alpha", "damping_fraction"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values()
        if self.energy is None:
            faults += number_faults("ratio", self.ratio, "[0, 1)", "the fraction of parameters to remove")
        else:
            faults += number_faults("energy", self.energy, "(0, 1]", "the fraction of squared singular values to keep")
        faults += choice_faults("variant", [self.variant], VARIANTS)
        faults += number_faults("alpha", self.alpha, "[0, inf)")
        return [*faults, *number_faults("damping_fraction", self.damping_fraction, "(0, 1]", "no percentage")]

    def _form_faults(self, skeleton: LanguageModel) -> list[str]:
        """Targeted layers that hold no plain weight: codes would become larger, and factors stay factors."""
        forms = {name: layer for name, layer in self.targets(skeleton).items() if not is_plain(layer)}
        if not forms:
            return []
        return [
            "factors are made of plain weights only, and these layers are stored in another form: "
            f"{format_layer_names({name: layer.kind for name, layer in forms.items()})}. Leave them out with "
            "exclude=[...], or put this stage before the one that stores them so"
        ]

    @property
    def looks(self) -> bool:
        return self.variant != "plain" and self.ratio != 0

    @property
    def statistic_name(self) -> str:
        """Name of what is summed, which jobs share."""
        return {"activation": "magnitude", "whitened": "gram"}.get(self.variant, "")

    def statistic(self, inputs: Float[Tensor, "token in"]) -> Tensor:
        """The Gram matrix of the inputs, or the sum of their magnitudes."""
        return gram(inputs) if self.variant == "whitened" else inputs.float().abs().sum(dim=0)

    def prepare(self, summed: Tensor) -> Any:
        """The factor of the inverse Gram matrix, or the scale of each input."""
        if self.variant == "whitened":
            return factor_inverse(summed, self.damping_fraction)
        return channel_scale(summed, self.alpha)

    @property
    def prepared_name(self) -> str:
        """Name of the factor, which jobs share; the scales are too quick to be kept."""
        return factor_name(self.damping_fraction) if self.variant == "whitened" else ""

    def to_tensors(self, prepared: InverseFactor) -> dict[str, Tensor]:
        """Tensors of a factor, for a file."""
        return prepared.to_tensors()

    def from_tensors(self, tensors: dict[str, Tensor]) -> InverseFactor:
        """Read a factor from its tensors."""
        return InverseFactor.from_tensors(tensors)

    def notes(self, prepared: Any) -> dict[str, Any]:
        """The damping, where it had to be raised."""
        is_raised = isinstance(prepared, InverseFactor) and prepared.damping_fraction > self.damping_fraction
        return {"damping_raised": prepared.damping_fraction} if is_raised else {}

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Any = None,
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> LinearForm | Float[Tensor, "out in"]:
        if self.form(tuple(weight.shape)) is None:
            return weight
        vectors, values = left_singular(weighed(weight, prepared))
        if self.energy is None:
            rank = counts.factor_rank(self.ratio, *weight.shape)
        else:
            rank = energy_rank(values, self.energy)
        if rank > largest_rank(*weight.shape):
            return weight
        return LowRankLinear.from_factors(*projection_factors(weight, vectors[:, :rank]))

    def form(self, shape: tuple[int, int]) -> Form | None:
        """Storage at the rank of the ratio, or at most; None where a layer of this shape stays as it is."""
        rank = largest_rank(*shape) if self.energy is not None else counts.factor_rank(self.ratio, *shape)
        return None if self.ratio == 0 or not 0 < rank <= largest_rank(*shape) else (LowRankLinear, {"rank": rank})

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        masks = {name: removed_of(layer) for name, layer in self.targets(model).items()}
        zeros = {name: int(mask.count_nonzero()) for name, mask in masks.items() if mask is not None}
        del masks
        return self._with_ranks(super().walk(model, context), model, zeros)

    def plan(self, skeleton: Skeleton) -> StageReport:
        """Put empty factors in place."""
        zeros = dict(skeleton.zeros)
        report = self._with_ranks(super().plan(skeleton), skeleton, zeros)
        if self.energy is not None:
            report.notes["plan"] = PLANNED
        return report

    def _with_ranks(self, report: StageReport, model: LanguageModel, zeros: dict[str, int]) -> StageReport:
        """The report with the ranks of the layers as they are now, and the zeros that went with their weights."""
        targets = self.targets(model)
        report.notes["rank"] = {name: layer.rank for name, layer in targets.items() if not is_plain(layer)}
        if dense := [name for name, layer in targets.items() if is_plain(layer)]:
            report.notes["left_dense"] = dense
        if refilled := {name: zeros[name] for name in report.notes["rank"] if zeros.get(name)}:
            report.notes["refilled_zeros"] = refilled
        return report

    def layer_bytes(self, shape: tuple[int, int]) -> int:
        factor = FACTOR_BYTES * shape[1] ** 2 if self.variant == "whitened" else 0
        return super().layer_bytes(shape) + SVD_BYTES * shape[0] * shape[1] + factor


def largest_rank(rows: int, columns: int) -> int:
    """Largest rank at which two factors hold fewer numbers than the matrix; 0 where none does."""
    return (rows * columns - 1) // (rows + columns)


def energy_rank(values: Float[Tensor, " rank"], energy: float) -> int:
    """Smallest number of leading singular values whose squares sum to `energy` of all, at least 1."""
    sums = values.double().square().cumsum(0)
    return min(int((sums < energy * sums[-1]).count_nonzero()) + 1, len(values))


def channel_scale(magnitude: Float[Tensor, " in"], alpha: float) -> Float[Tensor, " in"]:
    """Magnitude of each input to the power alpha, over the largest: a common factor changes no singular vector."""
    largest = magnitude.max()
    return (magnitude / largest).pow(alpha) if largest > 0 else torch.ones_like(magnitude)


def weighed(
    weight: Float[Tensor, "out in"], prepared: InverseFactor | Float[Tensor, " in"] | None
) -> Float[Tensor, "out in"]:
    """W S in fp64; the weight itself where no input is ever active.

    Of X^T X + damping the inverse is U^T U with U upper triangular, so S = U^-1 is a root of it. A factor gives dead
    inputs a diagonal of their own, which says nothing of the outputs: they are left out.
    """
    weight = weight.double()
    if prepared is None:
        return weight
    if isinstance(prepared, InverseFactor):
        scaled = weight.masked_fill(prepared.scale == 0, 0)
        scaled = torch.linalg.solve_triangular(prepared.upper.double(), scaled, upper=True, left=False)
    else:
        scaled = weight * prepared
    return scaled if bool(scaled.any()) else weight


def left_singular(matrix: Float[Tensor, "out in"]) -> tuple[Float[Tensor, "out rank"], Float[Tensor, " rank"]]:
    """Left singular vectors, and singular values in descending order."""
    vectors, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return vectors, values
