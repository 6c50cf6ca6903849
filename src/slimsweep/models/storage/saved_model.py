"""Models of other widths than their family builds, or with linear forms: written to a folder, and read back."""

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from slimsweep.atomic import whole_folder
from slimsweep.errors import ModelError
from slimsweep.linear.base import codes, entry_of, form_of_entry, install, layer_shape, linear_forms, set_dtype
from slimsweep.linear.mask import read_masks, write_masks
from slimsweep.models import anatomy, surgery
from slimsweep.models.anatomy import BlockShape, Shape
from slimsweep.models.families import family_of
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.placement import loading
from slimsweep.models.storage.checkpoint import INDEX, MANIFEST, PACKED_FILE, WEIGHTS_FILE, weight_files
from slimsweep.models.storage.peft_adapter import write_adapters
from slimsweep.models.storage.plain import plain_config
from slimsweep.models.storage.quantization_config import quantization_config
from slimsweep.models.task import Task, task_of

FORMAT = 2
"""1: widths; 2: and forms of linear layers, under the name `packed`."""


def save(model: LanguageModel, folder: Path) -> bool:
    """Write weights, config and tokenizer; the folder appears whole or not at all.

    Returns whether plain `from_pretrained` loads it. Models of other widths or with linear forms carry a manifest, by
    which `slimsweep.load` reads them; what the manifest alone describes, `from_pretrained` refuses.

    Raises:
        ModelError: the folder exists and is not empty, or cannot be written.
    """
    refuse_unless_empty(folder)
    with written_whole(folder) as partial:
        write(model, partial)
    return is_plain(folder)


def write(model: LanguageModel, folder: Path) -> None:
    """Write weights, config and tokenizer into an existing folder."""
    config, has_forms = plain_config(model), bool(linear_forms(model.module))
    quantization = quantization_config(model) if config is not None and has_forms else None
    if config is not None and not has_forms:
        _save_plain(model, config, folder)
        write_masks(model.module, folder)
    else:
        if quantization is not None:
            config.quantization_config = quantization
        save_with_manifest(model, folder, config if quantization else None)
        write_adapters(model.module, folder)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)


def refuse_unless_empty(folder: Path) -> None:
    """Raise ModelError where a model would be written over something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} is not an empty folder; name another one to save the model in.")


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder to write a model into, which takes the name `folder` at the end; see `whole_folder`.

    Raises:
        ModelError: it cannot be written.
    """
    from safetensors import SafetensorError

    folder = folder.resolve()
    try:
        with whole_folder(folder) as partial:
            yield partial
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk in its own class
        raise ModelError(
            f"The model cannot be written to {folder}: {error}. Free space or name another folder."
        ) from error


def is_plain(folder: Path) -> bool:
    """Whether plain `from_pretrained` loads a saved model, and not `slimsweep.load` alone."""
    manifest = folder / MANIFEST
    return not manifest.is_file() or json.loads(manifest.read_text()).get("plain", False)


