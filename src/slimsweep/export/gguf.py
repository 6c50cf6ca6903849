"""Format `gguf`: one file with weights, tokenizer and record, for llama.cpp and the programs built on it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from slimsweep.checks import choice_faults, refuse
from slimsweep.errors import ExportError
from slimsweep.export.base import RECORD_KEY, Content, Format, Sample
from slimsweep.export.llama_cpp import packing, running
from slimsweep.export.llama_cpp.architecture import ARCHITECTURES, NamedTensor, metadata, named_tensors
from slimsweep.export.llama_cpp.importance import importance, usable
from slimsweep.export.llama_cpp.template_lint import lint
from slimsweep.export.llama_cpp.vocabulary import check, vocabulary
from slimsweep.export.sample import compared
from slimsweep.linear.base import linear_forms
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.storage.plain import plain_config
from slimsweep.models.storage.saved_model import saved_tensors

FILE = "model.gguf"
CHECK_KEY = "slimsweep.tokenizer_check"
"""Key of a text and its token ids, as JSON."""
IMPORTANCE_KEY = "quantize.imatrix.entries_count"
"""llama.cpp's key of the number of layers whose importance was used."""
PREFIXES = 4
"""Prefixes of the sample whose next token is compared."""
LIKELY = 500
"""Next tokens that are compared: llama.cpp writes each as text, so that a whole vocabulary takes long."""
TOLERANCES = {"F32": 5e-3, "F16": 0.02, "BF16": 0.1, "Q8_0": 0.1, "Q6_K": 0.2, "Q4_K_M": 0.7, "Q4_0": 0.7}
"""Relative difference of logits that each type may leave; errors in order or names leave 1 or more."""


