"""Text of a model token by token, each token computed when it is asked for.

The loop is that of transformers' `generate`, which hands tokens to a streamer and never waits. Here it runs in a thread
whose streamer waits until the next token is wanted:

    reader:   next() ......... token 1   next() ......... token 2   close()
    thread:          forward ^      wait        forward ^      wait        ends

So several models can write in turns, one forward at a time, and a reader can stop a text where it likes.
"""

from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any

from torch import Tensor

from slimsweep.errors import ModelError
from slimsweep.models.generation import Decoding, written_ids
from slimsweep.models.language_model import LanguageModel


class _Closed(BaseException):
    """Ends `generate` from within its streamer, once nobody reads any more."""


class _Pace:
    """Streamer of transformers that hands over a token and waits until the next one is asked for."""

    def __init__(self) -> None:
        self.made: SimpleQueue[int | BaseException | None] = SimpleQueue()
        self.asked = Semaphore(0)
        self.is_closed = False
        self._is_prompt = True

    def put(self, value: Any) -> None:
        if self._is_prompt:  # `generate` hands over the prompt first, or the start token of a decoder
            self._is_prompt = False
            return
        self.made.put(int(value))
        self.asked.acquire()
        if self.is_closed:
            raise _Closed

    def end(self) -> None:
        """Required of a streamer; the end of the thread tells the reader."""


def _refuse_broken(input_ids: Tensor, logits: Tensor) -> Tensor:
    """Logits as they are; raises ModelError where the greatest is no finite number, so that no token is likeliest.

    The others may be infinite: settings of a checkpoint forbid a token by -inf.
    """
    if not logits.amax(dim=-1).isfinite().all():
        raise ModelError("the logits of the next token are not finite, so none is likeliest: its weights are broken")
    return logits


def stream(model: LanguageModel, prompt: Sequence[int], decoding: Decoding) -> Iterator[int]:
    """Token ids that continue a prompt; an end token that was written is the last of them.

    With a temperature, tokens are drawn from torch's own generator, whatever `sampling_seed` says. `stops` end the
    text, and the tokens of the stop are still there. One beam only.

    Args:
        prompt: token ids, not empty, short enough for the model.

    Raises:
        ModelError: the model is broken, so that its logits are not finite.
    """
    pace = _Pace()

    def write() -> None:
        try:
            written_ids(model, [prompt], decoding, streamer=pace, checks=[_refuse_broken])
            pace.made.put(None)
        except _Closed:
            pace.made.put(None)
        except BaseException as error:  # raised again where the text is read
            pace.made.put(error)

    thread = Thread(target=write, name="slimsweep-stream", daemon=True)
    try:
        thread.start()
        while (token := pace.made.get()) is not None:
            if isinstance(token, BaseException):
                raise token
            yield token
            pace.asked.release()
    finally:
        pace.is_closed = True
        pace.asked.release()
        _await(thread)


def _await(thread: Thread) -> None:
    """Wait until a thread has ended, however often Ctrl-C is pressed meanwhile. The last Ctrl-C is raised then."""
    pressed = None
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt as error:
            pressed = error
    if pressed:
        raise pressed
