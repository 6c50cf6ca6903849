"""Sentence for browsers without JavaScript, put into the HTML of gradio's page.

Gradio sends an empty element that a script fills, and its `head=` is read by that script too.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import MutableHeaders

Message = MutableMapping[str, Any]

PLACE = b"<gradio-app"
"""Begin of the element that the script fills."""
NOTE = (
    b'<noscript><p style="padding: 1rem; font: 1rem/1.5 system-ui, sans-serif">'
    b"This page needs JavaScript, which is off in this browser. Enable JavaScript and load the page again, or talk to "
    b"one of the models in the terminal: <code>slim chat KEY</code>. <code>slim table</code> lists the keys."
    b"</p></noscript>"
)


class WithNote:
    """ASGI middleware that adds the sentence to the page. All other addresses pass unchanged."""

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self._app = app

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            await self._app(scope, receive, send)
            return
        kept: list[Message] = []

        async def keep(message: Message) -> None:
            kept.append(message)

        await self._app(scope, receive, keep)
        if not kept:  # the reader has gone
            return
        begin, *parts = kept
        page = b"".join(part.get("body", b"") for part in parts)
        if PLACE in page:  # an answer of another kind, such as a redirection, has no such element
            page = page.replace(PLACE, NOTE + PLACE, 1)
            MutableHeaders(raw=begin["headers"])["content-length"] = str(len(page))
        await send(begin)
        await send({"type": "http.response.body", "body": page})
