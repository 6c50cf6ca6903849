"""Mistral 7B: Llama's parts with sliding-window attention."""

from dataclasses import replace

from slimsweep.models.families.llama import FAMILY as LLAMA

FAMILY = replace(LLAMA, model_types=("mistral",))
