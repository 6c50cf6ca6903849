"""Put back what compression took from each layer, as a product of two small factors beside it."""

import logging
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimsweep.blockwise.activations import InputSum
from slimsweep.blockwise.layerwise import LayerReport, replace_weight, targets_by_block
from slimsweep.blockwise.shared_inputs import refuse_inputs
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.blockwise.walk import Visit, Walk
from slimsweep.checks import whole_number_faults
from slimsweep.errors import ModelError
from slimsweep.linear.adapter import AdapterLinear, adapter_settings
from slimsweep.linear.base import (
    PackedLinear,
    install,
    is_plain,
    layer_shape,
    linear_layers,
    weight_2d,
)
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.numerics.hessian import gram
from slimsweep.numerics.low_rank import projection_factors
from slimsweep.numerics.parallel import parallel_map
from slimsweep.techniques.base import Requirements, StageReport, Technique
from slimsweep.techniques.layer_names import format_layer_names
from slimsweep.techniques.layerwise import LayerTargets, planned_layers, rank_faults, report_of

log = logging.getLogger(__name__)

MOVED = 0.02
"""Relative change of a norm's weights that rounding to 16 bits cannot explain."""


@dataclass(frozen=True, kw_only=True)
class EoRA(LayerTargets, Technique):
    """Approximate the change of each weight where the inputs are largest, and add it to the layer's outputs.

    Let D [out in] be the base's weight less the compressed one, and Q L Q^T the eigenvalues of X^T X of the layer's
    inputs. The factors are those of the truncated singular values of D Q L^1/2. No other product of this rank leaves
    a smaller error of the outputs on the calibration text. Nothing is trained.

    The layer itself stays as it is, plain with its zeros or packed. The record notes the fraction of the squared output
    error that remains (`output_error_left`), before the factors are rounded to the model's dtype. It is 0 where no
    input is active. It also notes the distance from the base's weight (`packing_error`), and the layers that had lost
    nothing, whose factors are zeros (`nothing_lost`).

    Source: arXiv:2410.21271, with X^T X over all tokens. Departure: the paper's B = U S and A = V^T L^-1/2 Q^T become
        U and U^T D. The product is the same and needs no inverse, so an eigenvalue of 0 is no special case.
    """

    version: ClassVar[int] = 2

    rank: int = 32
    """Rank of the pair; at most the smaller width of each layer."""

    def _bad_values(self) -> list[str]:
        return super()._bad_values() + whole_number_faults("rank", self.rank)

    @property
    def requirements(self) -> Requirements:
        return Requirements(calibration=True, teacher="base")

    def faults(self, skeleton: LanguageModel) -> list[str]:
        return (
            super().faults(skeleton)
            or self._shape_faults(skeleton)
            or rank_faults(self.targets(skeleton), self.rank)
            or self._departure_faults(skeleton)
            or self._nothing_lost(skeleton)
        )

    def _departure_faults(self, skeleton: LanguageModel) -> list[str]:
        """Fault of a chain that changed weights otherwise than by pruning or quantizing them."""
        departures = getattr(skeleton, "departures", None)
        if not departures:
            return []
        return [
            "eora adds the difference from the base's weights, so that it would undo what earlier stages changed "
            f"otherwise than by pruning or quantizing: {', '.join(departures)}. Put eora before training, or use lora "
            "or distill in its place. Stages of finetune that begin the chain make the base and are no such change"
        ]

    def _nothing_lost(self, skeleton: LanguageModel) -> list[str]:
        """Fault of a chain in which no stage has changed a targeted layer yet."""
        zeros = getattr(skeleton, "zeros", None)
        if zeros is None or any(name in zeros or not is_plain(layer) for name, layer in self.targets(skeleton).items()):
            return []
        return [
            "no earlier stage has pruned or quantized the layers that eora is to treat, so that nothing was lost: put "
            "it behind such a stage, as in technique=[sparsegpt,eora]"
        ]

    def _form_faults(self, skeleton: LanguageModel) -> list[str]:
        """Targeted layers that are neither plain nor packed."""
        forms = {
            name: layer.kind
            for name, layer in self.targets(skeleton).items()
            if not is_plain(layer) and not isinstance(layer, PackedLinear)
        }
        if not forms:
            return []
        return [
            f"a pair stands beside a plain or packed layer only, and these are of another form: "
            f"{format_layer_names(forms)}. Leave them out with exclude=[...]"
        ]

    def _shape_faults(self, skeleton: LanguageModel) -> list[str]:
        """Layers that the base has in another shape, or not at all."""
        loaded = getattr(skeleton, "loaded_shapes", None)
        every = {name: layer_shape(layer) for name, layer in skeleton.targets().items()}
        if loaded is None or every == loaded:
            return []
        if every.keys() != loaded.keys():
            return [
                f"an earlier stage removed blocks: {len(every)} layers are left of {len(loaded)}, so that the loss "
                "of each is not known. Put eora after stages that keep all shapes, or use lora or distill here"
            ]
        moved = {name: f"{loaded[name]} to {shape}" for name, shape in every.items() if loaded[name] != shape}
        return [
            f"an earlier stage changed the widths of {format_layer_names(moved)}: a pair beside them cannot stand for "
            "what was cut out. Put eora after stages that keep all shapes, or use lora or distill here"
        ]

    def plan(self, skeleton: Skeleton) -> StageReport:
        """Put empty pairs beside the targeted layers, whose planned zeros stay."""
        for name, layer in self.targets(skeleton).items():
            empty = AdapterLinear.empty(layer_shape(layer), adapter_settings(layer, self.rank, 1.0))
            install(skeleton.module, name, empty)
        return StageReport(planned_layers(skeleton, self.targets(skeleton)))

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        """Put a pair beside each targeted layer, block by block."""
        base, targets = context.teacher(), self.targets(model)
        refuse_other_inputs(model, base)
        originals, blocks = base.targets(), targets_by_block(model, targets)
        stop = max(index for index, layers in enumerate(blocks) if layers) + 1

        def treat(visit: Visit) -> list[LayerReport]:
            layers = blocks[visit.index]
            with base.resident(base.blocks[visit.index]):
                return self._restored(model, layers, originals, visit.collect(layers, gram))

        walk = Walk(title=type(self).__name__, batch=context.batches, propagation=self.inputs, stop=stop)
        report = report_of(walk.run(model, treat))
        if "nothing_lost" in report.notes:
            report.notes["nothing_lost"] = unchanged = list(report.notes["nothing_lost"])
            log.warning(
                "%s: no earlier stage changed %s, so that their pairs are zeros and only cost memory: leave these "
                "layers out with exclude=[...]",
                *(type(self).__name__, format_layer_names(dict.fromkeys(unchanged))),
            )
        return report

    def _restored(
        self,
        model: LanguageModel,
        layers: dict[str, nn.Module],
        originals: dict[str, nn.Module],
        sums: list[InputSum],
    ) -> list[LayerReport]:
        """Reports on the layers of one block, which have their pairs then."""
        if not layers:
            return []
        for shared in sums:
            refuse_inputs(shared)
        device = sums[0].summed.device
        roots = dict(enumerate(parallel_map(moment_root, [shared.summed for shared in sums], device)))
        place = {name: index for index, shared in enumerate(sums) for name in shared.layers}

        def restore(name: str) -> LayerReport:
            layer = layers[name]
            original = weight_2d(originals[name]).to(device).float()
            lost = original - weight_2d(layer).float()
            down, up, left = factors(lost, roots[place[name]], self.rank)
            notes = {"output_error_left": left} | ({} if bool(lost.any()) else {"nothing_lost": True})
            return replace_weight(model, name, AdapterLinear.beside(layer, down, up), notes, wanted=original)

        return parallel_map(restore, layers, device)


