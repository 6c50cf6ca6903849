"""Cleaning and normalisation of one text: pure functions from a string to a string, by name."""

import functools
import html
import re
import unicodedata
from collections.abc import Callable

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
"""Characters that plain ASCII text with tabs and line ends does not have."""
SPACES = re.compile(r"[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
"""Spaces of other widths, and those that do not break a line."""
INVISIBLE = re.compile(r"[\u200b\u2060\u00ad]")
"""Characters of no width that only say where a word may be broken."""
HTML_ELEMENTS = (
    *("a", "abbr", "article", "aside", "b", "big", "blockquote", "body", "br", "button", "caption", "center", "cite"),
    *("code", "col", "dd", "del", "div", "dl", "dt", "em", "figure", "font", "footer", "form", "h1", "h2", "h3", "h4"),
    *("h5", "h6", "head", "header", "hr", "html", "i", "iframe", "img", "input", "ins", "label", "li", "link", "main"),
    *("meta", "nav", "object", "ol", "p", "pre", "q", "s", "script", "section", "small", "span", "strike", "strong"),
    *("style", "sub", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "title", "tr", "tt", "u", "ul", "video"),
)
LINE_ELEMENTS = ("br", "p", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "blockquote")
"""Elements that begin a new line."""
UNSEEN = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
"""Elements whose content is no text."""
TAG = re.compile(
    rf"</?({'|'.join(HTML_ELEMENTS)})(?:\s+[a-z-]+(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s<>\"']+))?)*\s*/?>", re.IGNORECASE
)
"""A tag of HTML alone, so that <unk>, <<48/2=24>> and a < b stay."""
JOINTS = re.compile(r" @([-,.\u2013/])@ ")
PUNCTUATION = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"')
    | dict.fromkeys("\u2013\u2014", "-")
    | {"\u2026": "..."}
)


@functools.cache
def _ftfy() -> tuple[Callable, object]:
    import ftfy

    config = ftfy.TextFixerConfig(
        unescape_html=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        normalization=None,
        explain=False,
    )
    return ftfy.fix_text, config


def repair_encoding(text: str) -> str:
    """Undo wrong decodings (`Ã©` for `é`), lone surrogates, other line ends and control characters, by ftfy."""
    if text.isascii() and not CONTROL.search(text):
        return text
    fix, config = _ftfy()
    return fix(text, config)


def compose_unicode(text: str) -> str:
    """Normal form C: one code point for a letter with its accent."""
    return unicodedata.normalize("NFC", text)


def remove_markup(text: str) -> str:
    """Remove HTML tags, comments, scripts and character references; what begins a line there begins one here."""
    if "<" in text:
        text = UNSEEN.sub("", text)
        text = TAG.sub(lambda match: "\n" if match[1].lower() in LINE_ELEMENTS else "", text)
    return html.unescape(text) if "&" in text else text


def clean_whitespace(text: str) -> str:
    """One space between words, none at the ends of lines, at most one blank line; indentation stays."""
    text = INVISIBLE.sub("", SPACES.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n")))
    text = re.sub(r"[ \t]+(?=\n|$)", "", text)
    text = re.sub(r"(?<=\S)[ \t]{2,}(?=\S)", " ", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def fold_compatibility(text: str) -> str:
    """Normal form KC: full-width letters, ligatures and superscripts become plain characters."""
    return unicodedata.normalize("NFKC", text)


def plain_punctuation(text: str) -> str:
    """ASCII quotes, dashes and dots, in place of typographic ones."""
    return text.translate(PUNCTUATION)


def close_joints(text: str) -> str:
    """`role @-@ playing` becomes `role-playing`, as WikiText and Moses mark what they took apart."""
    return JOINTS.sub(r"\1", text)


STEPS: dict[str, Callable[[str], str]] = {
    "encoding": repair_encoding,
    "unicode": compose_unicode,
    "markup": remove_markup,
    "whitespace": clean_whitespace,
    "compatibility": fold_compatibility,
    "punctuation": plain_punctuation,
    "joints": close_joints,
    "lowercase": str.lower,
}
"""Every cleaning and normalisation step by its word in a dataset."""


def comparable(text: str) -> str:
    """The form in which two texts are compared: compatibility folded, without case, one space between words."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
