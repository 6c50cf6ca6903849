"""Suggest the format of an export from a record alone: gguf where the model surely fits it, hf otherwise.

`Format.faults` asks the model itself. A record tells less, so what it does not tell counts against gguf.
"""

import json
from typing import Any

from slimsweep.export.llama_cpp.architecture import ARCHITECTURES
from slimsweep.paths import project_path

PLAIN = frozenset(
    (
        *("magnitude", "random", "sparsegpt", "wanda", "llmcompressor"),
        *("distill", "distill_reasoning", "finetune", "lora", "minillm"),
        *("glu", "layers", "qap", "half"),
    )
)
"""Techniques whose layers stay plain weights, unless a stage packs them, keeps adapters or leaves unequal widths."""


def suggested_format(record: dict[str, Any]) -> str:
    """`gguf` for a language model of a family of llama.cpp whose stages left plain layers of one width, else `hf`."""
    model = (record.get("config") or {}).get("model") or {}
    architecture = ARCHITECTURES.get(_model_type(model) or "")
    if architecture is None or model.get("task", "causal_lm") != "causal_lm":
        return "hf"
    stages = record.get("stages") or []
    has_windows = architecture.window_pattern is not None  # removed blocks would move the windows
    is_plain = all(_is_plain(stage) and not (has_windows and stage["technique"] == "layers") for stage in stages)
    return "gguf" if is_plain else "hf"


def _model_type(model: dict[str, Any]) -> str | None:
    """Family of a model by its settings, or by the config.json of its folder; None where neither tells."""
    if found := (model.get("shape") or {}).get("model_type"):
        return found
    try:
        file = project_path(model.get("path") or "") / "config.json"
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("model_type") if isinstance(content, dict) else None


def _is_plain(stage: dict[str, Any]) -> bool:
    fields, notes = stage.get("fields") or {}, stage.get("notes") or {}
    is_packed = notes.get("bits_per_weight") is not None or fields.get("merge") is False
    return stage.get("technique") in PLAIN and not is_packed and _has_one_width(notes)


def _has_one_width(notes: dict[str, Any]) -> bool:
    """Whether a stage removed nothing, whole blocks, or as many neurons from every block."""
    if not notes.get("removed_parameters"):
        return True
    before, after = notes.get("before") or {}, notes.get("after") or {}
    blocks = after.get("blocks") or []
    if not blocks or not before.get("blocks") or before.get("channels") != after.get("channels"):
        return False
    former = {name: width for name, width in before["blocks"][0].items() if name != "neurons"}
    return all(block == blocks[0] for block in blocks) and former.items() <= blocks[0].items()
