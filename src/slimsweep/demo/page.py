"""Web page of the demo: a prompt above, the answers of all models below. Gradio is imported here alone.

The page and its server ask nothing of the network: no usage statistics, no fonts from elsewhere, no public link.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio
from starlette.middleware import Middleware

from slimsweep.demo.answer import Answer
from slimsweep.demo.lineup import LoadedModel
from slimsweep.demo.markup import STYLE, panels
from slimsweep.demo.prompt import answer_room, has_template, prompt_ids
from slimsweep.demo.without_script import WithNote
from slimsweep.errors import DemoError
from slimsweep.models.generation import Decoding

QUESTIONS = (
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Write a short poem about rain.",
    "List three uses of a paper clip.",
)
"""Examples for models that answer as in a conversation."""
BEGINNINGS = (
    "Once upon a time there was a small model that",
    "The capital of France is",
    "Rain fell on the town all night, and in the morning",
)
"""Examples for models that continue a text."""
LARGEST_UPLOAD = "1kb"
"""Limit of gradio's own upload address. The page takes no files, but gradio would write any of them to this disk."""
MOST_TOKENS = 512
"""End of the slider of tokens."""
FONT = ("system-ui", "sans-serif")
PAGE_STYLE = """
footer {display: none !important}
.gradio-container {max-width: 1400px !important; margin: auto}
"""


def page(models: Sequence[LoadedModel], name: str, tokens: int) -> gradio.Blocks:
    """The page on loaded models, the dense one first; `name` is the dense model's."""
    is_chat = has_template(models[0].model)
    with gradio.Blocks(title=f"slimsweep: {name}", analytics_enabled=False, fill_width=True) as blocks:
        gradio.Markdown(f"## {name}, dense and compressed\n{_explanation(models[0], is_chat)}")
        prompt = gradio.Textbox(label="Prompt", lines=1, max_lines=8, placeholder="Type a prompt, then press Enter")
        with gradio.Row():
            run = gradio.Button("Answer", variant="primary", min_width=120)
            stop = gradio.Button("Stop", min_width=120)
        gradio.Examples([[one] for one in (QUESTIONS if is_chat else BEGINNINGS)], prompt, label="Examples")
        answers = gradio.HTML(panels(models, []), padding=False)
        with gradio.Accordion("Settings", open=False):
            count = gradio.Slider(1, MOST_TOKENS, min(tokens, MOST_TOKENS), step=1, label="Longest answer in tokens")
            temperature = gradio.Slider(
                minimum=0,
                maximum=1.5,
                value=0,
                step=0.1,
                label="Temperature",
                info="0 takes the likeliest token. Above it tokens are drawn, and no mark shows where answers part.",
            )

        def answer(text: str, longest: float, temperature: float) -> Iterator[str]:
            try:
                yield from answered(models, text, Decoding(max_new_tokens=int(longest), temperature=temperature))
            except DemoError as error:
                raise gradio.Error(str(error), print_exception=False) from error

        asked: dict[str, Any] = {"fn": answer, "inputs": [prompt, count, temperature], "outputs": answers}
        asked["concurrency_limit"] = 1  # two answers at once would spoil each other's speed
        asked["show_progress"] = "hidden"
        events = [run.click(**asked, concurrency_id="answer"), prompt.submit(**asked, concurrency_id="answer")]
        stop.click(None, cancels=events)
    return blocks


def _explanation(first: LoadedModel, is_chat: bool) -> str:
    reads = "The prompt is a turn of a conversation. The models" if is_chat else "The models continue the prompt. They"
    return (
        f"{reads} write in turns, one token each, so that each is timed alone. "
        f"A mark shows the first token that differs from `{first.title}`."
    )


def answered(models: Sequence[LoadedModel], text: str, decoding: Decoding) -> Iterator[str]:
    """The panels after each round, in which every model writes one token. One that cannot go on says so.

    Raises:
        DemoError: the prompt is empty or too long.
    """
    if not text.strip():
        raise DemoError("the prompt is empty: type some text")
    answers: list[Answer] = []
    try:
        for shown in models:
            ids = prompt_ids(shown.model, [("user", text)])
            room = answer_room(shown.model, ids, decoding.max_new_tokens)
            answers.append(Answer(shown.model, ids, _of_length(decoding, room)))
        while sum(answer.step() for answer in answers if not answer.is_done):  # each takes its step, unlike with any()
            yield panels(models, answers, decoding.temperature > 0)
        yield panels(models, answers, decoding.temperature > 0)
    finally:
        for answer in answers:
            answer.close()


def _of_length(decoding: Decoding, tokens: int) -> Decoding:
    return Decoding(max_new_tokens=tokens, temperature=decoding.temperature)


def serve(blocks: gradio.Blocks, host: str, port: int, opens_browser: bool) -> None:
    """Serve a page until Ctrl-C.

    Raises:
        DemoError: the port was taken while models were loaded.
    """
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            inbrowser=opens_browser,
            share=False,
            quiet=True,
            ssr_mode=False,
            pwa=False,
            max_file_size=LARGEST_UPLOAD,
            mcp_server=False,
            footer_links=[],
            theme=gradio.themes.Default(font=list(FONT), font_mono=["ui-monospace", "monospace"]),
            css=STYLE + PAGE_STYLE,
            app_kwargs={"middleware": [Middleware(WithNote)]},
            prevent_thread_lock=False,
        )
    except OSError as error:
        raise DemoError(f"port {port} of {host} was taken while the models were loaded: give another --port") from error
