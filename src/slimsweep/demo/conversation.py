"""Conversation with one model: its turns so far, and the answer that is being written."""

from collections.abc import Iterator
from os.path import commonprefix
from typing import Any

from slimsweep.demo.answer import Answer
from slimsweep.demo.prompt import answer_room, has_template, prompt_ids
from slimsweep.errors import DemoError
from slimsweep.models.batch_sizes import longest_context
from slimsweep.models.generation import Decoding
from slimsweep.models.language_model import LanguageModel

LEAST_SHARE = 4
"""An answer has room for at least the model's longest text divided by this; turns are forgotten to make it."""


class Conversation:
    """Turns of a user and a model. The first ones are forgotten where the model has no room for all.

    An error names the model by its title.
    """

    def __init__(self, model: LanguageModel, tokens: int, temperature: float = 0.0, title: str = "the model"):
        self.turns: list[tuple[str, str]] = []
        self.forgotten = 0
        """Turns that were forgotten for want of room at the last prompt that was accepted."""
        self._model, self._tokens, self._temperature, self._title = model, tokens, temperature, title

    @property
    def has_turns(self) -> bool:
        """Whether the model sees turns; one without a chat template sees a text that goes on."""
        return has_template(self._model)

    def reset(self) -> None:
        """Forget all turns."""
        self.turns = []

    def ask(self, text: str) -> Answer:
        """Begin the answer to a prompt; `pieces` writes it.

        The answer gets the room that the turns leave, up to the tokens that were asked for. Turns are forgotten only
        where less than a quarter of the model's room would be left.

        Raises:
            DemoError: the prompt alone leaves no room; the conversation stays as it was.
        """
        turns, forgotten = [*self.turns, ("user", text)], 0
        longest = longest_context(self._model.config)
        least = min(self._tokens, max(1, longest // LEAST_SHARE)) if longest else self._tokens
        while True:
            ids = prompt_ids(self._model, turns)
            try:
                room = answer_room(self._model, ids, self._tokens)
            except DemoError:
                if len(turns) < 3:
                    raise
                room = 0
            if room >= least or (room and len(turns) < 3):
                break
            turns, forgotten = turns[2:], forgotten + 2
        self.turns, self.forgotten = turns, forgotten
        return Answer(self._model, ids, Decoding(max_new_tokens=room, temperature=self._temperature))

    def pieces(self, answer: Answer) -> Iterator[str]:
        """Text of an answer as it is written. It becomes a turn, also where it is stopped or the model is broken.

        After an error such as a lack of memory the prompt is no turn either: with it the next answer might fail too.

        Raises:
            DemoError: the model cannot go on; the text that it wrote before has been handed out.
        """
        written = ""
        try:
            while answer.step():
                text = answer.text
                if text.startswith(written):
                    yield text[len(written) :]
                    written = text
            yield answer.text[len(commonprefix([written, answer.text])) :]  # noqa: RUF071  by characters, as meant
            if answer.fault:
                raise DemoError(f"{self._title} cannot go on: {answer.fault}")
        finally:
            try:
                answer.close()
            finally:  # a second Ctrl-C arrives here
                if answer.is_failed:
                    self.turns.pop()
                else:
                    self.turns.append(("assistant", answer.text))

    def as_dict(self, answer: Answer) -> dict[str, Any]:
        """An answer with its numbers, as plain values."""
        return {
            "text": answer.text,
            "tokens": len(answer.token_ids),
            "ended": answer.is_ended,
            "first_token_seconds": answer.first_seconds,
            "tokens_per_second": answer.tokens_per_second,
        }
