"""Sample input of a model with its logits in fp32, written for the process that verifies an export."""

from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from slimsweep.errors import ExportError
from slimsweep.export.base import Sample
from slimsweep.linear.base import codes, set_dtype
from slimsweep.models.batches import Batch, text_batch
from slimsweep.models.language_model import LanguageModel

TEXT = "Once upon a time there was a small model. It had to learn, in 1,000 steps, how to tell a good story."
TOKENS = 32
"""Longest sample; a model whose positions are fewer gets as many as it has."""
PREFIX = "batch."


def sample_of(model: LanguageModel) -> Sample:
    """One short text and its logits. A model of another dtype is copied into fp32 first.

    Source: two programs that compute in fp32 differ in the last digits only, where bf16 would hide errors of 1 %.
    """
    batch = sample_batch(model)
    with torch.no_grad():
        logits = model.task.forward(in_fp32(model).module, batch).logits
    return Sample(batch, logits.float())


def in_fp32(model: LanguageModel) -> LanguageModel:
    """The model itself where it computes in fp32, else a copy that does; codes and scales keep their dtypes."""
    if model.dtype == torch.float32:
        return model
    model = model.copy()
    stored = {id(tensor) for tensor in codes(model.module).values()}
    for tensor in [*model.module.parameters(), *model.module.buffers()]:
        if tensor.is_floating_point() and id(tensor) not in stored:
            tensor.data = tensor.data.float()
    set_dtype(model.module, torch.float32)
    return model


def sample_batch(model: LanguageModel) -> Batch:
    """Arguments of one forward over a short text, as the model's task takes them."""
    token_ids = _token_ids(model)
    batch = text_batch(token_ids)
    if model.family.encoder is not None:
        start = torch.tensor([[model.config.decoder_start_token_id or 0]])
        batch["decoder_input_ids"] = torch.cat([start, token_ids[:, : TOKENS // 2]], dim=1)
    return batch


def _token_ids(model: LanguageModel) -> Int[Tensor, "1 token"]:
    config = model.config.get_text_config()
    longest = min(TOKENS, getattr(config, "max_position_embeddings", TOKENS) or TOKENS)
    if model.tokenizer is None:
        return torch.arange(1, 1 + min(longest, config.vocab_size - 1))[None]
    return torch.tensor([model.tokenizer(TEXT)["input_ids"][:longest]])


def write_sample(sample: Sample, file: Path) -> None:
    """Write a sample as safetensors."""
    from safetensors.torch import save_file

    tensors = {PREFIX + name: tensor.contiguous() for name, tensor in sample.batch.items()}
    save_file(tensors | {"logits": sample.logits.contiguous()}, file)


def read_sample(file: Path) -> Sample:
    """Read a sample that `write_sample` wrote."""
    from safetensors.torch import load_file

    tensors = load_file(file)
    logits = tensors.pop("logits")
    return Sample({name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}, logits)


def relative_difference(logits: Tensor, sample: Sample) -> float:
    """Norm of the difference of logits from those of a sample, over the norm of these about their mean.

    Raises:
        ExportError: another shape, or values that are not finite.
    """
    if logits.shape != sample.logits.shape:
        raise ExportError(f"logits of shape {list(logits.shape)} instead of {list(sample.logits.shape)}")
    if not bool(torch.isfinite(logits).all()):
        raise ExportError("logits that are NaN or infinite")
    # A constant on all logits of a place changes no probability.
    ours, theirs = (values.double() - values.double().mean(-1, keepdim=True) for values in (sample.logits, logits))
    norm = ours.norm()
    return float((theirs - ours).norm() / norm) if norm else float(theirs.norm())


def same_choices(logits: Tensor, sample: Sample) -> float:
    """Fraction of places where the most likely token or label is the same."""
    return float((logits.argmax(-1) == sample.logits.argmax(-1)).double().mean())


def compared(logits: Tensor, sample: Sample, tolerance: float, program: str) -> str:
    """A line on how far logits are from a sample.

    Raises:
        ExportError: further than `tolerance`, a relative difference.
    """
    difference, same = relative_difference(logits, sample), same_choices(logits, sample)
    line = f"logits by {program} differ by {difference:.2g} (relative norm); {same:.1%} of the most likely are the same"
    if difference > tolerance:
        raise ExportError(f"{line}; allowed is {tolerance:.2g}")
    return f"verified: {line}"
