"""Source of a model's weights; each kind is one subclass in a file of its own."""

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from slimsweep.checks import choice_faults, refuse
from slimsweep.errors import ModelError
from slimsweep.linear.base import is_linear
from slimsweep.linear.mask import bits_shape, read_masks, reserve
from slimsweep.models.families import family_of
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.placement import loading
from slimsweep.models.placement.mapped import read_mapped, scratch_bytes
from slimsweep.models.placement.scratch import Scratch, padded_bytes
from slimsweep.models.skeleton import Skeleton
from slimsweep.models.sources.adapter import adapter_faults
from slimsweep.models.sources.byte_tokenizer import VOCABULARY, byte_tokenizer
from slimsweep.models.sources.task_faults import task_faults
from slimsweep.models.storage import checkpoint, quantized_checkpoint, saved_model
from slimsweep.models.task import TASKS

WEIGHTS = ("trained", "meta", "random")
CPU = torch.device("cpu")
META = torch.device("meta")
_pristine: dict[str, LanguageModel] = {}  # at most one
_skeletons: dict[str, Skeleton] = {}


@dataclass(frozen=True, kw_only=True)
class ModelSource(ABC):
    """Model before its weights are read. Subclasses say which folder holds the files."""

    name: str
    """Name in tables and figures; a source with an id or a path may leave it empty."""
    cache_dir: str
    """Folder for converted weights and remembered digests."""
    shape: dict[str, Any] = field(default_factory=dict)
    """Hugging Face config with `model_type`, for `weights` meta and random; trained ones bring their own."""
    weights: str = "trained"
    """`trained`; `meta`: shapes only, nothing is read or downloaded; `random`: drawn with `seed`."""
    seed: int = 0
    """Draws the weights where `weights` is random, and a new head."""
    new_head: bool = False
    """Draw a head for the task where the trained weights have none: they must then be fine-tuned."""
    baseline: str = ""
    """Short text about the uncompressed weights, where they are not the published ones."""
    task: str = "causal_lm"
    """`causal_lm`, `seq2seq_lm` (encoder-decoders) or `sequence_classification`."""
    trust_remote_code: bool = False
    """Allow code that comes with the weights to run."""

    needs_folder: ClassVar[bool] = True
    """False for a source that has no trained weights."""

    def __post_init__(self) -> None:
        faults = choice_faults("weights", [self.weights], WEIGHTS)
        faults += choice_faults("task", [self.task], tuple(TASKS))
        if not self.needs_folder and self.weights == "trained":
            faults.append("weights=trained, but this source has none; set weights=random or weights=meta")
        if self.new_head and self.task != "sequence_classification":
            faults.append(f"new_head=true draws a classifier, and task={self.task} has none: set new_head=false")
        refuse(faults)

    @property
    def resolved_revision(self) -> str | None:
        """Commit or version of the weights, for the record; None where there is none."""
        return None

    @property
    def described_baseline(self) -> str:
        """Description of the uncompressed weights, for the record; empty for the published ones."""
        return self.baseline

    @abstractmethod
    def folder(self) -> Path:
        """Folder with config.json, safetensors and tokenizer files; downloads or converts them once."""

    def light_folder(self) -> Path:
        """Folder with config.json and tokenizer files, where those can be had without the weights."""
        return self.folder()

    @property
    def _place(self) -> str:
        """The folder or hub id that `from_pretrained` takes."""
        return str(self.light_folder())

    def faults(self) -> list[str]:
        """Everything wrong with this model that shows without reading weights."""
        try:
            if self.weights == "trained":
                faults = adapter_faults(self.light_folder(), self._place) or self._folder_faults()
                if not faults and (fault := quantized_checkpoint.fault(self.light_folder())):
                    faults = [fault]
            else:
                faults = self._shape_faults()
            if not faults:
                faults = self._task_faults()
                self.tokenizer()
        except ModelError as error:
            return [str(error)]
        return faults

    def _task_faults(self) -> list[str]:
        if self.trust_remote_code:  # which brings classes that transformers has in no table
            self.skeleton()
            return []
        return task_faults(self.name, self.config(), TASKS[self.task], self.skeleton)

    def _folder_faults(self) -> list[str]:
        return checkpoint.folder_faults(self.folder())

    def _shape_faults(self) -> list[str]:
        if not self.shape:
            return []
        from transformers import AutoConfig

        model_type = str(self.shape.get("model_type", ""))
        family_of(model_type)
        known = AutoConfig.for_model(model_type)
        more = ("decoder_start_token_id",) if known.is_encoder_decoder else ()  # T5 reads it and does not declare it
        unknown = [name for name in self.shape if not hasattr(known, name) and name not in more]
        allowed = ", ".join(sorted(known.to_dict()))
        return [f"model.shape.{name} is no setting of a {model_type}; allowed: {allowed}" for name in unknown]

    def config(self) -> Any:
        """The transformers config: of the folder for trained weights, of `shape` otherwise.

        Raises:
            ModelError: it names no known family or holds values its family refuses.
        """
        if self.weights == "trained" or not self.shape:
            return self._folder_config()
        from transformers import AutoConfig

        family_of(str(self.shape.get("model_type", "")))
        with self._refusals():
            return AutoConfig.for_model(**self.shape)

    def _folder_config(self) -> Any:
        family_of(checkpoint.model_type(self.light_folder()))
        with self._refusals():
            return saved_model.read_config(self.light_folder(), self.trust_remote_code)

    def skeleton(self, dtype: torch.dtype = torch.float32) -> Skeleton:
        """The model on the meta device: shapes without weights, kept for the process.

        Raises:
            ModelError: no model can be built of the config.
        """
        identity = f"{self._identity} {dtype}"
        if identity not in _skeletons:
            _skeletons[identity] = self._wrap(self._meta(dtype), META)
        return _skeletons[identity]

    def digest(self) -> str:
        """SHA-256 of what decides the model: contents of its files; config and seed where none are read."""
        if self.weights == "trained":
            digest = checkpoint.folder_digest(self.folder(), Path(self.cache_dir))
            code = sorted(self.folder().glob("*.py")) if self.trust_remote_code else []
            parts = [[[file.name, file.read_text()] for file in code]] if code else []
            parts += [["new head", self.task, self.seed]] if self.new_head else []
            return checkpoint.json_digest([digest, *parts]) if parts else digest
        config = {
            name: value for name, value in self.config().to_dict().items() if name not in checkpoint.VOLATILE_CONFIG
        }
        parts = [config, self.task, self.seed if self.weights == "random" else None]
        if manifest := self._manifest():
            parts.append(manifest.read_text())
        return checkpoint.json_digest(parts)

    def tokenizer(self) -> Any:
        """The tokenizer, kept for the process; None on meta, one id per byte for random weights."""
        if self.weights == "meta":
            return None
        if self.weights == "trained":
            return tokenizer_of(str(self.light_folder()), self.trust_remote_code)
        if self.config().vocab_size < VOCABULARY:
            raise ModelError(
                f"Model {self.name} has {self.config().vocab_size} tokens, too few for the byte tokenizer of "
                f"random weights; set model.shape.vocab_size to {VOCABULARY} or more."
            )
        return byte_tokenizer()

    def load_mapped(self, dtype: torch.dtype, scratch_dir: Path) -> LanguageModel:
        """The model on the CPU, its blocks in a scratch file, so that only those in use take memory.

        Raises:
            ModelError: weights that do not fit the config or are not finite, with the names of the tensors.
        """
        if self._manifest():
            raise ModelError(f"memory_budget reads plain models, and {self.folder()} has a manifest: run it without.")
        module = loading.build_empty(self.config(), TASKS[self.task], dtype, self.trust_remote_code)
        module.tie_weights()  # which making them empty has untied
        family = family_of(module.config.model_type)
        places = tuple(f"{stack.blocks}." for stack in family.stacks)
        in_blocks = {name: tensor for name, tensor in module.state_dict().items() if name.startswith(places)}
        linears = [layer for name, layer in module.named_modules() if name.startswith(places) and is_linear(layer)]
        mask_shapes = [bits_shape(layer) for layer in linears]
        mask_bytes = sum(padded_bytes(shape, torch.uint8) for shape in mask_shapes)
        scratch = Scratch(scratch_dir, scratch_bytes(in_blocks.values(), dtype) + mask_bytes)
        read_mapped(module, set(in_blocks), self.folder(), dtype, scratch)
        for layer, shape in zip(linears, mask_shapes, strict=True):
            reserve(layer, scratch.tensor(shape, torch.uint8))
        read_masks(module, self.folder(), scratch.release)
        return self._wrap(module, CPU, tokenizer=self.tokenizer(), scratch=scratch)

    def load(self, dtype: torch.dtype, device: torch.device, offload: bool = False) -> LanguageModel:
        """The model, ready for forwards. Jobs of one process get copies of one load where memory allows.

        Raises:
            ModelError: weights that do not fit the config or are not finite, with the names of the tensors.
        """
        if self.weights == "meta":
            return self._wrap(self._meta(dtype), META)
        identity = f"{self._identity} {self.digest()} {dtype} {device} {offload}"
        if identity not in _pristine:
            _pristine.clear()
            resting = CPU if offload else device
            module = self._module(dtype, resting)
            loading.refuse_non_finite(dict(module.named_parameters()), self.name, dtype)
            model = self._wrap(module, device, tokenizer=self.tokenizer(), offload=offload)
            if not loading.is_shareable(module, resting):
                return model
            _pristine[identity] = model
        return _pristine[identity].copy()

    def restored(
        self, folder: Path, dtype: torch.dtype, device: torch.device, offload: bool, original_parameters: int
    ) -> LanguageModel:
        """This model as stages left it, from a folder of its weights with their manifest, ready for forwards.

        Raises:
            ModelError: manifest and weights do not agree.
        """
        resting = CPU if offload else device
        return self._wrap(
            saved_model.read(folder, TASKS[self.task], dtype, resting, self.trust_remote_code),
            device,
            tokenizer=self.tokenizer(),
            offload=offload,
            original_parameters=original_parameters,
        )

    def _module(self, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        if self.weights == "random":
            drawn = loading.draw(self.config(), TASKS[self.task], dtype, self.seed, self.trust_remote_code)
            return drawn.to(device)
        if self.new_head and not (self.folder() / checkpoint.MANIFEST).is_file():
            read = loading.read_with_new_head(self.folder(), TASKS[self.task], dtype, self.seed, self.trust_remote_code)
            return read.to(device)
        return saved_model.read(self.folder(), TASKS[self.task], dtype, device, self.trust_remote_code)

    def _meta(self, dtype: torch.dtype) -> torch.nn.Module:
        with self._refusals():
            module = loading.build(self.config(), TASKS[self.task], dtype, META, self.trust_remote_code)
        if manifest := self._manifest():
            saved_model.resize(module, manifest.parent, TASKS[self.task])
        return module

    def _manifest(self) -> Path | None:
        """The widths beside a config that does not say them; None where the config alone decides."""
        if self.weights != "trained" and self.shape:
            return None
        path = self.light_folder() / checkpoint.MANIFEST
        return path if path.is_file() else None

    def _wrap(self, module: torch.nn.Module, device: torch.device, **fields: Any) -> LanguageModel:
        family = family_of(module.config.model_type)
        module = module.eval().requires_grad_(False)
        kind = Skeleton if device == META else LanguageModel
        return kind(module=module, family=family, task=TASKS[self.task], compute_device=device, **fields)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn what transformers and torch say about an impossible config into a ModelError."""
        try:
            yield
        except (*loading.REFUSALS, AttributeError, ArithmeticError) as error:
            is_shape = self.weights != "trained" and self.shape
            place = "model.shape" if is_shape else f"{self.light_folder() / 'config.json'}"
            raise ModelError(
                f"Model {self.name} has an impossible shape or config, in {place}: {loading.reason(error)}. "
                + ("Change it there." if is_shape else "Copy config and weights again from one source.")
            ) from error

    @property
    def _identity(self) -> str:
        return f"{type(self).__name__} {asdict(self)}"


@functools.cache
def tokenizer_of(folder: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder, read once a process.

    Raises:
        ModelError: its files are damaged, or need a package that is not there.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizers raises nothing more exact
        files = [name for name in checkpoint.TOKENIZER_FILES if (Path(folder) / name).is_file()]
        raise ModelError(
            f"The tokenizer in {folder} cannot be read, of the files {', '.join(files) or 'that are not there'}: "
            f"{loading.reason(error)}. Copy them again from the model's source, or save it there with "
            "tokenizer.save_pretrained."
        ) from error