def load(folder: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> nn.Module:
    """The transformers model of a folder that `slimsweep` saved, whatever its widths, ready for forwards.

    `dtype` None keeps that of the file. The tokenizer is `AutoTokenizer.from_pretrained(folder)`.

    Raises:
        ModelError: config, manifest and weights do not agree, or the folder is no model.
    """
    folder, device = Path(folder), torch.device(device)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; give a folder that slimsweep saved.")
    with _refusals(folder):
        config = read_config(folder)
    task = task_of((config.architectures or [""])[0])
    dtype = dtype or getattr(torch, str(config.dtype).removeprefix("torch."), torch.float32)
    return read(folder, task, dtype, device, remote_code=False).eval().requires_grad_(False)


def read(folder: Path, task: Task, dtype: torch.dtype, device: torch.device, remote_code: bool) -> nn.Module:
    """The module of a folder, with a manifest or without, on `device`.

    Raises:
        ModelError: config, manifest and weights do not agree, or no model can be built of the config.
    """
    if not (folder / MANIFEST).is_file():
        module = loading.read(folder, task, dtype, device, remote_code)
        read_masks(module, folder)
        return module
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with _refusals(folder):
        config = read_config(folder, remote_code)
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # the manifest says more
        module = loading.build_empty(config, task, dtype, remote_code)
    module.tie_weights()  # which making them empty has untied
    resize(module, folder, task)
    (file,) = weight_files(folder)
    try:
        tensors = load_file(file, device=str(device))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read ({error}); save the model again.") from error
    loading.untie(module, tensors.keys())
    wanted = {name: tuple(tensor.shape) for name, tensor in saved_tensors(module).items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        names = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise ModelError(
            f"Weights in {folder} do not fit their {MANIFEST}, in {loading.some(names)}. Save the model again."
        )
    _fill(module, tensors, dtype)
    read_masks(module, folder)
    loading.read_generation_settings(module, folder)
    return module.to(device)


def read_config(folder: Path, remote_code: bool = False) -> Any:
    """The transformers config of a folder.

    If the folder has a manifest, the entry `per_layer_config` is left out, since the manifest has the same content.
    With that entry transformers builds no model, and raises where code asks for a width that the entry holds.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=remote_code)
    if (folder / MANIFEST).is_file() and getattr(config, "is_heterogeneous", False):
        config.per_layer_config = None
    return config


def _fill(module: nn.Module, tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Give an empty module the tensors of a file, in a dtype but for what packed layers store."""
    floating = {name for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    floating -= codes(module).keys()  # scales stay what they are
    set_dtype(module, dtype)
    own = {filed: name for name, filed in file_names(module).items()}
    tensors = {own.get(name, name): tensor for name, tensor in tensors.items()}
    module.load_state_dict(
        {name: tensor.to(dtype) if name in floating else tensor for name, tensor in tensors.items()},
        strict=False,  # tied weights are in the file once
        assign=True,
    )
    loading.tie_absent(module, tensors.keys())


@contextlib.contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """Turn what transformers and torch say about a config they cannot read or build a model of into a ModelError."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, ArithmeticError, StrictDataclassError) as error:
        raise ModelError(
            f"{folder / 'config.json'} cannot be read ({loading.reason(error)}); save the model again."
        ) from error


def resize(module: nn.Module, folder: Path, task: Task) -> None:
    """Give a module built from a folder's config the widths of its manifest.

    Raises:
        ModelError: no readable manifest of this format, one that the config contradicts, or a form that is not known.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] > FORMAT:
            raise ValueError(f"format {manifest['format']}, and this version reads up to {FORMAT}")
        blocks = tuple(BlockShape(**block) for block in manifest["blocks"])
        model = LanguageModel(module=module, family=family_of(module.config.model_type), task=task)
        surgery.resize(model, Shape(manifest["channels"], blocks))
        for name, entry in manifest.get("packed", {}).items():
            shape = layer_shape(module.get_submodule(name))
            install(module, name, form_of_entry(name, entry).empty(shape, entry["settings"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder / MANIFEST} does not fit {folder / 'config.json'}: {error}. Save the model again."
        ) from error


def saved_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters, tied ones once, and persistent buffers, by their names in the file."""
    parameters = dict(module.named_parameters())
    tied = dict(module.named_parameters(remove_duplicate=False)).keys() - parameters.keys()
    names = file_names(module)
    return {names.get(name, name): tensor for name, tensor in module.state_dict().items() if name not in tied}


def file_names(module: nn.Module) -> dict[str, str]:
    """Names in a file of the tensors of linear forms that have another one in the module."""
    return {
        f"{layer}.{name}": f"{layer}.{filed}"
        for layer, form in linear_forms(module).items()
        for name, filed in form.file_names.items()
    }


def _save_plain(model: LanguageModel, config: Any, folder: Path) -> None:
    module, own = model.module, model.module.config
    settings = getattr(module, "generation_config", None)
    try:
        module.config = config
        if settings is not None:
            module.generation_config = type(settings)()
        if model.scratch:
            _save_sharded(model, folder)
        else:
            module.save_pretrained(folder)
    finally:
        module.config = own
        if settings is not None:
            module.generation_config = settings
    _save_generation_settings(module, folder)


def _save_sharded(model: LanguageModel, folder: Path) -> None:
    """Config and weights of a model that rests in a file, a shard for each block and one for the rest."""
    from safetensors.torch import save_file

    model.module.config.save_pretrained(folder)
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in saved_tensors(model.module).items():
        block = next((block for block in model.block_names if name.startswith(f"{block}.")), "rest")
        shards.setdefault(f"{block}.safetensors", {})[name] = tensor
    for file, tensors in shards.items():
        save_file(tensors, folder / file, {"format": "pt"})
        model.release()
    names = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


def _save_generation_settings(module: nn.Module, folder: Path) -> None:
    """Write settings as they are: transformers refuses some of published models, such as Llama 2's temperature."""
    settings = getattr(module, "generation_config", None)
    if settings is not None:
        (folder / loading.GENERATION).write_text(settings.to_json_string())


def save_with_manifest(model: LanguageModel, folder: Path, config: Any = None) -> None:
    """Write exactly what a model holds, with a manifest of what its config does not say, into an existing folder.

    With `config`, plain transformers builds the model from that.
    """
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous().cpu() for name, tensor in saved_tensors(model.module).items()}
    plain, forms = config is not None, linear_forms(model.module)
    save_file(tensors, folder / (PACKED_FILE if forms and not plain else WEIGHTS_FILE), metadata={"format": "pt"})
    config = copy.deepcopy(config or model.config)
    config.architectures, config.dtype = [type(model.module).__name__], model.dtype
    config.save_pretrained(folder)
    _save_generation_settings(model.module, folder)
    shape = anatomy.shape_of(model)
    manifest = {
        "format": FORMAT,
        "plain": plain,
        "channels": shape.channels,
        "blocks": [block.as_plain() for block in shape.blocks],
        "packed": {name: entry_of(form) for name, form in forms.items()},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    write_masks(model.module, folder)
