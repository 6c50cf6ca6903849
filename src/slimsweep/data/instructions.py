"""Instructions and conversations to train language models on: only the assistant's turns are predicted."""

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from slimsweep.checks import refuse, whole_number_faults
from slimsweep.data.corpora import Corpora
from slimsweep.data.pairs import existing_file
from slimsweep.data.rows import KINDS, kind_of, read_file
from slimsweep.data.training import (
    TrainingData,
    TrainingSet,
    length_faults,
    padded_batch,
    split_by_content,
    task_faults,
    token_bytes,
)
from slimsweep.data.unknown_tokens import ids_fault
from slimsweep.errors import CorpusError
from slimsweep.models.batches import IGNORED, padding_id

Turns = tuple[tuple[str, str], ...]
"""Turns of a conversation: role (system, user or assistant) and text."""
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant"}
"""Other names of the roles, used by ShareGPT and SlimOrca."""
LAYOUTS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "response"),
    ("question", "answer"),
    ("messages",),
    ("conversations",),
)
"""Columns of the known files: Alpaca, Dolly (original, then MosaicML's), GSM8K, chat, ShareGPT."""
CONTEXT = ("input", "context")
"""Optional columns whose text is appended to the instruction."""


@dataclass(frozen=True, kw_only=True)
class Instructions(TrainingData):
    """Instructions with answers, or conversations. Those longer than `tokens` are left out."""

    path: str | None
    """File with the columns of one of the LAYOUTS."""
    tokens: int
    """Longest conversation in tokens."""

    def __post_init__(self) -> None:
        refuse([*self.bad_values(), *whole_number_faults("data.tokens", self.tokens, least=2)])

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        if faults := task_faults(source, "causal_lm", "instructions", "set data=pairs or data=rows"):
            return faults
        if not self.path:
            return [f"data=instructions reads a file of yours: add data.path=FILE (.{', .'.join(KINDS[1:])})"]
        if faults := length_faults(source, "data.tokens", self.tokens):
            return faults
        try:
            kept = self._kept(read_conversations(self.path), source.tokenizer())
        except CorpusError as error:
            return [str(error)]
        ids = torch.tensor([token for one in kept for token in one["input_ids"]])
        vocabulary = source.config().get_text_config().vocab_size
        fault = ids_fault(f"training data {self.path}", ids, source.tokenizer(), vocabulary)
        return [fault] if fault else []

    def digest(self, corpora: Corpora) -> str:
        content = json.dumps(read_conversations(self.path))
        return hashlib.sha256(content.encode()).hexdigest()

    def texts(self, corpora: Corpora) -> Iterable[str]:
        return (text for turns in read_conversations(self.path) for _, text in turns)

    def examples(self, source: Any, corpora: Corpora) -> TrainingSet:
        tokenizer = source.tokenizer()
        kept = self._kept(read_conversations(self.path), tokenizer)
        training, validation = split_by_content(kept, lambda one: token_bytes(one["input_ids"]), self.validation)
        collate = functools.partial(padded_batch, padding=padding_id(tokenizer))
        return TrainingSet(training, validation, collate, str(self.path))

    def _kept(self, conversations: Sequence[Turns], tokenizer: Any) -> list[dict[str, list[int]]]:
        every = [labelled_tokens(turns, tokenizer) for turns in conversations]
        kept = [one for one in every if len(one["input_ids"]) <= self.tokens and any(_predicted(one))]
        if len(kept) < 2:
            shortest = min(len(one["input_ids"]) for one in every)
            raise CorpusError(
                f"{self.path}: {len(kept)} of {len(every)} conversations have at most data.tokens={self.tokens} "
                f"tokens, and two are needed, one to validate on (the shortest has {shortest}): set a larger "
                "data.tokens"
            )
        return kept


@functools.lru_cache(maxsize=4)
def _conversations(path: str, stamp: tuple[int, int]) -> tuple[Turns, ...]:
    file = existing_file(path)
    if kind_of(file) not in KINDS[1:]:
        raise CorpusError(f"{path} ends in none of .{', .'.join(KINDS[1:])}, so it has no columns of instructions")
    rows = read_file(file)
    if not rows:
        raise CorpusError(f"{path} holds no row")
    return tuple(_turns(row, number, path) for number, row in enumerate(rows, 1))


def read_conversations(path: str) -> tuple[Turns, ...]:
    """Conversations of a file in order, read once per process.

    Raises:
        CorpusError: the file does not exist or has no known columns, or a row has no answer or an unknown role.
    """
    stat = existing_file(path).stat()
    return _conversations(path, (stat.st_size, stat.st_mtime_ns))


