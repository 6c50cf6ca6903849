"""One LanguageModel as lm-evaluation-harness sees it. Importing this file imports the harness (5 s)."""

import itertools
import math
from functools import cached_property
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor

from slimsweep.errors import TaskError
from slimsweep.models.batch_sizes import longest_context
from slimsweep.models.batches import text_batch
from slimsweep.models.generation import Decoding, generate
from slimsweep.models.language_model import LanguageModel

FALLBACK_CONTEXT = 2048
LONGEST_TEXT = 256
"""Tokens of a text where a task does not say; the harness's own default."""
PROBE = "A text."


class HarnessModel(TemplateLM):
    """Log-likelihoods of continuations, the head computed only where a continuation stands, and generated texts.

    The harness's own model class computes logits for every prompt token and keeps its weights on one device. This class
    gives equal values in a fraction of the time and memory, and also works with weights in host memory.
    """

    def __init__(self, model: LanguageModel, batch_tokens: int):
        super().__init__()
        self.model = model
        self.tokenizer = model.tokenizer
        self.batch_tokens = batch_tokens
        self.has_nan = False
        """Whether any likelihood was not a number; the harness itself would still choose an answer."""
        self.cut_texts = 0
        """Number of texts that had not ended within their longest."""
        self.truncated_prompts = 0
        """Number of prompts that lost their beginning, because the model takes no more tokens."""
        self.longest = longest_context(model.config) or FALLBACK_CONTEXT

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; special tokens before the text as the tokenizer adds them, unless told otherwise.

        Special tokens after the text are left out. With an end token between prompt and answer, the harness would
        divide the two at a wrong place. The answer would lose its first token.
        """
        if add_special_tokens is False:
            return self._encode(string, special=False)
        token_ids = self._encode(string, special=True)
        return token_ids[: len(token_ids) - self._closing_tokens]

    def _encode(self, string: str, special: bool) -> list[int]:
        return self.tokenizer.encode(string, add_special_tokens=special, verbose=False)

    @cached_property
    def _closing_tokens(self) -> int:
        """Number of special tokens that the tokenizer puts after a text."""
        plain, whole = self._encode(PROBE, special=False), self._encode(PROBE, special=True)
        before = next((start for start in range(len(whole)) if whole[start : start + len(plain)] == plain), None)
        return 0 if before is None else len(whole) - before - len(plain)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of the answer after it, cut apart as the harness does.

        An answer that merges into the last tokens of its prompt would have no tokens left. It is then scored from the
        first token that differs from the prompt's.
        """
        context_ids, answer_ids = super()._encode_pair(context, continuation)
        if answer_ids:
            return context_ids, answer_ids
        alone, whole = self.tok_encode(context.rstrip()), self.tok_encode(context + continuation)
        shared = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(alone, whole, strict=False))))
        return whole[:shared] or [self.prefix_token_id], whole[shared:]

    def loglikelihood(self, requests: list, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """The harness's own, without its progress bar."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        # Choices of one token share their input, so each distinct input is run once.
        readers: dict[tuple[int, ...], list[int]] = {}
        scores: dict[int, tuple[float, bool]] = {}
        self.truncated_prompts += len(
            {tuple(context) for _, context, answer in requests if len(context + answer) > self.longest + 1}
        )
        for index, (_, context, answer) in enumerate(requests):
            if answer:
                readers.setdefault(tuple((context + answer)[-self.longest - 1 : -1]), []).append(index)
            else:
                scores[index] = -math.inf, False  # the sum over no tokens, 0, would beat every other answer
        for batch in self._batches(sorted(readers, key=lambda token_ids: (-len(token_ids), token_ids))):
            hidden = self.model.hidden_states(text_batch(_padded(batch)))
            for row, token_ids in zip(hidden, batch, strict=True):
                for index in readers[token_ids]:
                    answer = requests[index][2]
                    scores[index] = self._score(row[len(token_ids) - len(answer) : len(token_ids)], answer)
        return [scores[index] for index in range(len(requests))]

    def _batches(self, inputs: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
        """Inputs of descending length in groups whose padded size is at most `batch_tokens`."""
        batches: list[list[tuple[int, ...]]] = []
        for token_ids in inputs:
            if not batches or (len(batches[-1]) + 1) * len(batches[-1][0]) > self.batch_tokens:
                batches.append([])
            batches[-1].append(token_ids)
        return batches

    def _score(self, hidden: Tensor, answer: list[int]) -> tuple[float, bool]:
        log_probabilities = self.model.logits(hidden).float().log_softmax(dim=-1)
        target = torch.tensor(answer, device=hidden.device)
        is_greedy = bool((log_probabilities.argmax(dim=-1) == target).all())
        score = log_probabilities.gather(1, target[:, None]).double().sum().item()
        self.has_nan = self.has_nan or math.isnan(score)
        return score, is_greedy

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError("whole-text likelihoods are what evaluation/perplexity.py measures")

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """Continuations of prompts up to a stop. A prompt that is too long loses its beginning, as in the harness.

        Raises:
            TaskError: a task has settings of generation that are not known here.
        """
        groups: dict[Decoding, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(decoding_of(request.args[1], self._end_text), []).append(index)
        texts = [""] * len(requests)
        for decoding, places in groups.items():
            room = self.longest - decoding.max_new_tokens
            whole = [self.tok_encode(requests[place].args[0]) for place in places]
            self.truncated_prompts += sum(len(prompt) > room for prompt in whole)
            prompts = [prompt[-room:] or [self.prefix_token_id] for prompt in whole]
            written = generate(self.model, prompts, decoding, "task: text")
            self.cut_texts += sum(written.cut)
            for place, text in zip(places, written.texts, strict=True):
                texts[place] = text
        return texts

    @property
    def _end_text(self) -> tuple[str, ...]:
        """The end token as text, which the harness adds to the stops of each task."""
        return () if self.eot_token_id is None else (self.tokenizer.decode([self.eot_token_id]),)


def decoding_of(settings: dict[str, Any], more_stops: tuple[str, ...] = ()) -> Decoding:
    """Settings of generation from `generation_kwargs` of a task.

    Raises:
        TaskError: there are others than these.
    """
    given = normalize_gen_kwargs(settings, LONGEST_TEXT)
    drawn = {"temperature": given.pop("temperature", 0.0), "top_p": given.pop("top_p", 1.0)}
    is_drawn = given.pop("do_sample", False)
    stops = tuple(dict.fromkeys([*given.pop("until", ()), *more_stops]))
    words = {"max_new_tokens": given.pop("max_gen_toks"), "beams": given.pop("num_beams", 1)}
    if given:
        raise TaskError(
            f"generation_kwargs of a task has {', '.join(given)}; known are until, max_gen_toks, do_sample, "
            "temperature, top_p and num_beams"
        )
    return Decoding(stops=tuple(stop for stop in stops if stop), **words, **(drawn if is_drawn else {}))


def _padded(batch: list[tuple[int, ...]]) -> Tensor:
    """Token ids padded on the right, where a causal model's earlier tokens do not see it."""
    longest = max(len(token_ids) for token_ids in batch)
    return torch.tensor([[*token_ids, *[0] * (longest - len(token_ids))] for token_ids in batch])
