"""What structured techniques take out, noted while they do, and the same model with those units at zero instead."""

import torch

from slimsweep.models.anatomy import units_of
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.surgery import mask, remove, remove_blocks

Gone = dict[tuple[int, str], list[int]]
"""Units by block and kind."""


def noted(monkeypatch) -> Gone:
    """Every removal within blocks from now on; of several in one place the last."""
    gone: Gone = {}

    def noting(model, units, chosen):
        index = next(i for i, name in enumerate(model.block_names) if units.reader.name.startswith(f"{name}."))
        gone[index, units.kind] = sorted(int(unit) for unit in chosen)
        remove(model, units, chosen)

    monkeypatch.setattr("slimsweep.blockwise.removal_walk.remove", noting)
    return gone


def masked(dense: LanguageModel, gone: Gone) -> LanguageModel:
    """A copy in which the units that went are zeros."""
    model = dense.copy()
    for (index, kind), chosen in gone.items():
        mask(units_of(model, kind, index), chosen)
    return model


@torch.no_grad()
def logits(model: LanguageModel, token_ids: torch.Tensor) -> torch.Tensor:
    return model.module(input_ids=token_ids).logits


def agree(one: LanguageModel, other: LanguageModel, token_ids: torch.Tensor) -> bool:
    """Whether two models give the same logits but for rounding."""
    found, expected = logits(one, token_ids), logits(other, token_ids)
    return torch.allclose(found, expected, atol=2e-5 * float(expected.abs().max()), rtol=0)


def ids(sequences: int = 3, tokens: int = 12) -> torch.Tensor:
    return torch.randint(1, 250, (sequences, tokens), generator=torch.Generator().manual_seed(0))


def first_blocks(source, count: int = 3) -> LanguageModel:
    """The first blocks of a trained model in fp32: its shapes and values at a fraction of its time."""
    model = source.load(torch.float32, torch.device("cpu"))
    remove_blocks(model, range(count, len(model.blocks)))
    return model


def text_ids(model: LanguageModel, sequences: int, tokens: int) -> torch.Tensor:
    """Windows of English that is always at hand, the licence."""
    from conftest import PROJECT

    token_ids = model.tokenizer((PROJECT / "LICENSE").read_text())["input_ids"]
    return torch.tensor(token_ids[: sequences * tokens]).view(sequences, tokens)
