"""Tokenizers that llama.cpp runs: metadata of a GGUF file that gives the same ids.

llama.cpp has no tokenizer.json. It knows two kinds, and the rest by heart:

    gpt2    byte-level BPE: pieces, merges in order, and the NAME of the rule that cuts text into words
    llama   SentencePiece BPE: pieces with scores; neighbours whose union has the highest score are joined first

The rule is recognised by comparing the tokenizer's own rule with those below. For the second kind the scores are made
of the merges: the earlier a merge, the higher the score of the piece that it makes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from slimsweep.errors import ExportError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of tokens. Source: `llama_token_type` of llama.cpp."""
SPACE = "▁"
BEGINS = "ggml.add_bos_token"
BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
RULES: dict[tuple[str, ...], tuple[str, bool]] = {
    ("words of GPT-2",): ("gpt-2", False),
    ("digits", "words of GPT-2"): ("smollm", False),
    (_WORDS + r"|\p{N}{1,3}" + _TAIL,): ("llama-bpe", True),
    (_WORDS + r"|\p{N}" + _TAIL,): ("qwen2", False),
}
"""Name of a rule in llama.cpp, and whether a word that is a piece itself is taken without merging."""
NORMALIZED = ("qwen2",)
"""Rules whose tokenizers compose characters first (NFC), which llama.cpp does not: decomposed text gets other ids."""
CHECK_TEXT = (
    "The year 2026, and 3.14159 too: don't stop!\n\n\tdef f(x):  return x**2  # naïve café — 北京 🙂\n"
    '  "Quoted" text; it\'s 100% fine...   '
)
"""Text whose ids a file carries, so that any reader of the file can compare."""
CHECK_CONVERSATION = (
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "And 3 + 3?"},
)
"""Conversation that a file carries as its chat template writes it."""


@dataclass(frozen=True)
class Vocabulary:
    """Metadata of a tokenizer, by key below `tokenizer.`."""

    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    """Sentences on where llama.cpp gives other ids; the export prints them."""


