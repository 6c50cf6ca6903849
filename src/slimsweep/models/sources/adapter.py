"""Adapters (LoRA and its relatives) beside weights: transformers and this package would leave them out unsaid."""

import json
from pathlib import Path

CONFIG = "adapter_config.json"


def adapter_faults(folder: Path, place: str) -> list[str]:
    """One fault where a folder holds an adapter that is not merged, with the lines of Python that merge it.

    `place` is the folder or hub id that `from_pretrained` takes.
    """
    file = folder / CONFIG
    if not file.is_file():
        return []
    try:
        settings = json.loads(file.read_text())
        kind, base = settings.get("peft_type", "LORA"), settings.get("base_model_name_or_path") or "its base model"
    except (OSError, ValueError, AttributeError):
        kind, base = "LORA", "its base model"
    kind = "LoRA" if kind == "LORA" else kind
    has_model = (folder / "config.json").is_file()
    beside = "beside its weights, which would be compressed without it" if has_model else "and no model"
    fault = (
        f"{place} holds an adapter ({kind}) of {base} {beside}. Merge the two (pip install peft), copy the tokenizer's "
        "files to MERGED, and give model=local model.path=MERGED:\n"
        "      from peft import AutoPeftModelForCausalLM\n"
        f"      AutoPeftModelForCausalLM.from_pretrained({place!r}).merge_and_unload().save_pretrained('MERGED')"
    )
    leave = f"\n    To compress the weights without the adapter, move {CONFIG} and its weights out of the folder."
    return [fault + leave if has_model else fault]
