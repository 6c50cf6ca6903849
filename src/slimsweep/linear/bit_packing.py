"""Small integers in 32-bit words, as compressed-tensors lays them; it is imported at first use, which takes seconds."""

from jaxtyping import Int
from torch import Tensor


def pack(codes: Int[Tensor, "row column"], bits: int, along: int = 1) -> Int[Tensor, "..."]:
    """Signed codes without gaps in words, the codes of a word being neighbours `along` a dimension."""
    from compressed_tensors.compressors.pack_quantized import pack_to_int32

    return pack_to_int32(codes, bits, packed_dim=along)


def unpack(words: Int[Tensor, "..."], bits: int, shape: tuple[int, int], along: int = 1) -> Int[Tensor, "row column"]:
    """The codes that `pack` was given, of that shape, in a byte each."""
    from compressed_tensors.compressors.pack_quantized import unpack_from_int32

    return unpack_from_int32(words, bits, shape, packed_dim=along)
