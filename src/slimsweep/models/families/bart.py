"""BART and Marian: norms after each part, learned or sinusoidal positions, a bias on the logits."""

from slimsweep.models.families import Attention, Family, Stack

_SELF = {
    "attention_inputs": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention_output": "self_attn.out_proj",
    "head_width": "self_attn.head_dim",
    "head_counts": {"self_attn.num_heads": "heads"},
}
_MLP = {"mlp_inputs": ("fc1",), "mlp_output": "fc2"}

FAMILY = Family(
    model_types=("bart", "marian"),
    encoder=Stack(
        blocks="model.encoder.layers",
        **_SELF,
        **_MLP,
        norms=("self_attn_layer_norm", "final_layer_norm"),
        blocks_field="encoder_layers",
        heads_field="encoder_attention_heads",
        neurons_field="encoder_ffn_dim",
    ),
    blocks="model.decoder.layers",
    **_SELF,
    cross=Attention(
        inputs=("encoder_attn.q_proj", "encoder_attn.k_proj", "encoder_attn.v_proj"),
        output="encoder_attn.out_proj",
        head_width="encoder_attn.head_dim",
        head_counts={"encoder_attn.num_heads": "heads"},
    ),
    **_MLP,
    norms=("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    blocks_field="decoder_layers",
    heads_field="decoder_attention_heads",
    neurons_field="decoder_ffn_dim",
    embeddings="model.shared",
    head="lm_head",
    logits_bias="final_logits_bias",
    residual_writers=tuple(
        f"model.{stack}.{name}"
        for stack in ("encoder", "decoder")
        for name in ("embed_tokens", "embed_positions", "layernorm_embedding")
    ),
)
