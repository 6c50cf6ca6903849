"""Architectures that llama.cpp runs: what a config and its tensors become in a GGUF file.

Three things differ between transformers and llama.cpp; all else is a change of names.

1. Rotary embeddings. transformers turns row i of a head together with row i + width/2; llama.cpp, for Llama and
   Mistral, turns neighbours. So the rows of q and k of each head are interleaved (the inputs of a row stay):

       transformers   0 1 2 3 | 4 5 6 7        pairs (0,4) (1,5) (2,6) (3,7)
       GGUF           0 4 1 5 2 6 3 7          pairs of neighbours

   Qwen and Gemma keep the order of transformers in llama.cpp too.
2. Gemma's norms multiply by 1 + weight; llama.cpp multiplies by the weight, so 1 is added.
3. What a Gemma config states (which blocks have a sliding window, the scale of attention) llama.cpp knows by heart.
   A config that says otherwise is refused.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One architecture of llama.cpp."""

    name: str
    """Value of `general.architecture`."""
    interleaved: bool = False
    """Rows of q and k are in the order of neighbours; see above."""
    norm_offset: float = 0.0
    """Number added to the weights of norms."""
    window_pattern: int | None = None
    """Each block has a sliding window but every n-th one; None: no block has one."""
    wide_blocks: int | None = None
    """Number of blocks of the one size whose attention is scaled by residual width over heads, not by head width."""

    def faults(self, config: Any) -> list[str]:
        """Settings of a config that llama.cpp does not read, each with its consequence."""
        faults = []
        rope = _rope(config)
        if rope["rope_type"] not in ROPE_KINDS:
            known = ", ".join(ROPE_KINDS)
            faults.append(f"the export knows rotary embeddings {known}, and the config says {rope['rope_type']!r}")
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            faults.append(f"llama.cpp turns whole heads of {self.name}, and the config sets partial_rotary_factor")
        activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
        wanted = ("gelu_pytorch_tanh", "gelu") if self.norm_offset else ("silu",)
        if activation not in wanted:
            faults.append(f"llama.cpp runs {self.name} with {wanted[0]}, and the config says {activation!r}")
        return faults + self._window_faults(config) + self._scale_faults(config)

    def _window_faults(self, config: Any) -> list[str]:
        kinds = getattr(config, "layer_types", None)
        if not kinds:
            return []
        pattern = self.window_pattern
        expected = [
            "sliding_attention" if pattern and (block + 1) % pattern else "full_attention"
            for block in range(len(kinds))
        ]
        if list(kinds) == expected:
            return []
        rule = f"every block but each {pattern}th has a sliding window" if pattern else "no block has a sliding window"
        return [f"in llama.cpp's {self.name} {rule}, and the config says otherwise (were blocks removed?)"]

    def _scale_faults(self, config: Any) -> list[str]:
        scalar = getattr(config, "query_pre_attn_scalar", None)
        if scalar is None:
            return []
        is_wide = config.num_hidden_layers == self.wide_blocks
        expected = config.hidden_size // config.num_attention_heads if is_wide else head_width(config)
        if scalar == expected:
            return []
        return [
            f"llama.cpp scales the attention of {self.name} with {config.num_hidden_layers} blocks by {expected}, and "
            f"query_pre_attn_scalar is {scalar}"
        ]


ROPE_KINDS = ("default", "linear", "llama3")
LLAMA = Architecture(name="llama", interleaved=True)
ARCHITECTURES = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": Architecture(name="qwen2"),
    "qwen3": Architecture(name="qwen3"),
    "gemma": Architecture(name="gemma", norm_offset=1.0),
    "gemma2": Architecture(name="gemma2", norm_offset=1.0, window_pattern=2, wide_blocks=46),
    "gemma3_text": Architecture(name="gemma3", norm_offset=1.0, window_pattern=6, wide_blocks=62),
}
"""Architectures by the `model_type` of a transformers config."""


