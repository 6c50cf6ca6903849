"""Tokens of prepared rows: a tokenizer trained on the training split, and packing for each form of model.

causal: documents behind each other, an end token after each, cut into windows without padding.

    | story one </s> story two </s> sto | ry three </s> ... |     the last, shorter window is left out
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimsweep.data.instructions import labelled_tokens
from slimsweep.data.preparation.dataset import FORMS, TRAIN, Dataset
from slimsweep.data.preparation.splits import Rows
from slimsweep.data.problem_file import read_problem
from slimsweep.data.problems import ended, labelled
from slimsweep.errors import CorpusError
from slimsweep.progress import tracked

SPECIAL_TOKENS = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
"""Special tokens of a trained tokenizer; their ids are 0 to 4 in this order, as BART has them."""
BATCH = 1000


@dataclass(frozen=True)
class Tokens:
    """Examples of a split as token ids."""

    examples: list[dict[str, Any]]
    counts: dict[str, int]
    """Rows or tokens that are not whole in the examples, by reason, for the card."""


def train_tokenizer(texts: Iterable[str], size: int, folder: Path) -> None:
    """Train a byte-level BPE and write it as transformers reads it; a text ends with `</s>`.

    Raises:
        CorpusError: the texts have fewer pieces than that; the largest possible size is told.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = list(SPECIAL_TOKENS.values())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != size:
        raise CorpusError(
            f"tokenizer={size}: the training split has text for {tokenizer.get_vocab_size()} tokens; set tokenizer to "
            "that or less"
        )
    end = SPECIAL_TOKENS["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, special.index(end))]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS).save_pretrained(folder)


def encode(rows: Rows, dataset: Dataset, split: str, tokenizer: Any) -> Tokens:
    """Examples of one split in the form that the dataset asks for."""
    form = FORMS[dataset.kind][0] if dataset.form == "auto" else dataset.form
    if form == "classification":
        return _classified(rows, tokenizer, dataset.tokens)
    if form == "seq2seq":
        return _paired(rows, tokenizer, dataset.tokens, is_training=split == TRAIN)
    if dataset.kind in ("conversations", "problems"):
        return _answered(rows, dataset, tokenizer)
    return packed([row["text"] for row in rows], tokenizer, dataset.tokens)


def packed(texts: Sequence[str], tokenizer: Any, window: int) -> Tokens:
    """Windows of equal length over all texts, with an end token after each text."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    stream: list[int] = []
    for _, ids in _encoded(texts, tokenizer, add_special_tokens=False):
        stream += ids + end
    whole = len(stream) // window * window
    examples = [{"input_ids": stream[start : start + window]} for start in range(0, whole, window)]
    return Tokens(examples, {"tokens after the last window": len(stream) - whole})


def _classified(rows: Rows, tokenizer: Any, longest: int) -> Tokens:
    """Texts, cut at the longest length that a tokenizer with its special tokens may give."""
    encoded = [ids for _, ids in _encoded([row["text"] for row in rows], tokenizer)]
    cut = tokenizer([row["text"] for row in rows], truncation=True, max_length=longest, verbose=False)["input_ids"]
    examples = [{"input_ids": ids, "label": row["label"]} for row, ids in zip(rows, cut, strict=True)]
    return Tokens(examples, {"rows cut": sum(len(ids) > longest for ids in encoded)})


def _paired(rows: Rows, tokenizer: Any, longest: int, is_training: bool) -> Tokens:
    """Pairs; a longer one is left out of the training split, and cut in another one."""
    sources = [ids for _, ids in _encoded([row["source"] for row in rows], tokenizer)]
    targets = [ids for _, ids in _encoded([row["target"] for row in rows], tokenizer, is_target=True)]
    too_long = [max(len(source), len(target)) > longest for source, target in zip(sources, targets, strict=True)]
    examples = [
        {"input_ids": _cut(source, longest), "labels": _cut(target, longest)}
        for source, target, is_long in zip(sources, targets, too_long, strict=True)
        if not (is_long and is_training)
    ]
    return Tokens(examples, {"rows left out" if is_training else "rows cut": sum(too_long)})


def _cut(ids: list[int], longest: int) -> list[int]:
    """At most so many tokens; the last one, which ends the text, stays."""
    return ids if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]


def _answered(rows: Rows, dataset: Dataset, tokenizer: Any) -> Tokens:
    """Conversations or problems whose answers alone are labels; longer ones are left out."""
    examples = []
    for _, row in tracked(rows, f"encode {dataset.name}"):
        turns = turns_of_row(row, dataset)
        if dataset.kind == "problems":
            problem = read_problem(turns, 1, dataset.name)
            example = labelled(problem.prompt, ended(problem.solution, tokenizer), tokenizer)
        else:
            example = labelled_tokens(turns, tokenizer)
        examples.append(example)
    kept = [example for example in examples if len(example["input_ids"]) <= dataset.tokens]
    return Tokens(kept, {"rows left out": len(examples) - len(kept)})


def turns_of_row(row: dict[str, Any], dataset: Dataset) -> tuple[tuple[str, str], ...]:
    """Turns of a conversation, or of a question and its answer."""
    if dataset.kind == "problems":
        return (("user", row["question"]), ("assistant", row["answer"]))
    return tuple((turn["role"], turn["content"]) for turn in row["messages"])


def _encoded(
    texts: Sequence[str], tokenizer: Any, add_special_tokens: bool = True, is_target: bool = False
) -> Iterable[tuple[int, list[int]]]:
    """Token ids of each text with its place, in batches."""
    batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    for index, batch in tracked(batches, "encode"):
        given = {"text_target": list(batch)} if is_target else {"text": list(batch)}
        ids = tokenizer(**given, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]
        yield from enumerate(ids, index * BATCH)
