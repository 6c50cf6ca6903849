"""Small random copy of a model's architecture, for trying a chain in seconds before hours of the real model.

A copy has two blocks a stack and a residual width of at most 256. The vocabulary, the tokenizer and the task stay. So
do the ratios between query heads, key/value heads, inner width and residual width, up to rounding:

    SmolLM2    30 blocks, width 576, 9 heads (3 key/value) of 64, inner 1536
    its copy    2 blocks, width 192, 6 heads (2 key/value) of 32, inner 512
"""

import math
from pathlib import Path
from typing import Any

from slimsweep.errors import ModelError
from slimsweep.models.families import Family, family_of
from slimsweep.models.placement import loading
from slimsweep.models.sources.base import ModelSource
from slimsweep.models.sources.local import LocalModel
from slimsweep.models.task import TASKS

BLOCKS = 2
WIDTH = 256
"""Largest residual width of a copy."""
LEAST_HEAD = 8
"""Smallest width of a head: rotary positions need an even number, packed formats like multiples of 8."""
HEAD_WIDTHS = ("head_dim", "d_kv")
"""Config fields of a head width that does not follow from the residual width."""
ALIGNMENT = 64
"""Inner widths keep the power of two that divides them, up to this one: groups of quantizers then still fit."""


def write_small_copy(source: ModelSource, folder: Path) -> LocalModel:
    """Write a small random copy of a model, with its tokenizer, into a folder; returns its source.

    Raises:
        ModelError: transformers cannot build a model of the smaller shape.
    """
    import torch

    try:
        config = small_config(source.config(), family_of(source.config().model_type))
        module = loading.draw(config, TASKS[source.task], torch.float32, source.seed, source.trust_remote_code)
        module.save_pretrained(folder)
    except (*loading.REFUSALS, AttributeError, ArithmeticError) as error:
        raise ModelError(
            f"no small copy of {source.name} can be made ({loading.reason(error)}), so there is no trial of it: run it "
            "without trial=true, with few windows and tokens first."
        ) from error
    source.tokenizer().save_pretrained(folder)
    return LocalModel(
        path=str(folder),
        name=source.name,
        task=source.task,
        seed=source.seed,
        trust_remote_code=source.trust_remote_code,
        cache_dir=str(folder.parent / "cache"),
    )


def small_config(config: Any, family: Family) -> Any:
    """The config of a copy: few blocks, and widths in proportion; one that is small already keeps its widths."""
    fields = config.to_dict()
    names = {name: config.attribute_map.get(name, name) for name in ("hidden_size", *_fields(family))}
    for stack in family.stacks:
        _shorten(fields, names[stack.blocks_field])
    hidden = fields[names["hidden_size"]]
    if hidden > WIDTH:
        heads = {names[stack.heads_field] for stack in family.stacks}
        shared = {names[family.key_value_heads_field]} if fields.get(names[family.key_value_heads_field]) else set()
        inner = {names[stack.neurons_field] for stack in family.stacks if stack.neurons_field}
        _narrow(fields, names["hidden_size"], sorted(heads | shared), sorted(inner))
    for name in ("model_type", "transformers_version", "architectures", "dtype", "torch_dtype"):
        fields.pop(name, None)
    return type(config)(**fields)


def _fields(family: Family) -> list[str]:
    stacks = family.stacks
    named = [name for one in stacks for name in (one.blocks_field, one.heads_field, one.neurons_field) if name]
    return [*named, family.key_value_heads_field]


def _shorten(fields: dict[str, Any], blocks_field: str) -> None:
    """Keep two blocks, of two kinds where a list of the config names the kinds of blocks."""
    count = fields[blocks_field]
    kept = min(BLOCKS, count)
    for name, value in fields.items():
        if isinstance(value, list) and len(value) == count and count > kept and not name.endswith("_ids"):
            firsts = [value.index(kind) for kind in _distinct(value)][:kept]
            others = [place for place in range(count) if place not in firsts]
            fields[name] = [value[place] for place in sorted([*firsts, *others][:kept])]
    fields[blocks_field] = kept


def _distinct(values: list[Any]) -> list[Any]:
    return [value for place, value in enumerate(values) if value not in values[:place]]


def _narrow(fields: dict[str, Any], hidden_field: str, head_fields: list[str], inner_fields: list[str]) -> None:
    """Scale widths and numbers of heads down to the largest residual width, in place."""
    hidden = fields[hidden_field]
    counts = {name: fields[name] for name in head_fields}
    most = max(counts.values())
    part = hidden // most if hidden % most == 0 else 2 ** int(math.log2(hidden / most))
    small, small_part = _small_heads(counts, part)
    fields |= small
    fields[hidden_field] = max(small.values()) * small_part
    head_scale, scale = small_part / part, fields[hidden_field] / hidden
    for name in HEAD_WIDTHS:
        if fields.get(name):
            fields[name] = max(LEAST_HEAD, round(fields[name] * head_scale / LEAST_HEAD) * LEAST_HEAD)
    if fields.get("rotary_dim"):
        fields["rotary_dim"] = max(2, round(fields["rotary_dim"] * head_scale / 2) * 2)
    for name in {*inner_fields, "word_embed_proj_dim"}:
        if fields.get(name):
            fields[name] = fields[hidden_field] if fields[name] == hidden else _scaled(fields[name], scale)
    _cut_frequencies(fields, head_scale)


def _small_heads(counts: dict[str, int], part: int) -> tuple[dict[str, int], int]:
    """Numbers of heads in the same ratio, at least two key/value heads where there are, and the width of each part.

    Args:
        part: residual width per query head.
    """
    common = math.gcd(*counts.values())
    units = {name: count // common for name, count in counts.items()}
    if max(units.values()) * LEAST_HEAD > WIDTH:  # one key for 71 heads: the ratio cannot be kept
        units = {name: min(count, WIDTH // LEAST_HEAD) for name, count in counts.items()}
        common = 1
    least = 1 if min(units.values()) >= 2 or common == 1 else 2
    fitting = [times for times in range(least, common + 1) if times * max(units.values()) * part <= WIDTH]
    times = fitting[-1] if fitting else least
    small = {name: unit * times for name, unit in units.items()}
    if fitting:
        return small, part
    room = max(LEAST_HEAD, WIDTH // max(small.values()))
    return small, 2 ** int(math.log2(room))


def _scaled(width: int, scale: float) -> int:
    multiple = min(ALIGNMENT, width & -width)
    return max(1, round(width * scale / multiple)) * multiple


def _cut_frequencies(fields: dict[str, Any], head_scale: float) -> None:
    """Shorten lists of one factor per rotary frequency, as Phi-3 has them."""
    rope = fields.get("rope_parameters") or fields.get("rope_scaling")
    for name, value in (rope or {}).items():
        if isinstance(value, list):
            rope[name] = value[: max(1, round(len(value) * head_scale))]
