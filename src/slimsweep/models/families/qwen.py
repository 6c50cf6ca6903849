"""Qwen 2, 2.5 and 3: Llama's parts; version 2 has biases on q, k, v, version 3 norms on q, k."""

from dataclasses import replace

from slimsweep.models.families.llama import FAMILY as LLAMA

FAMILY = replace(LLAMA, model_types=("qwen2", "qwen3"))
