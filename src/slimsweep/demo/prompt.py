"""Token ids of a conversation, as a model reads it before it answers."""

from collections.abc import Sequence

from slimsweep.data.instructions import answer_prompt
from slimsweep.errors import DemoError
from slimsweep.models.batch_sizes import longest_context
from slimsweep.models.language_model import LanguageModel


def prompt_ids(model: LanguageModel, turns: Sequence[tuple[str, str]]) -> list[int]:
    """Token ids of turns of `user` and `assistant`, up to the place where the assistant answers.

    A tokenizer with a chat template writes the turns by it. Without one the model continues the text: a user's turn
    begins a line, and an answer follows it at once. An encoder-decoder reads the last turn alone, as its source.
    """
    if model.task.name != "causal_lm":
        return model.tokenizer(turns[-1][1], verbose=False)["input_ids"]
    if has_template(model):
        return answer_prompt(tuple(turns), model.tokenizer)
    text = "".join(f"\n{text}" if role == "user" else text for role, text in turns).removeprefix("\n")
    return model.tokenizer(text, verbose=False)["input_ids"]


def has_template(model: LanguageModel) -> bool:
    """Whether prompts become turns of a conversation."""
    return bool(model.task.name == "causal_lm" and model.tokenizer.chat_template)


def answer_room(model: LanguageModel, prompt: Sequence[int], wanted: int) -> int:
    """Tokens that may follow a prompt: those wanted, or as many as the model takes.

    Raises:
        DemoError: there is no token to read, or the prompt alone fills the model.
    """
    longest = longest_context(model.config)
    if not prompt:
        raise DemoError("the prompt is empty: type some text")
    if longest is None:
        return wanted
    room = longest - (len(prompt) if model.task.name == "causal_lm" else 0)
    if room < 1 or len(prompt) > longest:
        raise DemoError(f"the prompt has {len(prompt)} tokens and the model takes {longest}: shorten it")
    return min(wanted, room)
