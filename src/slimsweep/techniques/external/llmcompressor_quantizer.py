"""llm-compressor's quantizers, as a peer to compare with."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from slimsweep.blockwise.layerwise import replace_weight
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import choice_faults, whole_number_faults
from slimsweep.linear.mask import removed as removed_of
from slimsweep.linear.uniform import IntegerLinear
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.numerics.uniform_grid import SCALE_DTYPES, Grid
from slimsweep.techniques.base import Requirements, StageReport, Technique
from slimsweep.techniques.external.base import dense_faults, stack_faults
from slimsweep.techniques.external.oneshot import import_quietly, package_faults, package_notes, run_oneshot
from slimsweep.techniques.layerwise import report_of
from slimsweep.techniques.quantization.base import UniformGrid

METHODS = ("gptq", "awq")
GRIDS = ("symmetric", "asymmetric")


@dataclass(frozen=True, kw_only=True)
class LLMCompressorQuantizer(UniformGrid, Technique):
    """GPTQ or AWQ as llm-compressor 0.14 computes them, at its own defaults, stored in our packed layers.

    Its scales and zero-points are kept, with scales rounded to bf16 (they are bf16 already in a bf16 model). Codes are
    computed from the weights that it leaves. A 16-bit model has rounded these, so that with 8 bits about 1 % of the
    codes move by one. With `preserve_sparsity`, weights that a stage removed get the code of 0 again after its run. No
    other weight compensates for this.

    Source: the package's `oneshot` with `GPTQModifier`, or `AWQModifier` and `QuantizationModifier`.
    """

    version: ClassVar[int] = 2

    method: str = "gptq"
    """`gptq` or `awq`."""
    batch_size: int = 1
    """Sequences of one forward; llm-compressor's default is 1. It changes the result by rounding only."""

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values() + choice_faults("method", [self.method], METHODS)
        faults += whole_number_faults("batch_size", self.batch_size)
        faults += choice_faults("grid", [self.grid], GRIDS)
        if self.inputs != "compressed":
            faults.append(f"inputs={self.inputs!r}: llm-compressor has only compressed")
        return faults

    def faults(self, skeleton: LanguageModel) -> list[str]:
        faults = [*package_faults(), *super().faults(skeleton), *dense_faults(self.targets(skeleton), "llm-compressor")]
        return faults + stack_faults(skeleton, "llm-compressor")

    @property
    def requirements(self) -> Requirements:
        return Requirements(calibration=True)

    @property
    def departure(self) -> str | None:
        return "moves scales between layers" if self.method == "awq" else None

    def plan(self, skeleton: Skeleton) -> StageReport:
        report = super().plan(skeleton)
        report.notes.update(package_notes([]))
        return report

    @torch.no_grad()
    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        targets = self.targets(model)
        zeros = {name: self.zeros(removed_of(layer)) for name, layer in targets.items()}
        run_oneshot(model, context.batches, self._recipe(list(targets)), self.batch_size)
        reports = []
        for name, layer in targets.items():
            weight, scale, zero = layer.weight.float(), layer.weight_scale.float(), layer.weight_zero_point.float()
            # By its own scales, before they are stored.
            codes = Grid(self.grid, self.bits, scale, zero).quantize(weight)
            stored = Grid(self.grid, self.bits, scale.to(SCALE_DTYPES[self.grid]).float(), zero)
            if zeros[name] is not None:
                codes = torch.where(zeros[name], stored.columns(weight.shape[1]).zero.to(torch.int8), codes)
            reports.append(replace_weight(model, name, IntegerLinear.from_codes(stored, codes)))
        report = report_of(reports)
        report.notes.update(package_notes([]))  # what it warned of is in the job's log
        return report

    def _recipe(self, names: list[str]) -> Any:
        import_quietly()
        from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
        from llmcompressor.modifiers.transform.awq import AWQModifier

        weights: dict[str, Any] = {"num_bits": self.bits, "type": "int", "symmetric": self.grid == "symmetric"}
        weights |= {"strategy": "channel"}
        if self.group_size is not None:
            weights |= {"strategy": "group", "group_size": self.group_size}
        groups = {"group_0": {"targets": names, "weights": weights}}
        if self.method == "gptq":
            return GPTQModifier(config_groups=groups)
        return [AWQModifier(), QuantizationModifier(config_groups=groups)]
