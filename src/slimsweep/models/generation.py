"""Text that a language model writes after prompts, many at once, with a key-value cache."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slimsweep.models.batches import padding_id
from slimsweep.models.language_model import LanguageModel
from slimsweep.progress import watcher

ROWS = 64
"""Prompts that are continued at once."""
BLANK_LINE = "\n\n"
LINE_TOKENS = 4
"""Last tokens of a text in which a blank line is looked for."""


@torch.no_grad()
def write(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    *,
    ends_at_blank_line: bool = False,
    temperature: int | float = 0.0,
    seed: int = 0,
    title: str = "writing",
) -> list[str]:
    """Continuations of prompts, in their order, without special tokens.

    A continuation ends with an end token of the model or its tokenizer, or at `new_tokens`; where that is asked for, at
    a blank line too.

    Args:
        prompts: token ids of each prompt.
        temperature: 0 takes the likeliest token, above it tokens are drawn.
        seed: of the draws; it does not touch torch's own generators.
    """
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    texts = [""] * len(prompts)
    with torch.random.fork_rng(enabled=temperature > 0):
        if temperature > 0:
            torch.manual_seed(seed)
        for start in range(0, len(order), ROWS):
            watcher().part(title, start, len(order))
            places = order[start : start + ROWS]
            found = _continued(model, [prompts[place] for place in places], new_tokens, ends_at_blank_line, temperature)
            for place, text in zip(places, found, strict=True):
                texts[place] = text.partition(BLANK_LINE)[0] if ends_at_blank_line else text
    watcher().part(title, len(order), len(order))
    return texts


def _continued(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    ends_at_blank_line: bool,
    temperature: int | float,
) -> list[str]:
    """Continuations of some prompts at once; shorter prompts are padded on the left."""
    from transformers import GenerationConfig, StoppingCriteriaList

    tokenizer, width = model.tokenizer, max(map(len, prompts))
    padding = padding_id(tokenizer)
    ids = torch.full((len(prompts), width), padding)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    draws = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    settings = GenerationConfig(
        max_new_tokens=new_tokens,
        pad_token_id=padding,
        eos_token_id=end_ids(model) or None,
        use_cache=True,
        **({"do_sample": False} | draws),
    )
    given = model.module.generation_config
    model.module.generation_config = GenerationConfig()  # a checkpoint's own settings would fill in what is not named
    try:
        output = model.module.generate(
            ids.to(model.compute_device),
            attention_mask=mask.to(model.compute_device),
            generation_config=settings,
            stopping_criteria=StoppingCriteriaList([_after_blank_line(tokenizer, width)] if ends_at_blank_line else []),
        )
    finally:
        model.module.generation_config = given
    return tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)


def _after_blank_line(tokenizer: Any, width: int) -> Any:
    """Criterion that ends each text that has a blank line."""
    from transformers import StoppingCriteria

    class AfterBlankLine(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Any, **rest: Any) -> Tensor:
            last = tokenizer.batch_decode(input_ids[:, max(width, input_ids.shape[1] - LINE_TOKENS) :])
            return torch.tensor([BLANK_LINE in text for text in last], device=input_ids.device)

    return AfterBlankLine()


def end_ids(model: LanguageModel) -> list[int]:
    """Tokens that end a sequence, by the model's config and its tokenizer."""
    given: list[Any] = []
    for holder in (model.config.get_text_config(), getattr(model.module, "generation_config", None), model.tokenizer):
        value = getattr(holder, "eos_token_id", None)
        given += value if isinstance(value, list | tuple) else [value]
    return sorted({int(one) for one in given if one is not None})
