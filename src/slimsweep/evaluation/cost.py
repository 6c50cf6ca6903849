"""Multiply-accumulates of one forward, in closed form from the shapes of a model's parts."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from slimsweep.checks import refuse, whole_number_faults
from slimsweep.evaluation.base import Measurement, Metric
from slimsweep.evaluation.quantity import Quantity
from slimsweep.linear import base as linear
from slimsweep.linear.base import layer_shape, linear_layers
from slimsweep.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Cost(Metric):
    """GMacs of a forward over one sequence: linear layers, head, and attention's QK and AV; 1 MAC = 2 FLOPs.

    `gmacs` counts dense kernels; `gmacs_nonzero` leaves out zero weights, which dense kernels do not.
    Embeddings, norms, activations, softmax and rotary positions are not counted, nor is causality.
    """

    needs_weights: ClassVar[bool] = False
    declares: ClassVar[tuple[Quantity, ...]] = (
        Quantity(field="gmacs", label="GMacs", higher_is_better=False, format=".3f"),
        Quantity(
            field="gmacs_nonzero",
            label="GMacs without zero weights",
            higher_is_better=False,
            group="cost",
            heading="GMACs nonzero",
            format=".3f",
            place=20,
        ),
    )

    tokens: int = 64
    """Length of the sequence; attention's part grows with its square."""

    def __post_init__(self) -> None:
        refuse(whole_number_faults("evaluation.cost_tokens", self.tokens))

    def quantities(self) -> list[Quantity]:
        return [dataclasses.replace(one, label=f"{one.label} of {self.tokens} tokens") for one in self.declares]

    def measure(self, model: LanguageModel, corpora: Any) -> Measurement:
        macs = linear_macs(model, self.tokens) + attention_macs(model, self.tokens)
        skipped = sum(
            zero_count(model, name, layer) * _layer_macs(model, name, layer, self.tokens) // linear.weight_count(layer)
            for name, layer in all_linears(model).items()
        )
        protocol = f"one sequence of {self.tokens} tokens: linear layers, head, QK, AV"
        return Measurement(
            values={"gmacs": macs / 1e9, "gmacs_nonzero": (macs - skipped) / 1e9},
            protocols={"gmacs": protocol, "gmacs_nonzero": f"{protocol}; zero weights left out"},
        )


def linear_macs(model: LanguageModel, tokens: int) -> int:
    """Multiply-accumulates of all linear layers, the head included."""
    return sum(_layer_macs(model, name, layer, tokens) for name, layer in all_linears(model).items())


def _layer_macs(model: LanguageModel, name: str, layer: nn.Module, tokens: int) -> int:
    return linear.macs(layer, seen_tokens(model, name, tokens))


def attention_macs(model: LanguageModel, tokens: int) -> int:
    """Multiply-accumulates of queries times keys and of probabilities times values, over all blocks."""
    return sum(2 * tokens**2 * attention_width(model, block) for block in model.blocks)


def all_linears(model: LanguageModel) -> dict[str, nn.Module]:
    """Every linear layer of a model by full name: those of the blocks, the head, projections around them."""
    return linear_layers(model.module)


def attention_width(model: LanguageModel, block: nn.Module) -> int:
    """Heads x head width of a block, taken from its layers, since pruned blocks differ from the config."""
    return layer_shape(block.get_submodule(model.family.attention_output))[1]


def seen_tokens(model: LanguageModel, name: str, tokens: int) -> int:
    """Count the tokens of a sequence that a linear layer sees."""
    return 1 if name in model.family.pooled else tokens


def zero_count(model: LanguageModel, name: str, layer: nn.Module) -> int:
    """Exact zeros among a layer's parameters; on the meta device those that the plan would leave."""
    if model.is_meta:
        return model.zeros.get(name, 0)
    zeros = linear.zero_count(layer)
    model.release()
    return zeros
