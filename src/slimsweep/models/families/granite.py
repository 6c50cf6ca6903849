"""Granite 3: Llama's parts with multipliers, of which the one on the logits is applied after the head."""

from dataclasses import replace

from slimsweep.models.families.llama import FAMILY as LLAMA

FAMILY = replace(LLAMA, model_types=("granite",), logits_divisor="logits_scaling")
