"""GGUF files: converted once to fp32 safetensors in the cache, as transformers reads them.

Everything else in this package then works on the converted folder, `memory_budget` and digests of layers included.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slimsweep.atomic import whole_folder
from slimsweep.errors import ModelError
from slimsweep.models.storage import checkpoint
from slimsweep.models.task import TASKS
from slimsweep.paths import lasting_cache

log = logging.getLogger(__name__)

CONVERSION = 1
"""Raised when `convert` writes other values than before."""
MAGIC = b"GGUF"
ORIGIN = "gguf.json"
"""Beside the converted weights: what they were quantized to."""
SENTENCE = "The quick brown fox jumps over the lazy dog, and then it sleeps."
UNQUANTIZED = ("F32", "F16", "BF16")


def fault(file: Path) -> str | None:
    """Sentence on why a path is no GGUF file; None where it is one."""
    if not file.is_file():
        return f"Model file {file} does not exist; give a .gguf file, or a folder with config.json and *.safetensors."
    with file.open("rb") as stream:
        start = stream.read(len(MAGIC))
    if start == MAGIC:
        return None
    reason = "it is a git-lfs pointer" if start == b"vers" else f"it begins with {start!r} instead of {MAGIC!r}"
    return f"Model file {file} is no GGUF file: {reason}. Download the file itself again."


def digest(file: Path, cache_dir: Path) -> str:
    """SHA-256 of the file as it was published, so that a key does not wait for the conversion."""
    return checkpoint.json_digest([checkpoint.file_digest(file, cache_dir), CONVERSION])


def converted(file: Path, cache_dir: Path) -> Path:
    """Folder of a GGUF file's weights as safetensors, with config and tokenizer; written at the first call.

    Raises:
        ModelError: transformers cannot read the file, or the folder cannot be written.
    """
    target = _target(file, cache_dir)
    if not (target / "config.json").is_file():
        _write_once(file, target, convert)
    return target


def described(file: Path, cache_dir: Path) -> Path:
    """Folder of a GGUF file's config and tokenizer: the converted one, if it is there or the cache lasts.

    A dry run keeps nothing, so in its throwaway cache the weights are not converted.

    Raises:
        ModelError: see `converted`.
    """
    target = _target(file, cache_dir)
    if lasting_cache(cache_dir) == cache_dir or (target / "config.json").is_file():
        return converted(file, cache_dir)
    target = target.with_name(f"{target.name}-described")
    if not (target / "config.json").is_file():
        _write_once(file, target, describe)
    return target


def is_unconverted(file: Path, cache_dir: Path) -> bool:
    """Whether the folder of `described` has no weights."""
    return described(file, cache_dir) != _target(file, cache_dir)


def _target(file: Path, cache_dir: Path) -> Path:
    """Folder for the converted file."""
    return cache_dir / "models" / f"{file.stem}-{checkpoint.file_digest(file, cache_dir)[:12]}-v{CONVERSION}"


def _write_once(file: Path, target: Path, write: Callable[[Path, Path], None]) -> None:
    """Write what is read of `file` into the folder `target`, which appears whole or not at all; other processes wait.

    Raises:
        ModelError: see `converted`.
    """
    from filelock import FileLock
    from safetensors import SafetensorError

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if (target / "config.json").is_file():
                return
            with whole_folder(target) as partial:
                write(file, partial)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk in its own class
        raise ModelError(
            f"{file.name} could not be converted into {target} ({error}). The folder must be writable and "
            f"have room for about {8 * file.stat().st_size / 1e9:.1f} GB; or set cache_dir=FOLDER."
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise ModelError(
            f"{file} cannot be read by transformers ({type(error).__name__}: {error}). Download it again if it may be "
            "damaged; otherwise use the model's safetensors: model=hub model.id=ORG/NAME, or model=local."
        ) from error


def convert(file: Path, folder: Path) -> None:
    """Write the weights of a GGUF file to `folder` as fp32 safetensors, with config and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    log.info("Converting %s to safetensors, once: about a minute.", file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    model.hf_quantizer = None  # the weights are plain numbers now; these marks would make saving fail
    del model.config.quantization_config
    _write_tokenizer(file, folder, model.config)
    model.save_pretrained(folder)
    (folder / ORIGIN).write_text(json.dumps({"baseline": _baseline(file)}))


def describe(file: Path, folder: Path) -> None:
    """Write config and tokenizer of a GGUF file to `folder`, as `convert` writes them beside the weights."""
    import torch
    from transformers import AutoConfig

    log.info("Reading config and tokenizer of %s: some seconds.", file.name)
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    config.architectures, config.dtype = [TASKS["causal_lm"].architecture(config.model_type)], torch.float32
    _write_tokenizer(file, folder, config)
    config.save_pretrained(folder)


def _write_tokenizer(file: Path, folder: Path, config: Any) -> None:
    """Write the tokenizer of a GGUF file with the end token of its config."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, clean_up_tokenization_spaces=False)
    # The GGUF reader of transformers 5.17 takes the beginning token for the end token; the config does not.
    end = config.eos_token_id
    if end is not None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end[0] if isinstance(end, list) else end)
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)


def baseline(file: Path, cache_dir: Path) -> str:
    """Description of a file's weights before they were converted, such as `dequantised Q4_K_M`."""
    origin = described(file, cache_dir) / ORIGIN
    return json.loads(origin.read_text())["baseline"] if origin.is_file() else _baseline(file)


def _baseline(file: Path) -> str:
    from gguf import GGUFReader, LlamaFileType

    reader, numbers = GGUFReader(file), Counter()
    for tensor in reader.tensors:
        if len(tensor.shape) > 1:  # norms and biases stay in fp32
            numbers[tensor.tensor_type.name] += int(tensor.n_elements)
    name = numbers.most_common(1)[0][0] if numbers else UNQUANTIZED[0]
    if name in UNQUANTIZED:
        return f"{name} of a GGUF file"
    # A mixture such as Q4_K_M has a name of its own; it is taken where it fits what most of the weights are.
    stated = reader.get_field("general.file_type")
    mixture = {int(kind): kind.name.removeprefix("MOSTLY_") for kind in LlamaFileType}
    said = mixture.get(int(stated.contents()), "") if stated else ""
    return f"dequantised {said if said.startswith(name) else name}"


def tokenizer_fault(tokenizer: Any, file: Path) -> str | None:
    """Sentence where a tokenizer does not give back a sentence that it was given.

    Transformers builds a tokenizer of what a GGUF file says of it, and not every kind comes out right.
    """
    back = tokenizer.decode(tokenizer(SENTENCE)["input_ids"], skip_special_tokens=True)
    if back.strip().lower() == SENTENCE.lower():
        return None
    return (
        f"The tokenizer that transformers reads from {file} is broken: it turns {SENTENCE!r} into {back!r}. Give the "
        "model's own tokenizer (its tokenizer.json and tokenizer_config.json): model.tokenizer_path=FOLDER."
    )
