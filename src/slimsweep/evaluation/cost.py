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
from slimsweep.models.families import Attention
from slimsweep.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Cost(Metric):
    """GMacs of a forward over one sequence: linear layers, head, and attention's QK and AV; 1 MAC = 2 FLOPs.

    `gmacs` counts dense kernels; `gmacs_nonzero` leaves out zero weights, which dense kernels do not.
    Embeddings, norms, activations, softmax and rotary positions are not counted, nor is causality.
    """

    needs_weights: ClassVar[bool] = False
    declares: ClassVar[tuple[Quantity, ...]] = (
        Quantity(field="gmacs", kind="work", label="GMacs", higher_is_better=False, format=".3f"),
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
    """Length of the sequence, of an encoder-decoder that of the source; attention's part grows with its square."""
    target_tokens: int | None = None
    """Length of the target of an encoder-decoder; None is that of the source."""

    def __post_init__(self) -> None:
        faults = whole_number_faults("evaluation.cost_tokens", self.tokens)
        if self.target_tokens is not None:
            faults += whole_number_faults("evaluation.cost_target_tokens", self.target_tokens)
        refuse(faults)

    def quantities(self) -> list[Quantity]:
        lengths = f"{self.tokens} tokens" + (f" and {self.target_tokens} of target" if self.target_tokens else "")
        return [dataclasses.replace(quantity, label=f"{quantity.label} of {lengths}") for quantity in self.declares]

    def measure(self, model: LanguageModel, corpora: Any) -> Measurement:
        is_pair = model.family.encoder is not None
        lengths = Lengths(self.tokens, (is_pair and self.target_tokens) or self.tokens)
        macs = linear_macs(model, lengths) + attention_macs(model, lengths)
        skipped = sum(
            zero_count(model, name, layer) * _layer_macs(model, name, layer, lengths) // linear.weight_count(layer)
            for name, layer in all_linears(model).items()
        )
        what = f"one sequence of {self.tokens} tokens"
        if is_pair:
            what = f"one source of {lengths.source} tokens and one target of {lengths.target}"
        protocol = f"{what}: linear layers, head, QK, AV"
        return Measurement(
            values={"gmacs": macs / 1e9, "gmacs_nonzero": (macs - skipped) / 1e9},
            protocols={"gmacs": protocol, "gmacs_nonzero": f"{protocol}; zero weights left out"},
        )


@dataclass(frozen=True)
class Lengths:
    """Tokens of a sequence; an encoder-decoder reads the source and writes the target."""

    source: int
    target: int


def linear_macs(model: LanguageModel, lengths: Lengths) -> int:
    """Multiply-accumulates of all linear layers, the head included."""
    return sum(_layer_macs(model, name, layer, lengths) for name, layer in all_linears(model).items())


def _layer_macs(model: LanguageModel, name: str, layer: nn.Module, lengths: Lengths) -> int:
    return linear.macs(layer, seen_tokens(model, name, lengths))


def attention_macs(model: LanguageModel, lengths: Lengths) -> int:
    """Multiply-accumulates of queries times keys and of probabilities times values, over all blocks."""
    total = 0
    for index in range(len(model.blocks)):
        stack = model.stack_of(index)
        queries = lengths.source if stack is model.family.encoder else lengths.target
        for attention, keys in zip(stack.attentions, (queries, lengths.source), strict=False):
            total += 2 * queries * keys * attention_width(model.blocks[index], attention)
    return total


def all_linears(model: LanguageModel) -> dict[str, nn.Module]:
    """Every linear layer of a model by full name: those of the blocks, the head, projections around them."""
    return linear_layers(model.module)


def attention_width(block: nn.Module, attention: Attention) -> int:
    """Heads x head width, taken from the layers of a block, since pruned blocks differ from the config."""
    return layer_shape(block.get_submodule(attention.output))[1]


def seen_tokens(model: LanguageModel, name: str, lengths: Lengths) -> int:
    """Count the tokens that a linear layer sees: keys and values of cross-attention see the source."""
    if name in model.family.pooled:
        return 1
    encoder, cross = model.family.encoder, model.family.cross
    if encoder is None:
        return lengths.source
    reads_source = name.startswith(f"{encoder.blocks}.") or name.endswith(cross.inputs[1:])
    return lengths.source if reads_source else lengths.target


def zero_count(model: LanguageModel, name: str, layer: nn.Module) -> int:
    """Exact zeros among a layer's parameters; on the meta device those that the plan would leave."""
    if model.is_meta:
        return model.zeros.get(name, 0)
    zeros = linear.zero_count(layer)
    model.release()
    return zeros
