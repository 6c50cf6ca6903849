"""Texts that models write token by token, each with a KV cache.

Prompts of different lengths end at one place, so that all sequences go on together:

    prompts     . . a b c | x y z        . is padding on the left, which no token looks at
                d e f g h | u <end> .    a sequence stops at its end; what follows is not part of it

What was written comes back as an ordinary batch, padded on the right, whose labels are the written tokens.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from slimsweep.data.training import padded_batch
from slimsweep.models.batches import IGNORED, Batch, padding_id, to_device
from slimsweep.models.generation import end_ids
from slimsweep.models.language_model import LanguageModel
from slimsweep.numerics.divergences import log_probs

Chooser = Callable[[list[Float[Tensor, "sequence vocabulary"]]], Int[Tensor, " sequence"]]
"""Choice of the next token of each sequence, from the log-probabilities of each reader."""


class TokenReader:
    """A model that reads sequences token by token, and predicts the next one of each."""

    def __init__(self, model: LanguageModel, prompts: Batch):
        """Read the prompts, which are padded on the left; of an encoder-decoder the sources, padded anywhere."""
        self.model, self.mask = model, prompts.get("attention_mask")
        self.is_decoder = "decoder_input_ids" not in prompts
        self.has_positions = "position_ids" in inspect.signature(model.module.forward).parameters
        inputs = model.task.prefill_inputs(prompts)
        if self.is_decoder and self.mask is not None and self.has_positions:
            inputs["position_ids"] = (self.mask.cumsum(dim=1) - 1).clamp(min=0)
        self._output = model.module(**inputs)

    @property
    def log_probs(self) -> Float[Tensor, "sequence vocabulary"]:
        """Log-probabilities of the next token, in fp32."""
        return log_probs(self._output.logits[:, -1])

    def read(self, token: Int[Tensor, " sequence"]) -> None:
        """Read one more token of each sequence."""
        inputs = self.model.task.step_inputs(self._output, token[:, None])
        if self.mask is not None and self.is_decoder:
            self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
            if self.has_positions:
                inputs["position_ids"] = self.mask.sum(dim=1, keepdim=True) - 1
        if self.mask is not None:
            inputs["attention_mask"] = self.mask
        self._output = self.model.module(**inputs)


@dataclass(frozen=True)
class Written:
    """Tokens that were written after each prompt."""

    ids: Int[Tensor, "sequence token"]
    counted: Bool[Tensor, "sequence token"]
    """True up to the end of a sequence, its end token included; False after it."""

    def rows(self) -> list[list[int]]:
        """The counted tokens of each sequence."""
        return [row[keep].tolist() for row, keep in zip(self.ids, self.counted, strict=True)]


@torch.no_grad()
def write(models: Sequence[LanguageModel], prompts: Batch, choose: Chooser, tokens: int) -> Written:
    """Let models read prompts and what is written after them, in step, until each sequence ends.

    Args:
        models: of one vocabulary, on one device; the first one says which tokens end a sequence. All are put into eval
            mode meanwhile, so that dropout does not change what they predict.
        choose: takes the log-probabilities of each model, cut to the shortest vocabulary.
        tokens: most tokens of a sequence.
    """
    ends = torch.tensor(end_ids(models[0]), device=prompts["input_ids"].device)
    with in_eval_mode([model.module for model in models]):
        readers = [TokenReader(model, prompts) for model in models]
        is_open = torch.ones(len(prompts["input_ids"]), dtype=torch.bool, device=ends.device)
        ids, counted = [], []
        for place in range(tokens):
            predicted = [reader.log_probs for reader in readers]
            words = min(one.shape[-1] for one in predicted)  # tables may be padded to different heights
            token = choose([one[..., :words] for one in predicted])
            ids.append(token)
            counted.append(is_open)
            is_open = is_open & ~torch.isin(token, ends)
            if place == tokens - 1 or not bool(is_open.any()):
                break
            for reader in readers:
                reader.read(token)
    return Written(torch.stack(ids, dim=1), torch.stack(counted, dim=1))


def most_likely(predicted: list[Float[Tensor, "sequence vocabulary"]]) -> Int[Tensor, " sequence"]:
    """The most likely token of each sequence under the first model."""
    return predicted[0].argmax(dim=-1)


def prompts_of(batch: Batch, tokens: int) -> list[list[int]]:
    """Prompt of each sequence of a causal model: its tokens before the first label.

    Of plain text, where every token is a label, it is the first `tokens` of them at most.
    """
    ids, labels = batch["input_ids"], batch.get("labels", batch["input_ids"])
    mask = batch.get("attention_mask", torch.ones_like(ids)).bool()
    prompts = []
    for row, label, keep in zip(ids, labels, mask, strict=True):
        labelled = (label[keep] != IGNORED).nonzero()
        before = int(labelled[0]) if len(labelled) else int(keep.sum())
        prompts.append(row[keep][: before or tokens].tolist())
    return prompts


def left_padded(prompts: Sequence[Sequence[int]], padding: int) -> Batch:
    """One batch of prompts that end at one place; no mask where their lengths are equal."""
    batch = padded_batch([{"input_ids": one[::-1], "labels": one[::-1]} for one in prompts], padding)
    return {name: values.flip(1) for name, values in batch.items() if name != "labels"}


def continuations(models: Sequence[LanguageModel], prompts: list[list[int]], choose: Chooser, tokens: int) -> Batch:
    """Prompts with what causal models write after them, as a batch whose labels are the written tokens alone."""
    padding = padding_of(models[0])
    written = write(models, to_device(left_padded(prompts, padding), models[0].compute_device), choose, tokens)
    examples = [continued(prompt, row) for prompt, row in zip(prompts, written.rows(), strict=True)]
    return to_device(padded_batch(examples, padding), models[0].compute_device)


def continued(prompt: list[int], written: list[int]) -> dict[str, list[int]]:
    """A training example that predicts what was written after a prompt."""
    return {"input_ids": [*prompt, *written], "labels": [IGNORED] * len(prompt) + written}


def padding_of(model: LanguageModel) -> int:
    """Token id of padded places."""
    return 0 if model.tokenizer is None else padding_id(model.tokenizer)


@contextmanager
def in_eval_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put modules into eval mode, and back into the mode that they were in."""
    were_training = [module.training for module in modules]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for module, was_training in zip(modules, were_training, strict=True):
            module.train(was_training)
