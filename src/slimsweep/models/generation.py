"""Text that a model writes after prompts or for sources, many at once, with a key-value cache.

The loop is that of transformers' `generate`. This file decides what goes through it together, with which settings,
and where each text ends:

    prompts     . . a b c | x y <end> .     a decoder reads prompts that end at one place; . is padding on the left
                d e f g h | u v w x         this text has reached max_new_tokens: it is cut, and counted as cut

An encoder-decoder reads its sources padded on the right, and writes from its start token on.
"""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slimsweep.checks import number_faults, whole_number_faults
from slimsweep.models.batches import padding_id
from slimsweep.models.language_model import LanguageModel
from slimsweep.progress import watcher

ROWS = 64
"""Largest number of texts that are written at once."""
TOKENS = 2**15
"""Largest number of tokens in the cache at once: rows x beams x (prompt + new tokens). One row always runs."""
BLANK_LINE = "\n\n"
SPARE_TOKENS = 3
"""Last tokens of a text in which a stop is looked for, beyond those of the stop itself."""
FACTS = ("decoder_start_token_id", "forced_bos_token_id", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens")
"""Fields of a checkpoint's generation settings that say which tokens it can write. How it searches does not count."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Settings of generation. The defaults are greedy: one beam, the likeliest token."""

    max_new_tokens: int = 128
    """Longest text in tokens. One that has not ended by then is cut there and counted."""
    min_new_tokens: int = 0
    """Shortest text in tokens: no end before."""
    beams: int = 1
    """Beams of beam search; 1 searches none."""
    length_penalty: int | float = 1.0
    """Beam search divides a text's log-likelihood by its length to this power; above 1 prefers longer texts."""
    no_repeat_ngram: int = 0
    """No sequence of so many tokens is written twice in one text; 0 forbids none."""
    temperature: int | float = 0.0
    """0 takes the likeliest token, above it tokens are drawn."""
    top_p: int | float = 1.0
    """Draws come from the likeliest tokens that together have this probability."""
    sampling_seed: int = 0
    """Seed of the draws."""
    stops: Sequence[str] = ()
    """Texts before which a written text ends."""

    def decoding_faults(self, where: str = "") -> list[str]:
        """Every value that is not allowed; `where` stands before the names, such as `evaluation.metrics.bleu.`."""
        faults = whole_number_faults(f"{where}max_new_tokens", self.max_new_tokens)
        faults += whole_number_faults(f"{where}min_new_tokens", self.min_new_tokens, least=0)
        faults += whole_number_faults(f"{where}beams", self.beams)
        faults += number_faults(f"{where}length_penalty", self.length_penalty, "(-inf, inf)")
        faults += whole_number_faults(f"{where}no_repeat_ngram", self.no_repeat_ngram, least=0)
        faults += number_faults(f"{where}temperature", self.temperature, "[0, inf)")
        faults += number_faults(f"{where}top_p", self.top_p, "(0, 1]")
        faults += whole_number_faults(f"{where}sampling_seed", self.sampling_seed, least=0)
        if isinstance(self.stops, str) or not all(isinstance(stop, str) and stop for stop in self.stops):
            faults.append(f"{where}stops={self.stops!r}: give a list of texts, none of them empty")
        if faults:
            return faults
        if self.beams > 1 and self.temperature > 0:
            faults.append(
                f"{where}beams={self.beams} searches and {where}temperature={self.temperature} draws: set one of them"
            )
        if self.min_new_tokens > self.max_new_tokens:
            faults.append(
                f"{where}min_new_tokens={self.min_new_tokens} is more than {where}max_new_tokens={self.max_new_tokens}"
            )
        return faults

    @property
    def decoding(self) -> "Decoding":
        """The settings alone, of whatever has them among its fields."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(Decoding)}
        return Decoding(**values | {"stops": tuple(self.stops)})

    @property
    def decoding_protocol(self) -> str:
        """The settings as part of a protocol id; those at their default are left out."""
        if self.temperature > 0:
            parts = [f"drawn:temperature={self.temperature:g}", f"top_p={self.top_p:g}", f"seed={self.sampling_seed}"]
        elif self.beams > 1:
            parts = [f"beams={self.beams}", f"length_penalty={self.length_penalty:g}"]
        else:
            parts = ["greedy"]
        parts.append(f"new<={self.max_new_tokens}")
        parts += [f"new>={self.min_new_tokens}"] if self.min_new_tokens else []
        parts += [f"no_repeat={self.no_repeat_ngram}"] if self.no_repeat_ngram else []
        parts += [f"stops={[*self.stops]!r}"] if self.stops else []
        return ":".join(parts)


@dataclass(frozen=True)
class Generated:
    """Texts that a model has written, in the order of their prompts."""

    texts: list[str]
    """Without special tokens, and without the stop that ended them."""
    token_ids: list[list[int]]
    """Tokens of each text before its end token. Where a stop ended the text, those of the stop are still there."""
    cut: list[bool]
    """Whether a text was cut at `max_new_tokens`."""

    @property
    def new_tokens(self) -> int:
        """Number of tokens written."""
        return sum(map(len, self.token_ids))


@torch.no_grad()
def generate(
    model: LanguageModel, prompts: Sequence[Sequence[int]], decoding: Decoding, title: str = "writing"
) -> Generated:
    """Continue prompts with a decoder, or write the targets of sources with an encoder-decoder.

    Prompts of about equal length go through the model together. Draws do not touch torch's own generators; they
    depend on which prompts are asked for together.

    Args:
        prompts: token ids of each prompt or source, none of them empty, short enough for the model.
    """
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    rows: list[tuple[str, list[int], bool]] = [("", [], False)] * len(prompts)
    with torch.random.fork_rng(enabled=decoding.temperature > 0):
        if decoding.temperature > 0:
            torch.manual_seed(decoding.sampling_seed)
        for places in _batches(order, [len(prompt) for prompt in prompts], decoding):
            watcher().part(title, order.index(places[0]), len(order))
            written = written_ids(model, [prompts[place] for place in places], decoding)
            for place, row in zip(places, written, strict=True):
                rows[place] = _ended(row, model, decoding)
    watcher().part(title, len(order), len(order))
    texts, token_ids, cut = zip(*rows, strict=True) if rows else ((), (), ())
    return Generated(list(texts), list(token_ids), list(cut))


def _batches(order: Sequence[int], lengths: Sequence[int], decoding: Decoding) -> list[list[int]]:
    """Places of ascending length in groups that the cache has room for."""
    batches: list[list[int]] = []
    for place in order:
        tokens = decoding.beams * (lengths[place] + decoding.max_new_tokens)
        if not batches or len(batches[-1]) == ROWS or (len(batches[-1]) + 1) * tokens > TOKENS:
            batches.append([])
        batches[-1].append(place)
    return batches


def written_ids(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    streamer: Any = None,
    checks: Sequence[Any] = (),
) -> list[list[int]]:
    """Token ids that follow each prompt, whatever comes after their end included.

    Args:
        streamer: an object with the methods of transformers' `BaseStreamer`, for one prompt; it is handed each token.
        checks: functions with the arguments of transformers' `LogitsProcessor`, called with the logits of each token.
    """
    from transformers import LogitsProcessorList, StoppingCriteriaList

    is_decoder = model.task.name == "causal_lm"
    ids, mask = _padded(prompts, padding_id(model.tokenizer), on_the_left=is_decoder)
    before = ids.shape[1] if is_decoder else 1  # an encoder-decoder's output begins with its start token
    criteria = [_after_stops(model.tokenizer, decoding.stops, before)] if decoding.stops else []
    output = _without_settings(model.module).generate(
        ids.to(model.compute_device),
        attention_mask=mask.to(model.compute_device),
        generation_config=_settings(model, model.module.generation_config, decoding),
        stopping_criteria=StoppingCriteriaList(criteria),
        logits_processor=LogitsProcessorList(checks),
        streamer=streamer,
    )
    return output[:, before:].tolist()


def _without_settings(module: Any) -> Any:
    """A second handle on a module: the same weights and hooks, but no generation settings of the checkpoint.

    `generate` fills in what is not named from the settings of the module it is called on. The module itself stays
    as it is, because several texts may be written with it at once.
    """
    from transformers import GenerationConfig

    handle = copy.copy(module)
    handle.generation_config = GenerationConfig()
    return handle


def _padded(prompts: Sequence[Sequence[int]], padding: int, on_the_left: bool) -> tuple[Tensor, Tensor]:
    """Prompts in one tensor, and its mask."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), padding)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        place = slice(width - len(prompt), width) if on_the_left else slice(0, len(prompt))
        ids[row, place] = torch.tensor(list(prompt))
        mask[row, place] = 1
    return ids, mask


def _settings(model: LanguageModel, given: Any, decoding: Decoding) -> Any:
    """The settings as transformers spells them, with what the checkpoint says of its tokens."""
    from transformers import GenerationConfig

    facts = {name: value for name in FACTS if (value := _fact(model, given, name)) is not None}
    if model.task.name == "seq2seq_lm":  # configs of T5 may lack a start token, and T5 begins with its padding
        facts.setdefault("decoder_start_token_id", getattr(model.config, "pad_token_id", None))
    search: dict[str, Any] = {"do_sample": False, "num_beams": decoding.beams}
    if decoding.temperature > 0:
        search = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0, "top_p": decoding.top_p}
    if decoding.beams > 1:
        search["length_penalty"] = decoding.length_penalty
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        min_new_tokens=decoding.min_new_tokens or None,
        no_repeat_ngram_size=decoding.no_repeat_ngram or None,
        pad_token_id=padding_id(model.tokenizer),
        eos_token_id=end_ids(model) or None,
        use_cache=True,
        **search,
        **facts,
    )


