"""Matrix technique x family x format: each technique is planned on a small model of each family, without weights.

technique      skeleton of 2 blocks      planned         asked
sparsegpt  ->  llama, gpt2, bert, ... ->  its shapes  ->  Format.faults
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimsweep.errors import SlimsweepError
from slimsweep.export.formats import formats
from slimsweep.models.families import Family, families
from slimsweep.models.skeleton import Skeleton
from slimsweep.models.sources.byte_tokenizer import byte_tokenizer
from slimsweep.models.sources.random import RandomModel
from slimsweep.techniques.base import Technique

SMALL = {
    2: ("num_key_value_heads", "num_kv_heads"),
    7: ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
    + ("encoder_layers", "decoder_layers"),
    4: ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads")
    + ("decoder_attention_heads",),
    16: ("rotary_dim",),
    32: ("head_dim", "d_kv"),
    128: ("hidden_size", "n_embd", "dim", "d_model", "word_embed_proj_dim"),
    256: ("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim", "hidden_dim", "d_ff")
    + ("encoder_ffn_dim", "decoder_ffn_dim"),
    260: ("vocab_size",),
}
"""Sizes of the small models, by the names that configs have for them.

Groups of 64 fit. Seven blocks: some techniques leave the first four and the last two as they are.
"""
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True)
class Cell:
    """One chain on one family: the formats that express the result, and why others do not."""

    chain: str
    family: str
    faults: dict[str, list[str]]
    """Reasons by format; empty where the format expresses the model."""
    refused: str = ""
    """Reason why the technique itself refuses the family; then there is no model."""


def matrix(chains: Mapping[str, Sequence[Technique]], cache_dir: str) -> list[Cell]:
    """Cells of all chains and families; an entry `dense` stands first.

    Args:
        chains: stages in order, with their settings, by name.
    """
    skeletons = {model_type: skeleton_of(model_type, cache_dir) for model_type in family_names()}
    return [
        _cell(name, stages, family, skeleton)
        for name, stages in {"dense": (), **chains}.items()
        for family, skeleton in skeletons.items()
    ]


def family_names() -> list[str]:
    """One `model_type` of each family."""
    first: dict[int, str] = {}
    for model_type, family in families().items():
        first.setdefault(id(family), model_type)
    return sorted(first.values())


def skeleton_of(model_type: str, cache_dir: str) -> Skeleton:
    """A small model of a family on the meta device, with a tokenizer of bytes."""
    source = RandomModel(
        name=model_type,
        shape=small_shape(model_type),
        weights="meta",
        task=_task(families()[model_type]),
        cache_dir=cache_dir,
    )
    skeleton = source.skeleton().copy()
    skeleton.tokenizer = byte_tokenizer()
    return skeleton


def small_shape(model_type: str) -> dict[str, Any]:
    """Config of a small model: its family's own, with the sizes of SMALL."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    known = CONFIG_MAPPING[model_type]().to_dict()
    sizes = {name: size for size, names in SMALL.items() for name in names if name in known}
    ids = {name: value for name, value in IDS.items() if name in known}
    return {"model_type": model_type, **sizes, **ids}


def _task(family: Family) -> str:
    if family.encoder is not None:
        return "seq2seq_lm"
    return "sequence_classification" if family.head.startswith("classifier") else "causal_lm"


def _cell(name: str, stages: Sequence[Technique], family: str, skeleton: Skeleton) -> Cell:
    planned = skeleton.copy()
    for technique in stages:
        try:
            if refused := technique.faults(planned):
                return Cell(name, family, {}, refused[0])
            technique.plan(planned)
        except SlimsweepError as error:
            return Cell(name, family, {}, str(error))
    return Cell(name, family, {word: kind().faults(planned) for word, kind in formats().items()})


def markdown(cells: list[Cell]) -> str:
    """The matrix as one table: chains down, formats across; a cell names the families.

    A chain that runs on no family, such as one whose program is not installed, has no row.
    """
    every, words = sorted({cell.family for cell in cells}), list(formats())
    rows = []
    for name in dict.fromkeys(cell.chain for cell in cells if not cell.refused):
        own = [cell for cell in cells if cell.chain == name and not cell.refused]
        run = {cell.family for cell in own}
        entries = [_families({cell.family for cell in own if cell.faults.get(word) == []}, run) for word in words]
        rows.append(f"| `{name}` | {_families(run, set(every))} | {' | '.join(entries)} |")
    head = f"| chain | runs on | {' | '.join(f'`{word}`' for word in words)} |"
    return "\n".join([f"Families: {', '.join(every)}.", "", head, "|---" * (len(words) + 2) + "|", *rows])


def _families(these: set[str], all_of: set[str]) -> str:
    """Families in few words: all, none, a list, or all but a list."""
    others = all_of - these
    if not others:
        return "all" if these else "none"
    if not these:
        return "none"
    return f"all but {', '.join(sorted(others))}" if len(others) < len(these) else ", ".join(sorted(these))


def formats_of(cells: list[Cell], chain: str, family: str) -> list[str]:
    """Formats that express one chain on one family."""
    found = next(cell for cell in cells if (cell.chain, cell.family) == (chain, family))
    return [word for word, faults in found.faults.items() if not faults]
