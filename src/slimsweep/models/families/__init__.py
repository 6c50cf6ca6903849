"""Model families: a table of attribute paths each, one file per family, found by scanning this package."""

import functools
import importlib
import pkgutil
from dataclasses import dataclass, field

from slimsweep.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Attribute paths of one attention within a block."""

    inputs: tuple[str, ...]
    """Projections to queries, keys and values, or the one layer that holds all three."""
    output: str
    """Projection that leaves attention. Its input width is heads x head width."""
    head_width: str
    """Attribute that holds the width of a head."""
    head_counts: dict[str, str] = field(default_factory=dict)
    """Attributes that its forward reads and that change with its heads: `heads`, `key_value_heads`, `width`."""
    heads_interleaved: bool = False
    """Order of a layer that holds queries, keys and values: True, group after group; False, all queries come first.

    A group is its queries, its key and its value; without shared keys it is one head.
    """
    head_norms: tuple[str, ...] = ()
    """Norms of queries and of keys that differ by head: over the whole width, or a list of norms."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Attribute paths of blocks that run one after another, and of the parts within each block."""

    blocks: str
    """ModuleList of the blocks, counted from the top module."""
    attention_inputs: tuple[str, ...]
    """Self-attention, as the next five fields; see Attention."""
    attention_output: str
    head_width: str
    head_counts: dict[str, str] = field(default_factory=dict)
    heads_interleaved: bool = False
    head_norms: tuple[str, ...] = ()
    cross: Attention | None = None
    """Attention to the output of the encoder, which its keys and values read; None where there is none."""
    mlp_inputs: tuple[str, ...]
    """Layers of a block that make neurons, the gate first; one layer may hold gate, then up."""
    mlp_output: str
    """Within a block: the layer that reads the neurons."""
    norms: tuple[str, ...]
    """Within a block: norms over the residual width."""
    final_norm: str | None = None
    """Norm after the last block, counted from the top module; None where the last block ends with its own."""
    blocks_field: str = "num_hidden_layers"
    """Config field of the number of blocks."""
    heads_field: str = "num_attention_heads"
    """Config field of the number of query heads."""
    neurons_field: str | None = "intermediate_size"
    """Config field of the number of neurons; None where it follows from the residual width."""

    @property
    def attention(self) -> Attention:
        """Self-attention."""
        return Attention(
            inputs=self.attention_inputs,
            output=self.attention_output,
            head_width=self.head_width,
            head_counts=self.head_counts,
            heads_interleaved=self.heads_interleaved,
            head_norms=self.head_norms,
        )

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """Self-attention, then cross-attention where there is one."""
        return (self.attention,) if self.cross is None else (self.attention, self.cross)


@dataclass(frozen=True, kw_only=True)
class Family(Stack):
    """Attribute paths of one architecture, counted from the top module of its Auto class.

    The blocks of a family are those of its only stack; of an encoder-decoder they are the decoder's. A family is this
    table entry and nothing else; code asks `LanguageModel` and never tests for a family.
    """

    model_types: tuple[str, ...]
    """`model_type` values of Hugging Face configs that this entry describes."""
    encoder: Stack | None = None
    """Stack that reads the source text; None where there is one stack only."""
    embeddings: str
    """Token embedding."""
    head: str
    """Linear layer from the residual width to the vocabulary (or the labels)."""
    alibi: bool | str = False
    """ALiBi: a slope for each head in place of positions. True, or the config field that turns it on."""
    position_bias: bool = False
    """True where the first block of a stack makes a bias of each head and pair of positions, for all its blocks."""
    residual_writers: tuple[str, ...] = ()
    """Beside `embeddings`: modules outside the blocks whose outputs have the residual width, norms included."""
    residual_readers: tuple[str, ...] = ("lm_head",)
    """Linear layers outside the blocks that read the residual."""
    projections: tuple[str, ...] = ()
    """Modules between embeddings or head and the residual; where one exists, those have a width of their own."""
    key_value_heads_field: str = "num_key_value_heads"
    """Config field of the number of key/value heads, where the config has one."""
    scales_embeddings: bool = False
    """Embeddings are multiplied by the root of the config's width, so a config of another width is another model."""
    head_softcap: str | None = None
    """Config field that bounds the logits by cap * tanh(logits / cap); None where the family has none."""
    logits_divisor: str | None = None
    """Config field that divides the head's output; None where the family has none."""
    head_scaled_by: str | None = None
    """Config flag: the head reads hidden states over the root of the residual width. A config without it does not."""
    logits_bias: str | None = None
    """Buffer of the top module that is added to the logits; None where the family has none."""
    pooled: tuple[str, ...] = ()
    """Linear layers that see one token of a sequence, not all (encoder poolers, classifiers)."""
    bos_every_window: bool = False
    """True where a text without a leading BOS token is out of distribution: every window gets one."""

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Stacks in forward order."""
        return (self,) if self.encoder is None else (self.encoder, self)


@functools.cache
def families() -> dict[str, Family]:
    """All known families by `model_type`."""
    found = {}
    for entry in pkgutil.iter_modules(__path__, __name__ + "."):
        family = importlib.import_module(entry.name).FAMILY
        found.update(dict.fromkeys(family.model_types, family))
    return found


def family_of(model_type: str) -> Family:
    """The family of a config's `model_type`.

    Raises:
        ModelError: no family file names this type.
    """
    known = families()
    if model_type not in known and _has_experts(model_type):
        raise ModelError(
            f"Model type {model_type!r} has experts, which slimsweep does not support yet; known families are "
            f"{', '.join(sorted(known))}."
        )
    if model_type not in known:
        raise ModelError(
            f"Model type {model_type!r} is not a known family; known are {', '.join(sorted(known))}. "
            "A family is one small file in slimsweep/models/families."
        )
    return known[model_type]


def _has_experts(model_type: str) -> bool:
    """Whether a config of this type, or one inside it, has a number of experts by default."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        return False
    config = CONFIG_MAPPING[model_type]  # the class: making one would, for some types, ask the hub
    parts = (config, *(part for part in config.sub_configs.values() if isinstance(part, type)))
    return any("experts" in name and getattr(part, name) for part in parts for name in vars(part))