def moment_root(moments: Float[Tensor, "in in"]) -> Float[Tensor, "in in"]:
    """Q L^1/2 in fp64, of second moments Q L Q^T; eigenvalues below 0 are 0 but for rounding."""
    values, vectors = torch.linalg.eigh(moments.double())
    return vectors * values.clamp(min=0).sqrt()


def factors(
    lost: Float[Tensor, "out in"], root: Float[Tensor, "in in"], rank: int
) -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"], float]:
    """A and B in fp32, and the share of the squared output error that their product leaves.

    Where no input is ever active, no output has an error: the share is 0, and the product is the nearest to the weight.
    """
    lost = lost.double()
    projected = lost @ root
    has_error = bool(projected.any())
    vectors, values, _ = torch.linalg.svd(projected if has_error else lost, full_matrices=False)
    squares = values.square()
    left = float(squares[rank:].sum() / squares.sum()) if has_error else 0.0
    return *projection_factors(lost, vectors[:, :rank]), left


def refuse_other_inputs(model: LanguageModel, base: LanguageModel) -> None:
    """Raise ModelError where layers do not stand for the base's layers of that name.

    A norm that changed says so: scales of channels were moved into it, or it was trained.
    """
    shapes, wanted = ({name: layer_shape(layer) for name, layer in each.targets().items()} for each in (model, base))
    if shapes != wanted:
        raise ModelError("the model has other layers than its base, so that the loss of each is not known")
    inside = tuple(f"{name}." for name in linear_layers(base.module))
    now = dict(model.module.named_parameters())
    for name, before in base.module.named_parameters():
        if name.startswith(inside) or before.dim() != 1:
            continue
        change = (now[name].float() - before.float()).norm() / before.float().norm().clamp(min=1e-12)
        if change > MOVED:
            raise ModelError(
                f"{name} is not that of the base (relative change {float(change):.2g}): an earlier stage trained the "
                "model or moved scales between layers (awq, smoothquant), so that the base's weights stand for other "
                "inputs. Use eora without that stage, or lora or distill in its place"
            )
