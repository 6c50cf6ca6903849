"""Model families: a table of attribute paths each, one file per family, found by scanning this package."""

import functools
import importlib
import pkgutil
from dataclasses import dataclass, field

from slimsweep.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Family:
    """Attribute paths of one architecture, counted from the top module of its Auto class.

    A family is this table entry and nothing else; code asks `LanguageModel` and never tests for a family.
    """

    model_types: tuple[str, ...]
    """`model_type` values of Hugging Face configs that this entry describes."""
    blocks: str
    """The ModuleList of decoder (or encoder) layers."""
    embeddings: str
    """Token embedding."""
    head: str
    """Linear layer from the residual width to the vocabulary (or the labels)."""
    attention_inputs: tuple[str, ...]
    """Within a block: the projections to queries, keys and values, or the one layer that holds all three."""
    attention_output: str
    """Within a block: the projection that leaves attention. Its input width is heads x head width."""
    head_width: str
    """Within a block: the attribute that holds the width of a head."""
    head_counts: dict[str, str] = field(default_factory=dict)
    """Within a block: attributes its forward reads that change with its heads: `heads`, `key_value_heads`, `width`."""
    heads_interleaved: bool = False
    """Order of a layer that holds queries, keys and values: True, group after group; False, all queries come first.

    A group is its queries, its key and its value; without shared keys it is one head.
    """
    head_norms: tuple[str, ...] = ()
    """Within a block: norms of queries and of keys that differ by head: over the whole width, or a list of norms."""
    alibi: bool | str = False
    """ALiBi: a slope for each head in place of positions. True, or the config field that turns it on."""
    mlp_inputs: tuple[str, ...]
    """Layers of a block that make neurons, the gate first; one layer may hold gate, then up."""
    mlp_output: str
    """Within a block: the layer that reads the neurons."""
    norms: tuple[str, ...]
    """Within a block: norms over the residual width."""
    residual_writers: tuple[str, ...] = ()
    """Beside `embeddings`: modules outside the blocks whose outputs have the residual width, norms included."""
    residual_readers: tuple[str, ...] = ("lm_head",)
    """Linear layers outside the blocks that read the residual."""
    projections: tuple[str, ...] = ()
    """Modules between embeddings or head and the residual; where one exists, those have a width of their own."""
    key_value_heads_field: str = "num_key_value_heads"
    """Config field of the number of key/value heads, where the config has one."""
    neurons_field: str | None = "intermediate_size"
    """Config field of the number of neurons; None where it follows from the residual width."""
    scales_embeddings: bool = False
    """Embeddings are multiplied by the root of the config's width, so a config of another width is another model."""
    final_norm: str | None = None
    """Norm after the last block; None where the last block ends with its own."""
    head_softcap: str | None = None
    """Config field that bounds the logits by cap * tanh(logits / cap); None where the family has none."""
    logits_divisor: str | None = None
    """Config field that divides the head's output; None where the family has none."""
    pooled: tuple[str, ...] = ()
    """Linear layers that see one token of a sequence, not all (encoder poolers, classifiers)."""
    bos_every_window: bool = False
    """True where a text without a leading BOS token is out of distribution: every window gets one."""


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