def _turns(row: dict[str, Any], number: int, path: str) -> Turns:
    turns = turns_of(row, number, path)
    if not has_answer(turns):
        layout = next(layout for layout in LAYOUTS if set(layout) <= row.keys())
        raise CorpusError(f"{path}: row {number} has no answer to learn, in its column {layout[-1]!r}: remove the row")
    return turns


def has_answer(turns: Turns) -> bool:
    """Whether the assistant says something."""
    return any(role == "assistant" and text for role, text in turns)


def turns_of(row: dict[str, Any], number: int, path: str) -> Turns:
    """Turns of a row in one of the LAYOUTS; an answer may be empty.

    Raises:
        CorpusError: no known columns, or an unknown role.
    """
    layout = next((layout for layout in LAYOUTS if set(layout) <= row.keys()), None)
    if layout is None:
        raise CorpusError(
            f"{path}: row {number} has the columns {', '.join(map(str, row))}; needed are "
            f"{' or '.join(' and '.join(layout) for layout in LAYOUTS)}"
        )
    if len(layout) == 1:
        given = row[layout[0]]
        given = given if isinstance(given, list) else []
        turns = tuple((_role(one), _text(one)) for one in given if isinstance(one, dict))
    else:
        asked_in = (layout[0], *CONTEXT)
        asked = "\n\n".join(text for name in asked_in if isinstance(text := row.get(name), str) and text)
        turns = (("user", asked), ("assistant", row[layout[1]] if isinstance(row[layout[1]], str) else ""))
    if unknown := [role for role, _ in turns if role not in ("system", "user", "assistant")]:
        raise CorpusError(f"{path}: row {number} has a turn of the role {unknown[0]!r}: use system, user or assistant")
    return turns


def _role(turn: dict[str, Any]) -> str:
    role = str(turn.get("role", turn.get("from", "")))
    return ROLES.get(role, role)


def _text(turn: dict[str, Any]) -> str:
    return str(turn.get("content", turn.get("value", "")))


def labelled_tokens(turns: Turns, tokenizer: Any) -> dict[str, list[int]]:
    """Token ids of a conversation, and labels that are IGNORED outside the assistant's turns.

    A tokenizer without a chat template gets a plain one.
    """
    return _templated(turns, tokenizer) if tokenizer.chat_template else _plain(turns, tokenizer)


def _templated(turns: Turns, tokenizer: Any) -> dict[str, list[int]]:
    """Tokens as the chat template writes them.

    To find an answer, the conversation is rendered twice: up to the answer, with the template's generation prompt, and
    with the answer. The answer begins where the two differ. Some templates change earlier turns when later ones
    follow, for example drop their reasoning. Only answers that the whole conversation still contains are predicted.
    """

    def tokens(count: int, opens_answer: bool) -> list[int]:
        messages = [{"role": role, "content": text} for role, text in turns[:count]]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens_answer)
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    answers = [place for place, (role, _) in enumerate(turns) if role == "assistant"]
    ids = tokens(answers[-1] + 1, opens_answer=False)
    labels = [IGNORED] * len(ids)
    for place in answers:
        before, until = tokens(place, opens_answer=True), tokens(place + 1, opens_answer=False)
        # The generation prompt may end in text that this answer does not begin with, such as an empty thought.
        start = next(
            (at for at, pair in enumerate(zip(before, until, strict=False)) if pair[0] != pair[1]), len(before)
        )
        if ids[: len(until)] == until:
            labels[start : len(until)] = until[start:]
    return {"input_ids": ids, "labels": labels}


def _predicted(example: dict[str, list[int]]) -> list[bool]:
    return [label != IGNORED for label in example["labels"]]


def _plain(turns: Turns, tokenizer: Any) -> dict[str, list[int]]:
    """Tokens of each turn after a line that names its role. An answer ends with the end token, if there is one."""
    ids: list[int] = []
    labels: list[int] = []
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for role, text in turns:
        opening = tokenizer(f"### {role.capitalize()}:\n", add_special_tokens=not ids, verbose=False)["input_ids"]
        content = tokenizer(f"{text}\n\n", add_special_tokens=False, verbose=False)["input_ids"]
        content = content + end if role == "assistant" else content
        ids += opening + content
        labels += [IGNORED] * len(opening) + (content if role == "assistant" else [IGNORED] * len(content))
    return {"input_ids": ids, "labels": labels}


def answer_prompt(turns: Turns, tokenizer: Any) -> list[int]:
    """Token ids of the turns of a conversation, up to the place where the assistant answers."""
    if not tokenizer.chat_template:
        opening = tokenizer("### Assistant:\n", add_special_tokens=False, verbose=False)["input_ids"]
        return _plain(turns, tokenizer)["input_ids"] + opening
    messages = [{"role": role, "content": text} for role, text in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
