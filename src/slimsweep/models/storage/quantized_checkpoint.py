"""Checkpoints whose files hold codes of a quantization method in place of weights: found and refused by name."""

import json
from collections.abc import Iterable
from pathlib import Path

from slimsweep.models.storage import checkpoint

CONFIG_ENTRIES = {"quantization_config": "", "compression_config": "compressed-tensors", "quantization": "mlx"}
"""Entries of config.json that only quantized checkpoints have, with the method where the entry does not name it."""
SIDE_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}
"""Files in which some methods keep their settings beside a config.json that says nothing; they decide nothing alone."""
PLAIN_DTYPES = ("F64", "F32", "F16", "BF16")
EIGHT_BIT_FLOATS = ("F8_E4M3", "F8_E5M2")
"""Weights in one of them are plain numbers too, unless scales stand beside them."""
CODE_NAMES = ("weight", "qweight", "weight_packed", "W_q")
"""Last words of the names under which methods keep codes; Mixture-of-experts checkpoints in mxfp4 end in `_blocks`."""


def fault(folder: Path) -> str | None:
    """Check config and file headers for weights that are not plain; returns why they cannot be read, or None.

    Weights that slimsweep packed have a manifest, by which they are read.
    """
    if (folder / checkpoint.MANIFEST).is_file():
        return None
    files = [file for file in checkpoint.weight_files(folder) if file.is_file()]
    codes = _first_codes(files)
    method = _method(folder)
    if method is None and codes is None:
        return None
    if method is None:
        method = next((name for file, name in SIDE_FILES.items() if (folder / file).is_file()), "an unnamed method")
    place = f"tensor {codes}" if codes else "its config.json"
    return (
        f"Model folder {folder} is quantized already, by {method} (see {place}). Read are plain weights (float32, "
        "float16, bfloat16), which techniques change, and models that slimsweep saved itself. "
        f"{_advice(method, bool(files) and codes is None)}"
    )


def _method(folder: Path) -> str | None:
    """The method that config.json names; None where the config is that of plain weights."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    for entry, usual in CONFIG_ENTRIES.items():
        settings = config.get(entry) if isinstance(config, dict) else None
        if not settings:
            continue
        given = settings if isinstance(settings, dict) else {}
        bits = next((f", {bits} bits" for bits in (4, 8) if given.get(f"load_in_{bits}bit")), "")
        return f"{given.get('quant_method') or usual or ('bitsandbytes' if bits else 'an unnamed method')}{bits}"
    return None


def _advice(method: str, has_plain_weights: bool) -> str:
    if has_plain_weights:
        return (
            "The files hold plain numbers, so the entry in config.json may be a left-over: if the weights are plain, "
            "delete it there."
        )
    if method.startswith("bitsandbytes"):
        return (
            "Use the model it was made from; or write plain weights, and the tokenizer beside them: "
            'AutoModelForCausalLM.from_pretrained(FOLDER, dtype="auto").dequantize()'
            ".save_pretrained(OTHER_FOLDER, save_original_format=False)."
        )
    return "Use the model it was made from, which its model card names."


def _first_codes(files: Iterable[Path]) -> str | None:
    """The first tensor that holds codes and not weights, with its dtype."""
    for file in files:
        try:
            tensors = checkpoint.header(file)
        except ValueError:
            continue  # told as damaged elsewhere
        has_scales = any("scale" in name.rsplit(".", 1)[-1] for name in tensors)
        for name, entry in tensors.items():
            dtype = entry.get("dtype")
            is_plain = dtype in PLAIN_DTYPES or (dtype in EIGHT_BIT_FLOATS and not has_scales)
            if not is_plain and (name.rsplit(".", 1)[-1] in CODE_NAMES or name.endswith("_blocks")):
                return f"{name}: {dtype}"
    return None