def _fact(model: LanguageModel, given: Any, name: str) -> Any:
    """A field of the checkpoint's generation settings, else of its config."""
    value = getattr(given, name, None)
    return getattr(model.config, name, None) if value is None else value


def _ended(row: list[int], model: LanguageModel, decoding: Decoding) -> tuple[str, list[int], bool]:
    """Text and tokens of a row up to its end, and whether it has none."""
    ends = set(end_ids(model))
    length = next((place for place, token in enumerate(row) if token in ends), len(row))
    text = model.tokenizer.decode(row[:length], skip_special_tokens=True)
    stop = min((place for one in decoding.stops if (place := text.find(one)) >= 0), default=None)
    is_cut = length == decoding.max_new_tokens and stop is None
    return text if stop is None else text[:stop], row[:length], is_cut


def _after_stops(tokenizer: Any, stops: Sequence[str], before: int) -> Callable[..., Tensor]:
    """Criterion that ends each text that has a stop. It saves time; where a text ends is decided afterwards."""
    from transformers import StoppingCriteria

    longest = max(len(tokenizer.encode(stop, add_special_tokens=False)) for stop in stops) + SPARE_TOKENS

    class AfterStops(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Any, **rest: Any) -> Tensor:
            last = tokenizer.batch_decode(input_ids[:, max(before, input_ids.shape[1] - longest) :])
            return torch.tensor([any(stop in text for stop in stops) for text in last], device=input_ids.device)

    return AfterStops()


def end_ids(model: LanguageModel) -> list[int]:
    """Tokens that end a sequence, by the model's config and its tokenizer."""
    given: list[Any] = []
    for holder in (model.config.get_text_config(), getattr(model.module, "generation_config", None), model.tokenizer):
        value = getattr(holder, "eos_token_id", None)
        given += value if isinstance(value, list | tuple) else [value]
    return sorted({int(one) for one in given if one is not None})
