import pytest

from slimsweep.errors import ExportError
from slimsweep.export.llama_cpp.chat_template import CONVERSATIONS, turns_of


def chatml(messages, starts_answer):
    text = "".join(f"<{one['role']}>{one['content']}</>\n" for one in messages)
    return text + ("<assistant>" if starts_answer else "")


def test_fixed_text_around_messages_is_found():
    turns = turns_of(chatml)
    assert turns.user == ("<user>", "</>\n") and turns.assistant == ("<assistant>", "</>\n")
    assert (turns.begin, turns.begin_system, turns.end_system) == ("", "<system>", "</>\n")
    assert turns.answer == "<assistant>" and not turns.shares_turn
    assert [turns.rendered(one) for one in CONVERSATIONS] == [chatml(one, True) for one in CONVERSATIONS]


def test_text_is_quoted_for_go():
    assert '{{ "</>\\n" }}' in turns_of(chatml).go_template()


def test_a_system_text_may_stand_in_the_first_turn_of_the_user():
    def gemma(messages, starts_answer):
        system = messages[0]["content"] + "\n\n" if messages[0]["role"] == "system" else ""
        rest = [one for one in messages if one["role"] != "system"]
        contents = [system + rest[0]["content"], *(one["content"] for one in rest[1:])]
        text = "".join(f"[{one['role']}]{content}[/]" for one, content in zip(rest, contents, strict=True))
        return text + ("[assistant]" if starts_answer else "")

    turns = turns_of(gemma)
    assert (
        turns.shares_turn
        and turns.rendered(CONVERSATIONS[2]) == "[user]You are a poet.\n\nWrite a haiku.[/][assistant]"
    )


def test_a_template_that_writes_more_than_fixed_text_is_refused():
    def counted(messages, starts_answer):
        return "".join(f"<{place}>{one['content']}" for place, one in enumerate(messages)) + "<a>" * starts_answer

    with pytest.raises(ExportError, match="--to gguf keeps the template as it is"):
        turns_of(counted)