def vocabulary(tokenizer: Any, rows: int) -> Vocabulary:
    """Metadata of a fast tokenizer of transformers for a model with `rows` embeddings.

    Raises:
        ExportError: llama.cpp has no such tokenizer; says what is different.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ExportError(
            f"GGUF export reads tokenizers with a tokenizer.json, and this is a {type(tokenizer).__name__}"
        )
    parts = json.loads(backend.to_str())
    if len(tokenizer) > rows:
        raise ExportError(f"the tokenizer has {len(tokenizer)} tokens, and the model has {rows} embeddings")
    if parts["model"]["type"] != "BPE":
        raise ExportError(f"llama.cpp is given BPE tokenizers here, and this one is {parts['model']['type']}")
    is_byte_level = "ByteLevel" in json.dumps(parts["pre_tokenizer"])
    made = _byte_level(parts) if is_byte_level else _sentence_piece(parts)
    tokens, kinds = _tokens(tokenizer, parts, rows, is_byte_level)
    settings = {"ggml.tokens": tokens, "ggml.token_type": kinds, **made.settings, **_special(tokenizer)}
    if not is_byte_level:
        settings["ggml.scores"] = _scores(tokens, kinds, parts["model"]["merges"])
    if isinstance(tokenizer.chat_template, str):
        settings["chat_template"] = tokenizer.chat_template
    return Vocabulary(settings, made.notes)


def check(tokenizer: Any, notes: Sequence[str] = ()) -> str:
    """JSON of a text with its ids, of notes and, with a chat template, of a conversation with its prompt.

    Raises:
        ExportError: the chat template writes no conversation.
    """
    content = {"text": CHECK_TEXT, "ids": tokenizer(CHECK_TEXT)["input_ids"], "notes": list(notes)}
    if isinstance(tokenizer.chat_template, str):
        content |= {"messages": list(CHECK_CONVERSATION), "prompt": _prompt(tokenizer)}
    return json.dumps(content, ensure_ascii=False)


def _prompt(tokenizer: Any) -> str:
    """CHECK_CONVERSATION as the chat template writes it."""
    from jinja2 import TemplateError

    messages = list(CHECK_CONVERSATION)
    try:
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError) as error:
        raise ExportError(f"the chat template cannot write a conversation of user and assistant: {error}") from error
    prompt = without_beginning(tokenizer, prompt)
    if not prompt:
        raise ExportError("the chat template writes nothing for a conversation of user and assistant")
    return prompt


def without_beginning(tokenizer: Any, prompt: str) -> str:
    """A prompt without the token of its beginning, which programs add with the ids."""
    return prompt.removeprefix(tokenizer.bos_token) if tokenizer.bos_token and _special(tokenizer)[BEGINS] else prompt


def _byte_level(parts: dict[str, Any]) -> Vocabulary:
    rule = _rule(parts["pre_tokenizer"])
    if not parts["model"]["merges"] and not rule:
        rule = ("words of GPT-2",)  # without merges each byte is a token, wherever words are cut
    if rule not in RULES:
        known = ", ".join(name for name, _ in RULES.values())
        raise ExportError(f"llama.cpp's rules for words known here are {known}; the tokenizer has another: {rule}")
    name, ignores_merges = RULES[rule]
    if bool(parts["model"].get("ignore_merges")) != ignores_merges:
        raise ExportError(f"llama.cpp's rule {name} has ignore_merges={ignores_merges}, and the tokenizer has not")
    normalizers = _types(parts["normalizer"], "normalizers")
    notes = []
    if normalizers == ["NFC"] and name in NORMALIZED:
        notes.append("llama.cpp does not compose characters (NFC): text in decomposed Unicode gets other ids")
    elif normalizers:
        raise ExportError(f"llama.cpp does not normalise text for {name}; the tokenizer does: {', '.join(normalizers)}")
    # llama.cpp wants one merge at least. This one makes no piece, so it changes no id.
    merges = [" ".join(_pair(merge)) for merge in parts["model"]["merges"]] or ["Ā Ā"]
    return Vocabulary({"ggml.model": "gpt2", "ggml.pre": name, "ggml.merges": merges}, notes)


def _rule(pre_tokenizer: dict[str, Any]) -> tuple[str, ...]:
    """Steps that cut a text into words; a step that no rule has is given in full."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    rule: list[str] = []
    for step in steps:
        pattern = step.get("pattern", {}).get("Regex")
        if step["type"] == "ByteLevel" and not step["add_prefix_space"]:
            rule += ["words of GPT-2"] if step["use_regex"] else []
        elif step["type"] == "Split" and pattern and step["behavior"] == "Isolated" and not step["invert"]:
            rule.append(pattern)
        elif step["type"] == "Digits" and step["individual_digits"]:
            rule.append("digits")
        else:
            rule.append(json.dumps(step))
    return tuple(rule)


def _sentence_piece(parts: dict[str, Any]) -> Vocabulary:
    """Metadata of a BPE over characters with spaces as ▁ and unknown characters as bytes."""
    model = parts["model"]
    if not model.get("byte_fallback") or not model["vocab"].keys() >= BYTES or model.get("ignore_merges"):
        raise ExportError(
            "llama.cpp's SentencePiece tokenizer writes unknown characters as bytes, and this one does not"
        )
    steps = [*_steps(parts["normalizer"], "normalizers"), *_steps(parts["pre_tokenizer"], "pretokenizers")]
    prefix = any(
        (step["type"] == "Prepend" and step["prepend"] == SPACE)
        or (step["type"] == "Metaspace" and step["prepend_scheme"] in ("first", "always"))
        for step in steps
    )
    other = [step for step in steps if not _is_space_step(step)]
    if other:
        raise ExportError(f"llama.cpp's SentencePiece tokenizer knows no such step: {json.dumps(other)}")
    return Vocabulary({"ggml.model": "llama", "ggml.pre": "default", "ggml.add_space_prefix": prefix})


