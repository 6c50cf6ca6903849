"""SmolLM3: Llama's parts; a list in its config says which blocks have rotary positions."""

from dataclasses import replace

from slimsweep.models.families.llama import FAMILY as LLAMA

FAMILY = replace(LLAMA, model_types=("smollm3",))
