"""Store layers in 4 bits, and train low-rank adapters beside them."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from slimsweep.blockwise.layerwise import compress_blocks, install_empty
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.adapter import AdapterLinear
from slimsweep.linear.backends import bitsandbytes_faults
from slimsweep.linear.base import PackedLinear, is_plain, layer_shape
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.techniques.base import StageReport
from slimsweep.techniques.layerwise import report_of
from slimsweep.techniques.quantization.base import with_bits
from slimsweep.techniques.quantization.nf4 import NF4
from slimsweep.techniques.training.base import Training
from slimsweep.techniques.training.objective import Objective, TaskLoss


@dataclass(frozen=True, kw_only=True)
class QLoRA(Training):
    """Low-rank adaptation of a model in NF4, on the labels of the data. Source: arXiv:2305.14314, sec. 3.

    The targeted layers are packed as the technique nf4 packs them; those that an earlier stage packed stay as they are.
    Adapters stay beside them: a merge packs again, on the magnitudes the layer has, and loses what lies between levels.
    Departure: the optimizer's state is not paged. Without `checkpoint_blocks` the backward pass keeps the dense weight
    of every layer, so that less is stored but not less is needed.
    """

    needs_rank: ClassVar[bool] = True

    rank: int | None = 8
    merge: bool = False
    quant_type: str = "nf4"
    """`nf4` or `fp4`, as nf4 has it; so are the next three."""
    block_size: int = 64
    """Neighbouring weights that share a magnitude."""
    double_quantization: bool = True
    """Whether the magnitudes are stored in 8 bits."""
    compute_dtype: str | None = None
    """Dtype of the product with the packed weight; null: the model's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.packing  # whose knobs are checked as it is made

    @property
    def packing(self) -> NF4:
        """The quantizer of the layers."""
        return NF4(
            quant_type=self.quant_type,
            block_size=self.block_size,
            double_quantization=self.double_quantization,
            compute_dtype=self.compute_dtype,
        )

    def is_treatable(self, layer: nn.Module) -> bool:
        """An adapter beside a dense weight cannot stay where that weight is to be packed."""
        if isinstance(layer, AdapterLinear) and not isinstance(layer.base, PackedLinear):
            return False
        return super().is_treatable(layer)

    def device_faults(self, device: str) -> list[str]:
        return bitsandbytes_faults(device)

    def objective(self, model: LanguageModel, context: StageContext) -> Objective:
        return TaskLoss()

    def plan(self, skeleton: Skeleton) -> StageReport:
        """Put empty packed layers with empty adapters in the places of the targeted ones."""
        self._put_empty_packed(skeleton)
        return with_bits(super().plan(skeleton), self.targets(skeleton))

    def training_bytes(self, skeleton: Skeleton, batch: Batch) -> int:
        """That of training adapters beside packed layers."""
        model = skeleton.copy()
        self._put_empty_packed(model)
        return super().training_bytes(model, batch)

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        """Pack the targeted layers, and train."""
        packed = report_of(compress_blocks(model, self.packing, self._unpacked(model), context))
        report = super().walk(model, context)
        return with_bits(StageReport(report.layers, packed.notes | report.notes), self.targets(model))

    def _put_empty_packed(self, skeleton: Skeleton) -> None:
        for name, layer in self._unpacked(skeleton).items():
            install_empty(skeleton, name, *self.packing.form(layer_shape(layer)))

    def _unpacked(self, model: LanguageModel) -> dict[str, nn.Module]:
        return {name: layer for name, layer in self.targets(model).items() if is_plain(layer)}