@dataclass(frozen=True, kw_only=True)
class Gguf(Format):
    """A GGUF file of one of llama.cpp's types."""

    summary: ClassVar[str] = "one GGUF file with tokenizer and record, for llama.cpp and the programs built on it"
    packages: ClassVar[tuple[str, ...]] = ("xllamacpp",)

    type: str = "F16"
    """Type of most weights: F32, F16, BF16, Q8_0, Q4_0, Q6_K or Q4_K_M."""
    importance: bool = False
    """Weigh the errors of K-quants by the mean square of each input over the calibration text."""

    def __post_init__(self) -> None:
        faults = choice_faults("type", [self.type], tuple(packing.MIXTURES))
        if self.importance and not faults and packing.MIXTURES[self.type].most not in packing.WEIGHTED:
            faults.append(f"importance=true changes K-quants only, and type={self.type}: set type=Q4_K_M or type=Q6_K")
        refuse(faults)

    @property
    def reads_calibration(self) -> bool:
        return self.importance

    def faults(self, model: LanguageModel) -> list[str]:
        config, faults = _config(model)
        if config is None:
            return faults
        kinds = self._kinds(model, config)
        if (missing := packing.missing_packer(kinds)) is not None:
            faults.append(missing)
        if self.importance and not set(kinds.values()) & set(packing.WEIGHTED):
            faults.append("importance=true changes nothing: no row of this model is a multiple of 256 long")
        return faults + _tokenizer_faults(model.tokenizer, config.vocab_size)

    def write(self, content: Content, folder: Path) -> None:
        import gguf

        config, faults = _config(content.model)
        if config is None:
            raise ExportError("; ".join(faults))
        architecture = ARCHITECTURES[config.model_type]
        writer = gguf.GGUFWriter(folder / FILE, architecture.name)
        self._add_metadata(writer, content, config)
        tensors = list(named_tensors(architecture, config, saved_tensors(content.model.module)))
        weights = importance(content.model, content.calibration()) if self.importance else {}
        if weights:
            writer.add_uint32(IMPORTANCE_KEY, len(weights))
        kinds = self._kinds(content.model, config)
        for tensor in tensors:
            shape, kind = tensor.shape, kinds[tensor.name]
            size = packing.row_bytes(kind, shape[-1]) * int(np.prod(shape[:-1], dtype=np.int64))
            writer.add_tensor_info(
                tensor.name, shape, np.dtype(np.float32), size, raw_dtype=gguf.GGMLQuantizationType[kind]
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(_packed(tensor, kinds[tensor.name], weights))
            content.model.release()
        writer.close()

    def verify(self, folder: Path, sample: Sample) -> list[str]:
        """Compare token ids and logits of llama.cpp itself. transformers reads some architectures wrongly."""
        expected = json.loads(_field(folder / FILE, CHECK_KEY))
        token_ids = sample.batch["input_ids"][0].tolist()
        with running.running(folder / FILE, len(token_ids) + len(expected["ids"])) as model:
            lines = _verify_tokenizer(model, expected)
            lengths = sorted({math.ceil(len(token_ids) * part / PREFIXES) for part in range(1, PREFIXES + 1)})
            likely = [model.next_log_probabilities(token_ids[:length], LIKELY) for length in lengths]
        lines.append(compared(*_likely_logits(likely, lengths, sample), TOLERANCES[self.type], "llama.cpp"))
        return lines + (lint(folder / FILE) if "messages" in expected else [])

    def read(self, folder: Path, model: LanguageModel) -> LanguageModel:
        """Write the unpacked numbers of the file into `model`, in its dtype."""
        import gguf

        packed = {tensor.name: tensor for tensor in gguf.GGUFReader(folder / FILE).tensors}
        config, faults = _config(model)
        if config is None:
            raise ExportError("; ".join(faults))
        tensors = saved_tensors(model.module)
        for one in named_tensors(ARCHITECTURES[config.model_type], config, tensors):
            if one.source:
                stored = packed[one.name]
                values = gguf.quants.dequantize(stored.data, stored.tensor_type)
                with torch.no_grad():
                    tensors[one.source].copy_(one.restored(torch.from_numpy(values.copy()).float().reshape(one.shape)))
        return model

    def weight_bytes(self, folder: Path) -> int:
        import gguf

        return sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(folder / FILE).tensors)

    def _kinds(self, model: LanguageModel, config: Any) -> dict[str, str]:
        """Type of each tensor by its GGUF name."""
        mixture = packing.MIXTURES[self.type]
        tensors = saved_tensors(model.module)
        is_tied = f"{model.family.head}.weight" not in tensors
        blocks = config.num_hidden_layers
        return {
            tensor.name: packing.tensor_type(mixture, tensor.name, tensor.shape, blocks, is_tied)
            for tensor in named_tensors(ARCHITECTURES[config.model_type], config, tensors)
        }

    def _add_metadata(self, writer: Any, content: Content, config: Any) -> None:
        record, tokenizer = content.record, content.model.tokenizer
        technique = record.get("technique")
        _add(writer, "general.name", f"{record.get('model', 'model')} {technique}" if technique else "model")
        _add(writer, "general.file_type", packing.MIXTURES[self.type].number)
        _add(writer, "general.quantization_version", 2)
        for key, value in metadata(ARCHITECTURES[config.model_type], config).items():
            _add(writer, key, value)
        made = vocabulary(tokenizer, config.vocab_size)
        for key, value in made.settings.items():
            _add(writer, f"tokenizer.{key}", value)
        _add(writer, RECORD_KEY, json.dumps(record))
        _add(writer, CHECK_KEY, check(tokenizer, made.notes))


