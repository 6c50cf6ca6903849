"""Answer that a model is writing: its tokens so far, its text, its speed, and where it parts from another one."""

import time
import traceback
from collections.abc import Sequence

from slimsweep.demo.failure import sentence
from slimsweep.errors import ModelError
from slimsweep.models.generation import Decoding, end_ids
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.streaming import stream

UNFINISHED = "\ufffd"
"""Sign that a tokenizer writes for the first bytes of a character whose last bytes are still to come."""


class Answer:
    """Answer to one prompt, written a token at a time. One step of transformers' `generate` is timed for each."""

    def __init__(self, model: LanguageModel, prompt: Sequence[int], decoding: Decoding):
        self.token_ids: list[int] = []
        """Tokens so far; an end token is among them."""
        self.is_done = False
        self.fault = ""
        """Reason why the model cannot go on; empty where it can."""
        self.is_failed = False
        """Whether that reason is an error such as a lack of memory, and not that the weights are broken."""
        self.first_seconds = 0.0
        """Time until the first token: the model reads the prompt in it."""
        self._later_seconds = 0.0
        self._tokenizer = model.tokenizer
        self._ends = set(end_ids(model))
        self._tokens = stream(model, prompt, decoding)

    def step(self) -> bool:
        """Write one token more; returns False where the answer is done, or where the model cannot go on."""
        started = time.perf_counter()
        try:
            token = next(self._tokens, None)
        except ModelError as error:
            self.fault, token = str(error), None
        except Exception as error:  # whatever the model, its code or an allocator raises
            self.fault, self.is_failed, token = sentence(error), True, None
            traceback.clear_frames(error.__traceback__)  # whose tensors would stay, so that the next answer fails too
        seconds = time.perf_counter() - started
        if token is None:
            self.is_done = True
            return False
        if self.token_ids:
            self._later_seconds += seconds
        else:
            self.first_seconds = seconds
        self.token_ids.append(token)
        return True

    def close(self) -> None:
        """Stop writing; what is written stays."""
        try:
            self._tokens.close()
        finally:  # Ctrl-C may come while the model's thread is awaited
            self.is_done = True

    @property
    def is_ended(self) -> bool:
        """Whether the model itself ended its answer."""
        return bool(self.token_ids) and self.token_ids[-1] in self._ends

    @property
    def tokens_per_second(self) -> float | None:
        """Speed after the first token; None before there are two."""
        count = len(self.token_ids) - 1
        return count / self._later_seconds if count > 0 and self._later_seconds else None

    @property
    def text(self) -> str:
        """Text so far; a character of which bytes are missing is left out until they come."""
        text = self.text_of(0, len(self.token_ids))
        return text if self.is_done else text.rstrip(UNFINISHED)

    def text_of(self, start: int, stop: int) -> str:
        """Text that tokens from `start` until `stop` add to what stands before them."""
        before, until = (self._decode(self.token_ids[:place]) for place in (start, stop))
        return until[len(before.rstrip(UNFINISHED)) :] if start else until

    def _decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens. Nothing is cleaned up: that would change characters which earlier tokens have written."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def word(self, place: int) -> str:
        """One token in quotes as a reader sees it, such as `' day'`; or that the answer ends there."""
        if place < len(self.token_ids) and self.token_ids[place] not in self._ends:
            return repr(self.text_of(place, place + 1) or self._tokenizer.decode(self.token_ids[place : place + 1]))
        return "its end"


def parting(first: Sequence[int], second: Sequence[int]) -> int | None:
    """Index of the first token in which two answers differ; None as far as both are there and equal.

    End tokens count: an answer that ends differs there from one that goes on.
    """
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), None)