def head_width(config: Any) -> int:
    """Width of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def metadata(architecture: Architecture, config: Any) -> dict[str, Any]:
    """Settings of an architecture by their GGUF key; integers and floats keep the kind that llama.cpp reads."""
    width, rope = head_width(config), _rope(config)
    window = getattr(config, "sliding_window", None)
    context = int(config.max_position_embeddings)
    if config.model_type == "mistral" and window:  # llama.cpp gives its Llama no window: up to there both are equal
        context = min(context, int(window))
    settings: dict[str, Any] = {
        "block_count": int(config.num_hidden_layers),
        "context_length": context,
        "embedding_length": int(config.hidden_size),
        "feed_forward_length": int(config.intermediate_size),
        "vocab_size": int(config.vocab_size),
        "attention.head_count": int(config.num_attention_heads),
        "attention.head_count_kv": int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads),
        "attention.key_length": int(width),
        "attention.value_length": int(width),
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": int(width),
        "rope.freq_base": float(rope["rope_theta"]),
    }
    if rope["rope_type"] == "linear":
        settings |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    if architecture.window_pattern:
        settings["attention.sliding_window"] = int(window)
    local = config.rope_parameters.get("sliding_attention")
    if local:
        settings["rope.freq_base_swa"] = float(local["rope_theta"])
    for key, field in (
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
    ):
        if getattr(config, field, None):
            settings[key] = float(getattr(config, field))
    return {f"{architecture.name}.{key}": value for key, value in settings.items()}


@dataclass(frozen=True)
class NamedTensor:
    """A tensor of the model under its GGUF name, not converted yet."""

    name: str
    shape: tuple[int, ...]
    values: Callable[[], Float[Tensor, "..."]]
    """Its values in fp32, in GGUF's order; computed when asked for."""
    source: str
    """Its name in the transformers model; empty: it stands in the file alone."""
    restored: Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]] = lambda values: values
    """The values of the transformers model from those of the file."""


def named_tensors(architecture: Architecture, config: Any, tensors: dict[str, Tensor]) -> Iterator[NamedTensor]:
    """All tensors of a file, in the order of the model.

    Raises:
        LookupError: the architecture has no place for a tensor of the model; names them all.
    """
    import gguf

    kind = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    found = {source: names.get_name(source, try_suffixes=(".weight", ".bias")) for source in tensors}
    homeless = [source for source, name in found.items() if name is None]
    if homeless:
        raise LookupError(", ".join(homeless))
    for source, tensor in tensors.items():
        yield _named(architecture, config, (found[source], source), tensor)
    if _rope(config)["rope_type"] == "llama3":
        factors = rope_factors(config)
        yield NamedTensor("rope_freqs.weight", tuple(factors.shape), lambda: factors, "")


def _named(architecture: Architecture, config: Any, names: tuple[str, str], tensor: Tensor) -> NamedTensor:
    """A tensor by its name in the file and in the model."""
    name, source = names
    heads = {"q_proj": config.num_attention_heads, "k_proj": getattr(config, "num_key_value_heads", None)}
    part = source.rpartition(".")[0].rpartition(".")[2]
    shape = tuple(tensor.shape)
    if architecture.interleaved and part in heads:
        count = heads[part] or config.num_attention_heads
        return NamedTensor(
            *(name, shape, lambda: interleave(tensor.detach().float(), count), source),
            restored=lambda values: separate(values, count),
        )
    offset = architecture.norm_offset if source.endswith("norm.weight") else 0.0
    return NamedTensor(
        *(name, shape, lambda: tensor.detach().float() + offset, source), restored=lambda values: values - offset
    )


def interleave(rows: Float[Tensor, "..."], heads: int) -> Float[Tensor, "..."]:
    """Put row i of each head beside row i + width/2; see the picture at the top of this file."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def separate(rows: Float[Tensor, "..."], heads: int) -> Float[Tensor, "..."]:
    """The opposite of `interleave`."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def rope_factors(config: Any) -> Float[Tensor, " half"]:
    """Divisors of Llama 3's rotary frequencies. Source: transformers, `modeling_rope_utils`, kind `llama3`."""
    rope, width = _rope(config), head_width(config)
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    original = rope["original_max_position_embeddings"]
    frequencies = rope["rope_theta"] ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    turns = original * frequencies / (2 * math.pi)  # of a pair, over the context that the model was first trained on
    mixed = ((turns - low) / (high - low)).clamp(0, 1)  # 1: kept, 0: slowed by the whole factor
    return (1 / (mixed + (1 - mixed) / factor)).float()


def _rope(config: Any) -> dict[str, Any]:
    """Rotary settings of the blocks without a window."""
    rope = config.rope_parameters
    return rope.get("full_attention", rope)