def _config(model: LanguageModel) -> tuple[Any | None, list[str]]:
    """Config of a model as it is now, and reasons why GGUF cannot express it; with a reason there is no config."""
    kind = model.config.model_type
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        return None, [f"GGUF export knows the model types {known}, and this is {kind!r}; --to hf or --to onnx take it"]
    if model.task.name != "causal_lm":
        return None, [f"GGUF export writes models of task causal_lm, and this is {model.task.name}; --to hf takes it"]
    forms = sorted({type(form).kind for form in linear_forms(model.module).values()})
    if forms:
        return None, [
            f"GGUF has packed types of its own and cannot hold layers of kind {', '.join(forms)}: export the record of "
            "the chain without that stage, with type=Q4_K_M or type=Q8_0; --to hf keeps these layers"
        ]
    config = plain_config(model)
    if config is None:
        return None, ["a GGUF file has one width for all blocks, and this model has several; --to hf keeps them"]
    faults = ARCHITECTURES[kind].faults(config)
    try:
        list(named_tensors(ARCHITECTURES[kind], config, saved_tensors(model.module)))
    except LookupError as error:
        faults.append(f"llama.cpp's {ARCHITECTURES[kind].name} has no tensor {error}")
    return (None, faults) if faults else (config, [])


def _tokenizer_faults(tokenizer: Any, rows: int) -> list[str]:
    """Reasons why a GGUF file cannot hold a tokenizer or its chat template."""
    if tokenizer is None:
        return ["the model has no tokenizer, and a GGUF file holds one; --to hf writes the weights alone"]
    try:
        check(tokenizer, vocabulary(tokenizer, rows).notes)
    except ExportError as error:
        return [f"{error} (--to hf keeps the tokenizer as it is)"]
    return []


def _packed(tensor: NamedTensor, kind: str, weights: dict[str, Tensor]) -> np.ndarray:
    """Bytes of a tensor.

    Raises:
        ExportError: numbers that are not finite, or that the type cannot hold.
    """
    values = tensor.values().cpu()
    size = packing.largest(values)
    if not np.isfinite(size) or (kind not in ("F32", "BF16") and size > packing.MAX_HALF):
        raise ExportError(f"{tensor.source} holds {size:g}, which {kind} cannot hold; set type=BF16 or type=F32")
    given = weights.get(tensor.source.removesuffix(".weight"))
    try:
        return packing.packed(values, kind, None if given is None else usable(given))
    except ValueError as error:
        raise ExportError(f"{tensor.source}: {error}") from error


def _verify_tokenizer(model: running.Running, expected: dict[str, Any]) -> list[str]:
    """Compare the ids of a text and the prompt of a conversation with those that the file states.

    Raises:
        ExportError: other ids, or an empty prompt to compare with.
    """
    ids = model.token_ids(expected["text"])
    if ids != expected["ids"]:
        raise ExportError(f"llama.cpp makes other token ids of {expected['text']!r}: {ids}, not {expected['ids']}")
    lines = [f"verified: llama.cpp makes the same {len(ids)} token ids of a text"]
    lines += [f"warning: {note}" for note in expected.get("notes", [])]
    if "messages" in expected:
        if not expected["prompt"]:
            raise ExportError("the prompt that the file states for a conversation is empty, so nothing can be compared")
        is_same = model.applied_template(expected["messages"]).endswith(expected["prompt"])
        says = "verified: llama.cpp writes" if is_same else "warning: llama.cpp does not write"
        lines.append(f"{says} a conversation as the chat template of the tokenizer does")
    return lines


def _likely_logits(
    likely: list[dict[int, float]], lengths: list[int], sample: Sample
) -> tuple[Float[Tensor, "1 prefix likely"], Sample]:
    """Log-probabilities of likely tokens after prefixes of a sample, and those of the sample itself."""
    ids = torch.tensor([list(found) for found in likely])[None]
    places = torch.tensor(lengths) - 1
    ours = sample.logits[:, places].log_softmax(-1).gather(-1, ids)
    return torch.tensor([list(found.values()) for found in likely])[None], Sample(sample.batch, ours)


def _add(writer: Any, key: str, value: Any) -> None:
    """Add an entry in the kind that llama.cpp reads: whole numbers as uint32, lists as arrays of int32 or fp32."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _field(file: Path, key: str) -> str:
    """A string of a file's metadata."""
    import gguf

    entry = gguf.GGUFReader(file).get_field(key)
    if entry is None:
        raise ExportError(f"{file} has no entry {key}")
    return entry.contents()