def _is_space_step(step: dict[str, Any]) -> bool:
    pattern = step.get("pattern", {}).get("String")
    if step["type"] == "Metaspace":
        return step["replacement"] == SPACE and not step.get("split", True)
    return (
        (step["type"] == "Prepend" and step["prepend"] == SPACE)
        or (step["type"] == "Replace" and pattern == " " and step["content"] == SPACE)
        or (step["type"] == "Split" and pattern == " ")  # Gemma's, which finds no space: all are ▁ by then
    )


def _scores(tokens: list[str], kinds: list[int], merges: list[Any]) -> list[float]:
    """Score of each piece: minus the place of the first merge that makes it."""
    scores, last = {}, None
    for place, merge in enumerate(merges):
        piece = "".join(_pair(merge))
        if piece in scores and piece != last:
            raise ExportError(
                f"the merges are not those of a SentencePiece model: {piece!r} is made at several places of their order"
            )
        scores.setdefault(piece, -float(place))
        last = piece
    whole = {token for token, kind in zip(tokens, kinds, strict=True) if kind == NORMAL and len(token) > 1}
    pairs = {"".join(_pair(merge)): set() for merge in merges}
    for merge in merges:
        pairs["".join(_pair(merge))].add(tuple(_pair(merge)))
    pieces = {token for token, kind in zip(tokens, kinds, strict=True) if kind == NORMAL}
    for piece in whole:
        cuts = {(piece[:at], piece[at:]) for at in range(1, len(piece))}
        extra = {cut for cut in cuts if cut[0] in pieces and cut[1] in pieces} - pairs.get(piece, set())
        if extra:
            left, right = min(extra)
            raise ExportError(
                f"llama.cpp would join {left!r} and {right!r} to {piece!r}, and the tokenizer has no such merge"
            )
    return [scores.get(token, 0.0) if kind == NORMAL else 0.0 for token, kind in zip(tokens, kinds, strict=True)]


def _tokens(tokenizer: Any, parts: dict[str, Any], rows: int, is_byte_level: bool) -> tuple[list[str], list[int]]:
    """Every token by its id, with its kind; embeddings without a token get one that no text has."""
    tokens, kinds = [f"[PAD{index}]" for index in range(rows)], [UNUSED] * rows
    for token, index in parts["model"]["vocab"].items():
        tokens[index] = token
        kinds[index] = BYTE if not is_byte_level and token in BYTES else NORMAL
    for added in parts["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    unknown = tokenizer.unk_token_id
    if unknown is not None and not is_byte_level:
        kinds[unknown] = UNKNOWN
    return tokens, kinds


def _special(tokenizer: Any) -> dict[str, Any]:
    """Ids of special tokens, and those that are put around a text.

    Raises:
        ExportError: other tokens than beginning and end are put around a text.
    """
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    begins = bool(whole) and whole[0] == ids["bos"] and whole[: len(plain)] != plain
    ends = bool(whole) and whole[-1] == ids["eos"] and whole[-len(plain) :] != plain
    if whole != [ids["bos"]] * begins + plain + [ids["eos"]] * ends:
        raise ExportError("llama.cpp puts the beginning or the end around a text, and the tokenizer puts other tokens")
    settings: dict[str, Any] = {f"ggml.{name}_token_id": index for name, index in ids.items() if index is not None}
    return settings | {BEGINS: begins, "ggml.add_eos_token": ends}


def _pair(merge: Any) -> list[str]:
    """The two pieces of a merge; older tokenizer files hold them as one string."""
    return merge.split(" ") if isinstance(merge, str) else list(merge)


def _steps(part: dict[str, Any] | None, list_name: str) -> list[dict[str, Any]]:
    return [] if part is None else part.get(list_name, [part])


def _types(part: dict[str, Any] | None, list_name: str) -> list[str]:
    return [step["type"] for step in _steps(part, list_name)]
