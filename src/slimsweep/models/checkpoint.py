"""A folder of weights on disk: what is wrong with it, and the digest of what decides a model's results."""

import hashlib
import json
import os
from pathlib import Path

from slimsweep.errors import ModelError
from slimsweep.layer_mask import MASKS_FILE

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
VOLATILE_CONFIG = {
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
INDEX = "model.safetensors.index.json"
MANIFEST = "slimsweep.json"
"""Beside config.json where that alone does not describe the weights: the widths of every block."""


def folder_faults(folder: Path) -> list[str]:
    """What keeps a folder from being loaded, as far as names, sizes and file headers tell."""
    if not folder.is_dir():
        return [f"Model folder {folder} does not exist; give a folder with config.json and *.safetensors files."]
    faults = []
    if not (folder / "config.json").is_file():
        faults.append(f"Model folder {folder} has no config.json; save the model with save_pretrained.")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES[:5]):
        faults.append(f"Model folder {folder} has no tokenizer; save it there with tokenizer.save_pretrained.")
    return faults + _weight_faults(folder)


def _weight_faults(folder: Path) -> list[str]:
    try:
        files = weight_files(folder)
    except (ValueError, KeyError, OSError) as error:
        return [f"Model folder {folder} has an unreadable {INDEX} ({error}); copy it again from its source."]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        return [
            f"Model folder {folder} misses {len(missing)} of the {len(files)} shards that its {INDEX} lists: "
            f"{', '.join(missing)}. Copy them again from the model's source."
        ]
    if not files:
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
        found = f" but {', '.join(pickled)}, which can run code when opened" if pickled else ""
        return [
            f"Model folder {folder} has no *.safetensors files{found}. Convert the model where you trust it: "
            "from_pretrained(FOLDER).save_pretrained(OTHER_FOLDER)."
        ]
    broken = [file.name for file in files if not is_whole(file)]
    return [f"Model folder {folder}: {', '.join(broken)} cut short or damaged; copy again."] if broken else []


def model_type(folder: Path) -> str:
    """The `model_type` of a folder's config.json.

    Raises:
        ModelError: there is no such file or it does not say.
    """
    file = folder / "config.json"
    try:
        return json.loads(file.read_text())["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} does not give a model_type ({error!r}); save the model again.") from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files a folder is made of, in order of name; those an index lists may not exist."""
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text())
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    single = folder / "model.safetensors"
    found = sorted(path for path in folder.glob("*.safetensors") if path.name != MASKS_FILE)
    return [single] if single.is_file() else found


def is_whole(file: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if not 0 < header_bytes <= size - 8:
            return False
        try:
            header = json.loads(stream.read(header_bytes))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return 8 + header_bytes + max(ends, default=0) == size


def folder_digest(folder: Path, cache_dir: Path) -> str:
    """SHA-256 over the contents of weights, config and tokenizer; where the folder lies does not matter.

    Of the config only what decides results is taken: the version that saved it, for one, is not.
    """
    parts = [(file.name, file_digest(file, cache_dir)) for file in weight_files(folder)]
    parts += [(name, file_digest(folder / name, cache_dir)) for name in TOKENIZER_FILES if (folder / name).is_file()]
    own = [name for name in (MANIFEST, MASKS_FILE) if (folder / name).is_file()]
    parts += [(name, file_digest(folder / name, cache_dir)) for name in own]
    config = json.loads((folder / "config.json").read_text())
    parts.append(("config", {name: value for name, value in config.items() if name not in VOLATILE_CONFIG}))
    return json_digest(parts)


def json_digest(value: object) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(file: Path, cache_dir: Path) -> str:
    """SHA-256 of a file's contents, remembered in `cache_dir` for as long as its path, size and time stay.

    Raises:
        ModelError: `cache_dir` cannot be written.
    """
    status = file.stat()
    stamp = json_digest([str(file.resolve()), status.st_size, status.st_mtime_ns])
    remembered = cache_dir / "digests" / stamp
    if remembered.is_file():
        return remembered.read_text()
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        partial = remembered.with_name(f"{stamp}.{os.getpid()}.partial")
        partial.write_text(digest)
        partial.replace(remembered)
    except OSError as error:
        raise ModelError(f"{cache_dir} cannot be written ({error}); free space or set cache_dir.") from error
    return digest
