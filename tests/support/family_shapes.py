"""A two-block shape of every family, small enough for seconds, odd where families differ."""

from slimsweep.models.sources.random import RandomModel

LLAMA_LIKE = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
GEMMA_LIKE = LLAMA_LIKE | {"head_dim": 16, "final_logit_softcapping": 0.05, "query_pre_attn_scalar": 16}
DECODERS = {
    "llama": {"model_type": "llama", **LLAMA_LIKE},
    "mistral": {"model_type": "mistral", **LLAMA_LIKE, "sliding_window": 8},
    "qwen2": {"model_type": "qwen2", **LLAMA_LIKE, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", **LLAMA_LIKE, "head_dim": 16},
    "smollm3": {"model_type": "smollm3", **LLAMA_LIKE, "no_rope_layers": [1, 0], "bos_token_id": 1, "eos_token_id": 2},
    "granite": {
        "model_type": "granite",
        **LLAMA_LIKE,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.4,
        "logits_scaling": 5.0,
    },
    "olmo2": {"model_type": "olmo2", **LLAMA_LIKE, "rms_norm_eps": 1e-12},  # masked and removed heads differ by it
    "stablelm": {"model_type": "stablelm", **LLAMA_LIKE, "use_qkv_bias": True},
    "gemma": {"model_type": "gemma", **LLAMA_LIKE, "head_dim": 16},
    "gemma2": {"model_type": "gemma2", **GEMMA_LIKE, "sliding_window": 8},
    "gemma3_text": {
        "model_type": "gemma3_text",
        **GEMMA_LIKE,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "phi3": {"model_type": "phi3", **LLAMA_LIKE},
    "starcoder2": {"model_type": "starcoder2", **LLAMA_LIKE, "bos_token_id": 1, "eos_token_id": 2},
    "phi": {"model_type": "phi", **LLAMA_LIKE, "num_key_value_heads": 4},
    "gptj": {
        "model_type": "gptj",
        "vocab_size": 260,
        "n_embd": 32,
        "n_inner": 48,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "rotary_dim": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "falcon": {
        "model_type": "falcon",
        "vocab_size": 260,
        "hidden_size": 32,
        "ffn_hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_kv_heads": 2,
        "new_decoder_architecture": True,
        "max_position_embeddings": 128,
        "bias": True,
    },
    "bloom": {
        "model_type": "bloom",
        "vocab_size": 260,
        "hidden_size": 32,
        "n_layer": 2,
        "n_head": 4,
    },
    "opt": {
        "model_type": "opt",
        "vocab_size": 260,
        "hidden_size": 32,
        "word_embed_proj_dim": 16,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 260,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
    },
    "gpt_neox": {
        "model_type": "gpt_neox",
        "vocab_size": 260,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    },
}
ENCODERS = {
    "bert": {
        "model_type": "bert",
        "vocab_size": 260,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    },
    "roberta": {
        "model_type": "roberta",
        "vocab_size": 260,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 130,
        "pad_token_id": 1,
    },
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": 260,
        "dim": 32,
        "hidden_dim": 48,
        "n_layers": 2,
        "n_heads": 4,
        "max_position_embeddings": 128,
    },
}
T5_LIKE = {
    "model_type": "t5",
    "vocab_size": 260,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
BART_LIKE = {
    "vocab_size": 260,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 128,
}
ENCODER_DECODERS = {
    "t5": T5_LIKE,
    "t5 gated": T5_LIKE | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "d_kv": 16},
    "bart": {"model_type": "bart", **BART_LIKE},
    "marian": {"model_type": "marian", **BART_LIKE, "pad_token_id": 0, "decoder_start_token_id": 0},
}
"""Odd where they differ: numbers of blocks, heads and neurons of the two stacks, width of a head (T5)."""
FIXED_HEADS = {"bloom"}
"""ALiBi: a table of slopes for all blocks, so that none can lose heads."""
UNGATED = {"starcoder2", "phi", "gptj", "falcon", "bloom", "opt", "gpt2", "gpt_neox"}
GATED = [name for name in DECODERS if name not in UNGATED]
GROUPED = {
    name for name, shape in DECODERS.items() if 2 in (shape.get("num_key_value_heads"), shape.get("num_kv_heads"))
}
HEAD_WIDTHS = {name for name in GROUPED if name not in ("stablelm", "falcon")}
"""Families whose config has a width of heads of its own."""
FOUR_TIMES = {"gpt2", "bloom"}
"""Shapes above that leave the number of neurons to the residual width."""
BLOCK_LINEARS = {  # in order of definition
    "llama": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "mistral": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "qwen2": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "qwen3": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "smollm3": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "granite": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "olmo2": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "stablelm": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "starcoder2": "q_proj k_proj v_proj o_proj c_fc c_proj",
    "phi": "q_proj k_proj v_proj dense fc1 fc2",
    "gptj": "k_proj v_proj q_proj out_proj fc_in fc_out",
    "falcon": "query_key_value dense dense_h_to_4h dense_4h_to_h",
    "bloom": "query_key_value dense dense_h_to_4h dense_4h_to_h",
    "gemma": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "gemma2": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "gemma3_text": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "phi3": "o_proj qkv_proj gate_up_proj down_proj",
    "opt": "k_proj v_proj q_proj out_proj fc1 fc2",
    "gpt2": "c_attn c_proj c_fc c_proj",
    "gpt_neox": "query_key_value dense dense_h_to_4h dense_4h_to_h",
    "bert": "query key value dense dense dense",
    "roberta": "query key value dense dense dense",
    "distilbert": "q_lin k_lin v_lin out_lin lin1 lin2",
}


def random_model(name: str, cache_dir: str, **fields) -> RandomModel:
    """A source of random weights for one of the families above."""
    shape = (DECODERS | ENCODERS | ENCODER_DECODERS)[name]
    return RandomModel(name=name, shape=shape, task=task_of(name), cache_dir=cache_dir, **fields)


def task_of(name: str) -> str:
    """The task of one of the families above."""
    if name in ENCODER_DECODERS:
        return "seq2seq_lm"
    return "causal_lm" if name in DECODERS else "sequence_classification"
