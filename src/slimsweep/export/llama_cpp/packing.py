"""Types of a file's tensors, and their packed bytes.

A type packs blocks of 32 numbers of a row (Q8_0, Q4_0, Q5_0) or of 256 (the K-quants). A mixture such as Q4_K_M names
one type for most tensors and a finer one for those where an error costs most, by the rules of llama.cpp:

    head, and tied embeddings       Q6_K     (here Q8_0 in Q4_0 and Q8_0, which needs no other package)
    attn_v, ffn_down                Q6_K in the first and last eighth of the blocks and in every third between
    embeddings that are no head     as most tensors
    norms, biases                   F32
    rows that 256 does not divide   the next type of 32: Q4_K -> Q5_0, Q6_K -> Q8_0
    rows that 32 does not divide    F16

The package gguf packs blocks of 32. Blocks of 256 are packed by auto-round, with an importance of inputs or without.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = {"F32": 1, "F16": 1, "BF16": 1, "Q8_0": 32, "Q5_0": 32, "Q4_0": 32, "Q4_K": 256, "Q6_K": 256}
"""Numbers of a row that each type packs together."""
NARROWER = {"Q4_K": "Q5_0", "Q6_K": "Q8_0", "Q8_0": "F16", "Q5_0": "F16", "Q4_0": "F16"}
"""Type that takes the place of another where its block does not divide a row. Source: llama.cpp's quantizer."""
WEIGHTED = ("Q4_K", "Q6_K")
"""Types whose packing reads an importance."""
ROWS_AT_ONCE = 1 << 22
"""Numbers that are packed at once: packers hold some ten copies of them in fp32."""


@dataclass(frozen=True)
class Mixture:
    """Types of one kind of file."""

    most: str
    head: str
    """Type of the head, and of embeddings that are the head too."""
    finer: str
    """Type of the values and of the MLP's outputs in some blocks."""
    number: int
    """Value of `general.file_type`."""


MIXTURES = {
    "F32": Mixture("F32", "F32", "F32", 0),
    "F16": Mixture("F16", "F16", "F16", 1),
    "BF16": Mixture("BF16", "BF16", "BF16", 32),
    "Q8_0": Mixture("Q8_0", "Q8_0", "Q8_0", 7),
    "Q4_0": Mixture("Q4_0", "Q8_0", "Q4_0", 2),
    "Q6_K": Mixture("Q6_K", "Q6_K", "Q6_K", 18),
    "Q4_K_M": Mixture("Q4_K", "Q6_K", "Q6_K", 15),
}


def tensor_type(mixture: Mixture, name: str, shape: tuple[int, ...], blocks: int, is_tied: bool) -> str:
    """Type of a tensor by its GGUF name, before and after what its width allows."""
    if len(shape) < 2:
        return "F32"
    part, kind = name.removesuffix(".weight").rpartition(".")[2], mixture.most
    if part == "output" or (part == "token_embd" and is_tied):
        kind = mixture.head
    elif part in ("attn_v", "ffn_down") and _is_fine(int(name.split(".")[1]), blocks):
        kind = mixture.finer
    while shape[-1] % BLOCK[kind]:
        kind = NARROWER[kind]
    return kind


def _is_fine(block: int, blocks: int) -> bool:
    """Whether a block is one of those that keep more bits. Source: `use_more_bits` of llama.cpp's quantizer."""
    eighth = blocks // 8
    return block < eighth or block >= 7 * blocks // 8 or (block - eighth) % 3 == 2


def missing_packer(kinds: Mapping[str, str]) -> str | None:
    """Sentence where tensors (their type by name) need auto-round, which is not installed."""
    needing = sorted({kind for kind in kinds.values() if kind in WEIGHTED})
    if not needing or importlib.util.find_spec("auto_round"):
        return None
    return (
        f"{', '.join(needing)} are packed by the package auto-round: pip install 'slimsweep[export]'; "
        "without it choose type=Q8_0 or type=Q4_0"
    )


def packed(values: Float[Tensor, "..."], kind: str, importance: Float[Tensor, " in"] | None = None) -> np.ndarray:
    """Values of a tensor as a file holds them: floats, or the bytes of each row.

    Args:
        importance: mean square of each input; None weighs all alike. Only K-quants read it.
    """
    if kind == "F32":
        return values.contiguous().numpy()
    if kind == "F16":
        return values.half().contiguous().numpy()
    at_once = max(1, ROWS_AT_ONCE // values.shape[-1])
    return np.concatenate([_pack(rows, kind, importance) for rows in values.split(at_once)])


def _pack(rows: Float[Tensor, "row in"], kind: str, importance: Float[Tensor, " in"] | None) -> np.ndarray:
    if kind not in WEIGHTED:
        import gguf

        return gguf.quantize(rows.contiguous().numpy(), gguf.GGMLQuantizationType[kind])
    from auto_round.export.export_to_gguf.packing import ggml_quant

    # Its other path, original=True, fails for Q6_K (auto-round 0.15.1).
    return ggml_quant(rows.clone(), kind.lower(), imatrix=importance, device="cpu", original=False)


def row_bytes(kind: str, width: int) -> int:
    """Bytes of a row of a type."""
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return width // block * size


def largest(values: Float[Tensor, "..."]) -> float:
    """Largest magnitude; what exceeds 65504 becomes infinite in F16."""
    return float(values.abs().max()) if values.numel() else 0.0


MAX_HALF = torch.finfo(torch.float16).max
