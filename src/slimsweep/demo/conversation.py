"""Conversation with one model: its turns so far, and the answer that is being written."""

from collections.abc import Iterator
from typing import Any

from slimsweep.demo.answer import Answer
from slimsweep.demo.prompt import answer_room, has_template, prompt_ids
from slimsweep.errors import DemoError
from slimsweep.models.generation import Decoding
from slimsweep.models.language_model import LanguageModel


class Conversation:
    """Turns of a user and a model. The first ones are forgotten where the model has no room for all."""

    def __init__(self, model: LanguageModel, tokens: int, temperature: float = 0.0):
        self.turns: list[tuple[str, str]] = []
        self.forgotten = 0
        """Turns that were forgotten for want of room at the last prompt."""
        self._model, self._tokens, self._temperature = model, tokens, temperature

    @property
    def has_turns(self) -> bool:
        """Whether the model sees turns; one without a chat template sees a text that goes on."""
        return has_template(self._model)

    def reset(self) -> None:
        """Forget all turns."""
        self.turns = []

    def ask(self, text: str) -> Answer:
        """Begin the answer to a prompt; `pieces` writes it.

        Raises:
            DemoError: the prompt alone leaves no room; the conversation stays as it was.
        """
        turns, self.forgotten = [*self.turns, ("user", text)], 0
        while True:
            ids = prompt_ids(self._model, turns)
            try:
                room = answer_room(self._model, ids, self._tokens)
            except DemoError:
                if len(turns) < 3:
                    raise
                room = 0
            if room == self._tokens or (room and len(turns) < 3):
                break
            turns, self.forgotten = turns[2:], self.forgotten + 2
        self.turns = turns
        return Answer(self._model, ids, Decoding(max_new_tokens=room, temperature=self._temperature))

    def pieces(self, answer: Answer) -> Iterator[str]:
        """Text of an answer as it is written. However it ends, it becomes a turn."""
        written = ""
        try:
            while answer.step():
                text = answer.text
                if text.startswith(written):
                    yield text[len(written) :]
                    written = text
            yield answer.text.removeprefix(written)
        finally:
            answer.close()
            self.turns.append(("assistant", answer.text))

    def told(self, answer: Answer) -> dict[str, Any]:
        """An answer with its numbers, as plain values."""
        return {
            "text": answer.text,
            "tokens": len(answer.token_ids),
            "ended": answer.is_ended,
            "first_token_seconds": answer.first_seconds,
            "tokens_per_second": answer.tokens_per_second,
        }
