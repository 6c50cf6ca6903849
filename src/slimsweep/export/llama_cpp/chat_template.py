"""Chat template of a tokenizer in the language of Go's text/template, as ollama runs it.

ollama does not read Jinja, and nothing translates it. But a chat template nearly always writes fixed text around each
message, so that text can be found by asking the template:

    user "1", assistant "2", user "3"   ->   [begin][user]1[/user][assistant]2[/assistant][user]3[/user]
    the same with the start of an answer  ->   ...[answer]
    system "0", user "1"                ->   [begin][system]0[/system][user]1[/user]

Where the system text has no turn of its own (Gemma), it stands in the first user's turn, before the message.
What was found is then compared with the template itself on ten conversations.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slimsweep.errors import ExportError

Messages = Sequence[dict[str, str]]
Render = Callable[[Messages, bool], str]
"""A chat template: messages, and whether the start of an answer is added."""
MARKS = ("\u2460mark\u2460", "\u2461mark\u2461", "\u2462mark\u2462")
"""Message texts that no template writes itself."""
ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Turns:
    """Fixed text that a chat template writes around messages."""

    begin: str
    """Before a conversation without a system text: the default one, with all around it."""
    begin_system: str
    """From the beginning to the system text."""
    end_system: str
    """From the system text to the next turn, or to the first message where the system text shares its turn."""
    shares_turn: bool
    """Whether the system text stands in the first user's turn."""
    user: tuple[str, str]
    assistant: tuple[str, str]
    answer: str
    """Start of an answer."""

    def rendered(self, messages: Messages) -> str:
        """A conversation that ends with the user, ready for the answer."""
        has_system = messages[0]["role"] == "system"
        text = f"{self.begin_system}{messages[0]['content']}{self.end_system}" if has_system else self.begin
        for place, message in enumerate(messages[has_system:]):
            before, after = self.user if message["role"] == "user" else self.assistant
            text += ("" if has_system and self.shares_turn and place == 0 else before) + message["content"] + after
        return text + self.answer

    def go_template(self) -> str:
        """The same for ollama. Fixed text is quoted, so that no space or line end is lost."""
        with_system, without = _quoted(self.begin_system), _quoted(self.begin)
        begin = '{{ if eq .Role "system" }}' + with_system + "{{ else }}" + without + "{{ end }}"
        before = _quoted(self.user[0])
        if self.shares_turn:
            before = '{{ if not (and (eq $place 1) (eq (index $.Messages 0).Role "system")) }}' + before + "{{ end }}"
        return (
            "{{ range $place, $message := .Messages }}"
            "{{ $last := eq (len (slice $.Messages $place)) 1 }}"
            "{{ if eq $place 0 }}" + begin + "{{ end }}"
            '{{ if eq .Role "system" }}{{ .Content }}' + _quoted(self.end_system) + "{{ end }}"
            '{{ if eq .Role "user" }}' + before + "{{ .Content }}" + _quoted(self.user[1]) + "{{ end }}"
            '{{ if eq .Role "assistant" }}' + _quoted(self.assistant[0]) + "{{ .Content }}"
            # An answer that is the last message is one to be continued.
            "{{ if not $last }}" + _quoted(self.assistant[1]) + "{{ end }}{{ end }}"
            '{{ if and $last (ne .Role "assistant") }}' + _quoted(self.answer) + "{{ end }}"
            "{{ end }}"
        )


def turns_of(render: Render) -> Turns:
    """Fixed text of a chat template.

    Raises:
        ExportError: the template is not of this kind; shows the conversation that comes out otherwise.
    """
    one, two, three = MARKS
    user, assistant, again = _conversation(one, two, three)
    short, pair = render([user], False), render([user, assistant], False)
    long, asking = render([user, assistant, again], False), render([user, assistant, again], True)
    begin_user, end_user = _around(short, one)
    assistant_start = _between(pair, one, two).removeprefix(end_user)
    end_assistant = _around(pair, two)[1]
    user_start = _between(long, two, three).removeprefix(end_assistant)
    begin = begin_user.removesuffix(user_start)
    system = render([{"role": "system", "content": two}, user], False)
    begin_system, end_system = _around(system, two)[0], _between(system, two, one)
    shares_turn = not end_system.endswith(user_start)
    turns = Turns(
        begin=begin,
        begin_system=begin_system,
        end_system=end_system if shares_turn else end_system.removesuffix(user_start),
        shares_turn=shares_turn,
        user=(user_start, end_user),
        assistant=(assistant_start, end_assistant),
        answer=asking.removeprefix(long),
    )
    for messages in CONVERSATIONS:
        if turns.rendered(messages) != (expected := render(messages, True)):
            raise ExportError(
                f"the chat template cannot be written for ollama: it makes {expected!r} of {json.dumps(messages)}, and "
                f"fixed text around messages makes {turns.rendered(messages)!r}; --to gguf keeps the template as it is"
            )
    return turns


def _around(text: str, mark: str) -> tuple[str, str]:
    if text.count(mark) != 1:
        raise ExportError(f"the chat template cannot be written for ollama: it writes a message as {text!r}")
    before, _, after = text.partition(mark)
    return before, after


def _between(text: str, first: str, second: str) -> str:
    return _around(_around(text, first)[1], second)[0]


def _quoted(text: str) -> str:
    """Text as a string of Go in a template action; nothing where there is no text."""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""


def _conversation(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    start = [] if system is None else [{"role": "system", "content": system}]
    return start + [{"role": ROLES[place % 2], "content": content} for place, content in enumerate(contents)]


CONVERSATIONS = (
    _conversation("Hello!"),
    _conversation("What is 2 + 2?", "It is 4.", "And 3 + 3?"),
    _conversation("Write a haiku.", system="You are a poet."),
    _conversation("One", "Two", "Three", "Four", "Five", system="Count."),
    _conversation('Quote "this" and \\that\\', "It's 'done'.", "{{ .Content }} {% if x %}"),
    _conversation("Two\nlines", "and\n\nthree", "more\tlines"),
    _conversation("naïve café — 北京 🙂", system="Answer in Français."),
    _conversation("<b>bold</b> & 5 < 6", "`code`", "```py\nprint(1)\n```"),
    _conversation("a" * 500, "b" * 500, "c", system="Be very brief."),
    _conversation("Thanks", "You are welcome", "Bye", "Bye!", "One more thing"),
)
"""Conversations on which a template is compared with what was found in it."""
