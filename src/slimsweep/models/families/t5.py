"""T5 and mT5, with a plain or a gated MLP; the first block of a stack holds the position biases of all its blocks."""

from slimsweep.models.families import Attention, Family, Stack

_MLP = ("DenseReluDense.wi", "DenseReluDense.wi_0", "DenseReluDense.wi_1")
_COUNTS = {"n_heads": "heads", "inner_dim": "width"}


def _attention(place: str) -> dict[str, object]:
    """Paths of one attention within a block."""
    return {
        "inputs": tuple(f"{place}.{name}" for name in "qkv"),
        "output": f"{place}.o",
        "head_width": f"{place}.key_value_proj_dim",
        "head_counts": {f"{place}.{name}": quantity for name, quantity in _COUNTS.items()},
    }


_SELF = {
    {"inputs": "attention_inputs", "output": "attention_output"}.get(name, name): paths
    for name, paths in _attention("layer.0.SelfAttention").items()
}
_FIELDS = {"heads_field": "num_heads", "neurons_field": "d_ff"}

FAMILY = Family(
    model_types=("t5", "mt5"),
    encoder=Stack(
        blocks="encoder.block",
        **_SELF,
        mlp_inputs=tuple(f"layer.1.{name}" for name in _MLP),
        mlp_output="layer.1.DenseReluDense.wo",
        norms=("layer.0.layer_norm", "layer.1.layer_norm"),
        final_norm="encoder.final_layer_norm",
        blocks_field="num_layers",
        **_FIELDS,
    ),
    blocks="decoder.block",
    **_SELF,
    cross=Attention(**_attention("layer.1.EncDecAttention")),
    mlp_inputs=tuple(f"layer.2.{name}" for name in _MLP),
    mlp_output="layer.2.DenseReluDense.wo",
    norms=("layer.0.layer_norm", "layer.1.layer_norm", "layer.2.layer_norm"),
    final_norm="decoder.final_layer_norm",
    blocks_field="num_decoder_layers",
    **_FIELDS,
    embeddings="shared",
    head="lm_head",
    head_scaled_by="scale_decoder_outputs",
    position_bias=True,
    residual_writers=("encoder.embed_tokens", "decoder.embed_tokens"),
)
