"""llm-compressor's pruners, as a peer to compare with."""

from dataclasses import dataclass
from typing import Any, ClassVar

from slimsweep.blockwise.layerwise import LayerReport
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import choice_faults, whole_number_faults
from slimsweep.linear.mask import mark_zeros
from slimsweep.models.language_model import LanguageModel
from slimsweep.techniques.base import StageReport
from slimsweep.techniques.external.base import PeerPruner
from slimsweep.techniques.external.oneshot import import_quietly, package_faults, package_notes, run_oneshot

METHODS = ("sparsegpt", "wanda")


@dataclass(frozen=True, kw_only=True)
class LLMCompressor(PeerPruner):
    """SparseGPT or Wanda as llm-compressor 0.14 computes them, at its own defaults.

    The weights are pruned by its code, in place, and measured by ours.

    Source: the package's `oneshot` with `SparseGPTModifier` or `WandaPruningModifier`.
    """

    package: ClassVar[str] = "llm-compressor"

    method: str = "sparsegpt"
    """`sparsegpt` or `wanda`."""
    batch_size: int = 1
    """Sequences of one forward; 1 is its default. Changes the result by rounding."""

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values() + choice_faults("method", [self.method], METHODS)
        faults += whole_number_faults("batch_size", self.batch_size)
        if self.method == "wanda":  # they decide nothing there, and would give one result two keys
            faults += [
                f"{name}={getattr(self, name)!r} with method=wanda, which has no such knob: leave it out"
                for name in ("block_columns", "damping_fraction")
                if getattr(self, name) != getattr(LLMCompressor, name)
            ]
        return faults

    def faults(self, skeleton: LanguageModel) -> list[str]:
        return [*package_faults(), *super().faults(skeleton)]

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        targets = self.targets(model)
        warnings = run_oneshot(model, context.batches, self._recipe(list(targets)), self.batch_size)
        layers = []
        for name, layer in targets.items():
            mark_zeros(layer, layer.weight)
            layers.append(
                LayerReport(name, layer.weight.numel(), layer.weight.numel() - int(layer.weight.count_nonzero()))
            )
        return StageReport(layers, package_notes(warnings))

    def _recipe(self, names: list[str]) -> Any:
        import_quietly()
        from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier

        shared: dict[str, Any] = {"sparsity": self.ratio, "targets": names, "mask_structure": self.mask_structure}
        if self.method == "wanda":
            return WandaPruningModifier(**shared)
        return SparseGPTModifier(**shared, block_size=self.block_columns, dampening_frac=float(self.damping_fraction))

    def units(self, rows: int, columns: int) -> list[tuple[int, int]]:
        return [(rows, columns)] if self.method == "wanda" else super().units(rows, columns)

    @property
    def drops_threshold(self) -> bool:
        return super().drops_threshold and self.method == "sparsegpt"  # its Wanda drops by rank, as ours does
