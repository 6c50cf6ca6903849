"""Format `onnx`: one graph for onnxruntime, in fp32 or with weights of 8 bits."""

import dataclasses
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from slimsweep.checks import flag_faults, refuse
from slimsweep.errors import ExportError
from slimsweep.export.base import RECORD_KEY, Content, Format, Sample
from slimsweep.export.model_card import CARD, model_card
from slimsweep.export.sample import compared, in_fp32, sample_batch
from slimsweep.linear.base import kinds_of, packed_layers
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import CPU, LanguageModel
from slimsweep.models.task import inputs_of

FILE = "model.onnx"
LOADING = """import onnxruntime
from transformers import AutoTokenizer

batch = AutoTokenizer.from_pretrained("FOLDER")("Once upon a time", return_tensors="np")
session = onnxruntime.InferenceSession("FOLDER/model.onnx")
logits = session.run(["logits"], {one.name: batch[one.name] for one in session.get_inputs()})[0]"""
"""Lines for the model card; an encoder-decoder takes `decoder_input_ids` too."""
INPUTS = ("input_ids", "attention_mask", "decoder_input_ids")
TOLERANCE = 1e-3
"""Allowed relative difference of logits in fp32: another program sums in another order."""
ROUNDED_TOLERANCE = 1.0
"""The same with int8. onnxruntime gives all tokens of a forward one scale; see docs/export.md on what that costs."""


@dataclass(frozen=True, kw_only=True)
class Onnx(Format):
    """A graph by torch's dynamo exporter, for any batch and any length; it keeps no cache of keys and values.

    A forward reads the whole text again for each new token. Weights are fp32, whatever the dtype of the model.
    """

    summary: ClassVar[str] = "one graph in fp32, or with int8=true in 8 bits, for onnxruntime"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "onnxscript")

    int8: Any = False  # a word from the command line, until it is checked
    """Round weights to 8 bits, and inputs of matrix products at each forward (onnxruntime's dynamic quantization)."""

    def __post_init__(self) -> None:
        refuse(flag_faults("int8", self.int8))

    def faults(self, model: LanguageModel) -> list[str]:
        packed = packed_layers(model.module)
        if not packed:
            return []
        return [
            f"{len(packed)} layers are packed ({kinds_of(packed)}), and a graph of torch would hold them unpacked in "
            "fp32. Export the record of the chain without this quantizer, with int8=true for weights of 8 bits"
        ]

    def write(self, content: Content, folder: Path) -> None:
        model = in_fp32(content.model)
        program = exported(model, sample_batch(model))
        program.model.metadata_props[RECORD_KEY] = json.dumps(content.record)
        program.save(folder / FILE)
        if self.int8:
            quantize(folder / FILE)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(folder)
        model.config.save_pretrained(folder)
        (folder / CARD).write_text(model_card(content.record, LOADING), encoding="utf-8")

    def verify(self, folder: Path, sample: Sample) -> list[str]:
        """Run the graph by onnxruntime on the sample, which has another batch size than the exported example."""
        logits = run(session_of(folder / FILE), sample.batch)
        tolerance = ROUNDED_TOLERANCE if self.int8 else TOLERANCE
        return [compared(logits, sample, tolerance, "onnxruntime")]

    def read(self, folder: Path, model: LanguageModel) -> LanguageModel:
        """A model whose logits onnxruntime computes; it writes no text."""
        fields = {one.name: getattr(model, one.name) for one in dataclasses.fields(model)}
        own = {"module": Graph(session_of(folder / FILE), model.config), "compute_device": CPU}
        return GraphModel(**fields | own | {"offload": False, "scratch": None})

    def weight_bytes(self, folder: Path) -> int:
        """Bytes of the tensors in the graph, without the graph itself and the record."""
        import onnx

        tensors = onnx.load(folder / FILE).graph.initializer
        return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in tensors)


class Graph(nn.Module):
    """A graph in place of a transformers model: its forward gives logits and nothing else."""

    def __init__(self, session: Any, config: Any):
        super().__init__()
        self.session, self.config = session, config

    def forward(self, use_cache: bool = False, **inputs: Tensor) -> Any:
        return SimpleNamespace(logits=run(self.session, inputs))

    def _no_text(self, *_: Any) -> Any:
        raise ExportError("a graph keeps no cache of keys and values, so that it writes no text here")

    # Whatever writes text reads or sets these settings first.
    generation_config = property(_no_text, _no_text)


class GraphModel(LanguageModel):
    """A model whose head lies in the graph: what it calls hidden states are logits already."""

    def hidden_states(self, batch: Batch) -> Tensor:
        return self.module(**inputs_of(batch)).logits

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32


class Logits(nn.Module):
    """A model as a function of tensors in the order of INPUTS, without cache, that returns logits alone."""

    def __init__(self, model: LanguageModel):
        super().__init__()
        self.module, self.options = model.module, {"use_cache": False} if model.task.generates else {}

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor | None = None) -> Tensor:
        further = {} if decoder_input_ids is None else {"decoder_input_ids": decoder_input_ids}
        return self.module(input_ids=input_ids, attention_mask=attention_mask, **further, **self.options).logits


def exported(model: LanguageModel, batch: Batch) -> Any:
    """torch's ONNX program of a model; the sizes of batch and texts stay free.

    The example has two sequences, since a size of 1 would become a constant of the graph.
    """
    example = with_mask({name: torch.cat([values, values]) for name, values in batch.items()})
    names = [name for name in INPUTS if name in example]
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with quiet(), torch.no_grad():
        return torch.onnx.export(
            Logits(model).eval(),
            tuple(example[name] for name in names),
            dynamo=True,
            dynamic_shapes=(free,) * len(names),
            input_names=names,
            output_names=["logits"],
            verbose=False,
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Switch off remarks of the exporters: on packages that are not needed, and on settings that change nothing."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def with_mask(batch: Batch) -> Batch:
    """A batch with the mask that a graph asks for."""
    return {"attention_mask": torch.ones_like(batch["input_ids"]), **batch}


def quantize(file: Path) -> None:
    """Round the weights of a graph to 8 bits, in place."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    rounded = file.with_name("rounded.onnx")
    with quiet():
        quantize_dynamic(file, rounded, weight_type=QuantType.QInt8)
    for part in file.parent.glob(f"{file.name}*"):
        part.unlink()
    rounded.replace(file)


def session_of(file: Path) -> Any:
    """A graph in onnxruntime on the CPU."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def run(session: Any, batch: Batch) -> Tensor:
    """Logits of a graph, in fp32."""
    given = with_mask(batch)
    feeds = {one.name: given[one.name].cpu().numpy() for one in session.get_inputs()}
    return torch.from_numpy(session.run(["logits"], feeds)[0]).float()
