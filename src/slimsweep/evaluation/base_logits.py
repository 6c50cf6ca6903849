"""Next-token distributions of a base model on one text, kept on disk: the k most likely tokens of each place.

    FOLDER/<digest of the windows>_top512/
        logits.npy          [place k]  the highest logits, in the base's own dtype (bfloat16 as its bits)
        tokens.npy          [place k]  their token ids, the most likely first
        log_partition.npy   [place]    log of the sum of exp over all logits, fp32
        nll.npy             [place]    negative log-likelihood of the text's own token, fp32
        checked.npy         [check]    places of which all logits are kept
        whole.npy           [check vocabulary]
        about.json          vocabulary and dtype

A place is one that predicts a token. Nothing is rounded: log-probabilities are the base's own. With k = vocabulary the
distributions are whole, and no place is kept twice.
"""

import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

CHECKED_PLACES = 128
"""Places, evenly spread, whose whole distribution is kept, to measure what the k tokens leave out."""
FILES = ("logits", "tokens", "log_partition", "nll", "checked", "whole")


@dataclass(frozen=True)
class Kept:
    """Part of the distributions: some places in a row."""

    tokens: Int[Tensor, "place k"]
    log_probs: Float[Tensor, "place k"]
    """Log-probabilities of these tokens, fp32."""
    nll: Float[Tensor, " place"]


class BaseLogits:
    """Distributions of a base as they lie in a folder; read as they are needed."""

    def __init__(self, folder: Path):
        """Open a folder that `KeepLogits` has filled."""
        self.folder = folder
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.vocabulary: int = about["vocabulary"]
        self.dtype: torch.dtype = getattr(torch, about["dtype"])
        self._arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in FILES}

    @property
    def is_whole(self) -> bool:
        """Whether every token of the vocabulary is kept at every place."""
        return self.k == self.vocabulary

    @property
    def k(self) -> int:
        """Tokens kept of each place."""
        return self._arrays["tokens"].shape[1]

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def part(self, start: int, end: int, device: torch.device) -> Kept:
        """Places from `start` to before `end`."""
        read = {name: self._read(name, start, end).to(device) for name in ("logits", "tokens", "log_partition", "nll")}
        log_probs = read["logits"].float() - read["log_partition"][:, None]
        return Kept(read["tokens"].long(), log_probs, read["nll"])

    def _read(self, name: str, start: int, end: int) -> Tensor:
        values = torch.from_numpy(self._arrays[name][start:end])
        return values.view(self.dtype) if name in ("logits", "whole") else values

    @cached_property
    def nll(self) -> np.ndarray:
        """Negative log-likelihood of the text's own token at every place."""
        return np.asarray(self._arrays["nll"])

    @cached_property
    def checked(self) -> np.ndarray:
        """Places whose whole distribution is kept, rising; none where all are whole."""
        return np.asarray(self._arrays["checked"])

    def whole(self, first: int, last: int, device: torch.device) -> Float[Tensor, "check vocabulary"]:
        """All logits of checked places, by their place in `checked`."""
        return self._read("whole", first, last).to(device)


class KeepLogits:
    """Reader that fills a folder for BaseLogits while a base is scored."""

    def __init__(self, folder: Path, places: int, k: int):
        """`places`: that will be read; `k`: tokens kept of each, at most the vocabulary."""
        self.folder, self.places, self.k = folder, places, k
        self.seconds, self._at = 0.0, 0
        self._arrays: dict[str, np.ndarray] = {}

    def _begin(self, logits: Tensor) -> None:
        vocabulary = logits.shape[1]
        k, dtype = min(self.k, vocabulary), _bits(logits).numpy().dtype
        count = min(CHECKED_PLACES, self.places) if k < vocabulary else 0
        shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
            "logits": (dtype, (self.places, k)),
            "tokens": (np.uint16 if vocabulary <= 2**16 else np.int32, (self.places, k)),
            "log_partition": (np.float32, (self.places,)),
            "nll": (np.float32, (self.places,)),
            "checked": (np.int64, (count,)),
            "whole": (dtype, (count, vocabulary)),
        }
        for name, (kind, shape) in shapes.items():
            path = self.folder / f"{name}.npy"
            if 0 in shape:  # a mapped file cannot be empty
                np.save(path, np.zeros(shape, kind), allow_pickle=False)
                self._arrays[name] = np.zeros(shape, kind)
            else:
                self._arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
        self._arrays["checked"][:] = np.linspace(0, self.places - 1, count).round()
        about = {"vocabulary": vocabulary, "dtype": str(logits.dtype).removeprefix("torch.")}
        (self.folder / "about.json").write_text(json.dumps(about), encoding="utf-8")

    def read(
        self, logits: Float[Tensor, "place vocabulary"], targets: Int[Tensor, " place"], nll: Float[Tensor, " place"]
    ) -> None:
        """Keep the next places."""
        started = time.perf_counter()
        if not self._arrays:
            self._begin(logits[:1].cpu())
        own, at = self._arrays, slice(self._at, self._at + len(logits))
        values, tokens = logits.topk(own["logits"].shape[1], dim=1)
        own["logits"][at] = _bits(values.cpu()).numpy()
        own["tokens"][at] = tokens.cpu().numpy().astype(own["tokens"].dtype)
        own["log_partition"][at] = log_partition(logits, targets, nll).cpu().numpy()
        own["nll"][at] = nll.cpu().numpy()
        first, last = np.searchsorted(own["checked"], (at.start, at.stop)).tolist()
        own["whole"][first:last] = _bits(logits[own["checked"][first:last] - at.start].cpu()).numpy()
        self._at = at.stop
        self.seconds += time.perf_counter() - started


def log_partition(
    logits: Float[Tensor, "place vocabulary"], targets: Int[Tensor, " place"], nll: Float[Tensor, " place"]
) -> Float[Tensor, " place"]:
    """Log of the sum of exp over all logits, from what the loss has computed already."""
    return nll + logits.gather(1, targets[:, None])[:, 0].float()


def _bits(values: Tensor) -> Tensor:
    """Values as numpy has them; bfloat16, which it has not, as its bits."""
    return values.view(torch.int16) if values.dtype == torch.bfloat16 else values
