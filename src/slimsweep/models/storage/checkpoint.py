"""A folder of weights on disk: what is wrong with it, and the digest of what decides a model's results."""

import hashlib
import json
from pathlib import Path

from slimsweep import atomic
from slimsweep.errors import ModelError
from slimsweep.linear.mask import MASKS_FILE

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
WEIGHTS_FILE = "model.safetensors"
PACKED_FILE = "packed.safetensors"
"""File of packed or factored weights that only the manifest describes.

`from_pretrained` does not look for this name: of weights it cannot read it would draw random ones.
"""
MANIFEST = "slimsweep.json"
"""Beside config.json where that alone does not describe the weights: the widths of every block."""
POINTER = b"version https://git-lfs.github.com/spec/v1"
"""Begins the few lines that a clone without git-lfs leaves in place of a large file."""


def folder_faults(folder: Path) -> list[str]:
    """Faults that keep a folder from being loaded, as far as names, sizes and file headers tell."""
    if not folder.is_dir():
        return [f"Model folder {folder} does not exist; give a folder with config.json and *.safetensors files."]
    try:
        pointers = _pointers(folder)
    except ModelError as error:
        return [str(error)]
    if pointers:
        are = "are git-lfs pointers, not the files themselves" if pointers[1:] else "is a git-lfs pointer, not the file"
        return [
            f"Model folder {folder}: {', '.join(pointers)} {are}. Run `git lfs pull` in that folder, or download the "
            "model again."
        ]
    faults = []
    if not (folder / "config.json").is_file():
        faults.append(f"Model folder {folder} has no config.json; save the model with save_pretrained.")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES[:5]):
        faults.append(f"Model folder {folder} has no tokenizer; save it there with tokenizer.save_pretrained.")
    return faults + _weight_faults(folder)


def _weight_faults(folder: Path) -> list[str]:
    files = weight_files(folder)
    missing = [file.name for file in files if not file.is_file()]
    if missing and (folder / MANIFEST).is_file():
        return [f"Model folder {folder} has a {MANIFEST} and no {files[0].name}; save the model again."]
    if missing:
        return [
            f"Model folder {folder} misses {len(missing)} of the {len(files)} shards that its {INDEX} lists: "
            f"{', '.join(missing)}. Copy them again from the model's source."
        ]
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    if not files and others:
        return [
            f"Model folder {folder} has {', '.join(others)}, but neither {WEIGHTS_FILE} nor {INDEX}, which are "
            f"the names that are read. Rename the file to {WEIGHTS_FILE} if it holds the whole model, or save the "
            "model again with save_pretrained."
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
    """The safetensors files a model is read from, in order of name; those an index lists may not exist.

    The choice is that of transformers: what the config names, else the one file, else the shards of the index. What
    else lies in the folder is not read. A manifest has a file of its own.

    Raises:
        ModelError: an index that cannot be read.
    """
    if (folder / MANIFEST).is_file():
        packed = folder / PACKED_FILE
        return [packed if packed.is_file() else folder / WEIGHTS_FILE]
    named = _config(folder).get("transformers_weights")
    if named and not str(named).endswith(".index.json"):
        return [folder / str(named)]
    if not named and (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    index = folder / str(named or INDEX)
    if not index.is_file():
        return [index] if named else []
    try:
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise ModelError(
            f"Model folder {folder} has an unreadable {index.name} ({error}); copy it again from its source."
        ) from error


def header(file: Path) -> dict[str, dict]:
    """Header of a safetensors file: `dtype`, `shape` and `data_offsets` of each tensor, by name.

    Raises:
        ValueError: the file is shorter or longer than it says, or no safetensors file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if not 0 < header_bytes <= size - 8:
            raise ValueError("no header")
        content = json.loads(stream.read(header_bytes))
    try:
        tensors = {name: entry for name, entry in content.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"an odd header: {error!r}") from error
    if 8 + header_bytes + end != size:
        raise ValueError(f"{size} bytes, where the header says {8 + header_bytes + end}")
    return tensors


def is_whole(file: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    try:
        header(file)
    except ValueError:
        return False
    return True


def _pointers(folder: Path) -> list[str]:
    """Files that decide the model and are git-lfs pointers."""
    names = ["config.json", INDEX, MANIFEST, *TOKENIZER_FILES]
    if (folder / "tokenizer.json").is_file():
        names.remove("tokenizer.model")  # the same tokenizer in another format, which is then not read
    found = [name for name in names if (folder / name).is_file() and _begins_as_pointer(folder / name)]
    if INDEX not in found:
        found += [file.name for file in weight_files(folder) if file.is_file() and _begins_as_pointer(file)]
    return found


def _begins_as_pointer(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(POINTER)) == POINTER


def _config(folder: Path) -> dict:
    """config.json as a dictionary; empty where it is absent or no such thing, which is told elsewhere."""
    try:
        content = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


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
    """SHA-256 of a file's contents, remembered in `cache_dir` for as long as the file is not written or replaced.

    Size and time stamp can be equal for other contents (`cp -p`, `touch -r`, `rsync -t`). The inode tells a file that
    was replaced; its change time, which no program can set, one that was written.

    Raises:
        ModelError: `cache_dir` cannot be written.
    """
    status = file.stat()
    identity = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    stamp = json_digest([str(file.resolve()), *identity])
    remembered = cache_dir / "digests" / stamp
    if remembered.is_file():
        return remembered.read_text()
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    try:
        atomic.write_text(remembered, digest)
    except OSError as error:
        raise ModelError(f"{cache_dir} cannot be written ({error}); free space or set cache_dir.") from error
    return digest
