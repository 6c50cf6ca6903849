"""HTML of the answers: a panel for each model, with its numbers and the token where it parts from the first one."""

from collections.abc import Sequence
from html import escape

from slimsweep.demo.answer import UNFINISHED, Answer, parting
from slimsweep.demo.lineup import LoadedModel

MEGABYTE = 1e6
CHARACTER_TOKENS = 4
"""Most tokens that one character takes: a character of UTF-8 has at most four bytes."""
NOISE = 0.02
"""Largest difference of two sizes that is not shown: measurements of a peak of memory differ by as much."""

STYLE = """
.answers {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: .9rem;
  color: var(--body-text-color); font-size: 1rem; line-height: 1.5}
.html-container:has(.answers) {padding-left: 0 !important; padding-right: 0 !important}
.answers section {display: flex; flex-direction: column; border: 1px solid var(--border-color-primary);
  border-radius: .6rem; background: var(--block-background-fill); overflow: hidden; min-width: 0}
.answers header {padding: .55rem .9rem; border-bottom: 1px solid var(--border-color-primary);
  background: var(--background-fill-secondary); display: flex; gap: .6rem; justify-content: space-between;
  align-items: baseline}
.answers h3 {margin: 0; font-size: 1rem; color: inherit}
.answers header code {font-size: .78rem; opacity: .72; background: none; border: 0; padding: 0; color: inherit}
.answers .text {flex: 1; padding: .8rem .9rem; min-height: 7rem; white-space: pre-wrap; overflow-wrap: anywhere}
.answers .text.waiting {opacity: .72}
.answers mark {background: #ffd54f; color: #1f1f1f; border-radius: .2rem; padding: 0 .1rem}
.answers .parts {margin: 0; padding: .5rem .9rem; font-size: .88rem; border-top: 1px solid var(--border-color-primary);
  overflow-wrap: anywhere}
.answers .parts b {white-space: pre}
.answers dl {display: grid; grid-template-columns: 1fr 1fr; gap: .45rem .9rem; margin: 0; padding: .65rem .9rem;
  border-top: 1px solid var(--border-color-primary); background: var(--background-fill-secondary)}
.answers dt {font-size: .78rem; opacity: .72; margin: 0}
.answers dd {margin: 0; font-variant-numeric: tabular-nums}
.answers small {display: block; min-height: 1.2rem; font-size: .78rem; opacity: .72}
"""


def panels(models: Sequence[LoadedModel], answers: Sequence[Answer], is_drawn: bool = False) -> str:
    """All models side by side; without answers their sizes alone.

    Args:
        is_drawn: whether tokens were drawn by chance, so that a place where answers part means nothing.
    """
    shown = []
    for place, model in enumerate(models):
        pair = (answers[0], answers[place]) if answers else None
        shown.append(_panel(model, models[0], pair, (bool(place), is_drawn)))
    return f'<div class="answers">{"".join(shown)}</div>'


def _panel(model: LoadedModel, first: LoadedModel, pair: tuple[Answer, Answer] | None, flags: tuple[bool, bool]) -> str:
    """One panel; `flags` are whether the model is compared with the first one, and whether tokens were drawn."""
    is_compared, is_drawn = flags
    title = f"<header><h3>{escape(model.title)}</h3><code>{escape(model.key[:8])}</code></header>"
    if pair is None:
        text, parts = '<div class="text waiting">waits for a prompt</div>', ""
    else:
        place = parting(pair[0].token_ids, pair[1].token_ids) if is_compared and not is_drawn else None
        text = f'<div class="text">{_text(pair[1], place)}</div>'
        parts = _parts(pair, place, first.title) if is_compared and not is_drawn else ""
        if pair[1].fault:
            parts = f'<p class="parts"><b>{escape(model.title)}</b> cannot go on: {escape(pair[1].fault)}.</p>'
    return f"<section>{title}{text}{parts}{_numbers(model, first, pair[1] if pair else None)}</section>"


def _text(answer: Answer, place: int | None) -> str:
    """The answer, its token at `place` marked; where that is a part of a character, the whole character."""
    if place is None:
        return escape(answer.text) or "&nbsp;"
    text, begin = answer.text, len(answer.text_of(0, place).rstrip(UNFINISHED))
    untils = [answer.text_of(0, place + count + 1) for count in range(CHARACTER_TOKENS)]
    end = len(next((until for until in untils if not until.endswith(UNFINISHED)), untils[0]))
    before, token, rest = text[:begin], text[begin:end], text[end:]
    # An end token, a line break and the first byte of a character cannot be seen: the mark then shows a sign.
    sign = "" if token.strip() else "&#9166;" if "\n" in token else "&#8718;"
    return f"{escape(before)}<mark>{sign}{escape(token)}</mark>{escape(rest)}"


def _parts(pair: tuple[Answer, Answer], place: int | None, first: str) -> str:
    """Sentence on where an answer parts from that of the first model."""
    if place is not None:
        there, here = escape(pair[0].word(place)), escape(pair[1].word(place))
        said = f"Parts from {escape(first)} at token {place + 1}: <b>{there}</b> there, <b>{here}</b> here."
    elif pair[0].fault:
        said = f"Not compared: {escape(first)} cannot go on."
    elif all(one.is_done for one in pair):
        said = f"All {len(pair[1].token_ids)} tokens are those of {escape(first)}."
    else:
        said = f"So far as {escape(first)}."
    return f'<p class="parts">{said}</p>'


def _numbers(model: LoadedModel, first: LoadedModel, answer: Answer | None) -> str:
    """Speed, memory and size of a model."""
    speed = answer.tokens_per_second if answer else None
    begin = f"first after {answer.first_seconds:.2f} s" if answer and answer.token_ids else ""
    state = f"{len(answer.token_ids)} tokens" if answer else ""
    end = _end(answer) if answer and answer.is_done else ""
    rows = {
        "speed": (f"{speed:.1f} tokens/s" if speed else "", begin),
        "answer": (state, end),
        "peak memory": _size(model.memory_bytes, first.memory_bytes, model.memory_reason),
        "weights": _size(model.weight_bytes, first.weight_bytes),
    }
    cells = (
        f"<div><dt>{name}</dt><dd>{value or '&ndash;'}<small>{note}</small></dd></div>"
        for name, (value, note) in rows.items()
    )
    return f"<dl>{''.join(cells)}</dl>"


def _end(answer: Answer) -> str:
    """The way in which an answer ended."""
    if answer.fault:
        return "failed" if answer.is_failed else "broken"
    return "ended by itself" if answer.is_ended else "cut"


def _size(size: int | None, first: int | None, reason: str = "") -> tuple[str, str]:
    """A number of bytes, and as a share of that of the first model where it shows a difference; else the reason."""
    if size is None:
        return "", escape(reason)
    is_other = bool(first) and abs(size / first - 1) > NOISE
    digits = 0 if size > 10 * MEGABYTE else 2
    return f"{size / MEGABYTE:.{digits}f} MB", f"{size / first:.0%} of dense" if is_other else ""
