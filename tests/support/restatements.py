"""The papers' formulas once more, plain and slow: what the optimised code is compared with."""

import math
from decimal import Decimal

import torch
from torch import Tensor


def lowest_first(score: Tensor, removed: Tensor, count: int) -> Tensor:
    """Keep-mask of a flat score: what was removed before drops first, then the lowest, the first of equals first."""
    order = torch.where(removed, -1.0, score).argsort(stable=True)
    keep = torch.ones_like(removed)
    keep[order[: max(count, int(removed.sum()))]] = False
    return keep


def count(ratio: float, size: int) -> int:
    return math.floor(Decimal(str(ratio)) * size)


def magnitude_layer(weight: Tensor, ratio: float) -> Tensor:
    """Han et al. 2015: the smallest absolute values of the layer become zero."""
    flat = weight.flatten()
    keep = lowest_first(flat.abs(), torch.zeros_like(flat, dtype=torch.bool), count(ratio, flat.numel()))
    return torch.where(keep, flat, 0).view_as(weight)


def wanda_layer(weight: Tensor, inputs: Tensor, ratio: float, group: tuple[int, int] | None = None) -> Tensor:
    """arXiv:2306.11695, eq. 1: |W_ij| x ||X_j||_2, compared within each row (or each group of a row)."""
    score = weight.abs() * torch.linalg.vector_norm(inputs.to(weight.dtype), dim=0)
    result = weight.clone()
    for row in range(weight.shape[0]):
        step = group[1] if group else weight.shape[1]
        for start in range(0, weight.shape[1], step):
            part = slice(start, start + step)
            drop = group[1] - group[0] if group else count(ratio, step)
            keep = lowest_first(score[row, part], torch.zeros_like(score[row, part], dtype=torch.bool), drop)
            result[row, part] = torch.where(keep, weight[row, part], 0)
    return result


def inverse_factor(hessian: Tensor, damping_fraction: float, dtype: torch.dtype) -> Tensor:
    """arXiv:2301.00774, sec. 3.3: Cholesky(H^-1)^T of the damped Hessian; a dead input gets a live one's diagonal."""
    hessian = hessian.to(dtype, copy=True)
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    mean = diagonal[~dead].mean()
    diagonal[dead] = mean
    diagonal += damping_fraction * mean
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True)


def sparsegpt_layer(
    weight: Tensor,
    hessian: Tensor,
    ratio: float,
    group: tuple[int, int] | None = None,
    block_columns: int = 128,
    damping_fraction: float = 0.01,
    dtype: torch.dtype = torch.float32,
    follow: Tensor | None = None,
    removed: Tensor | None = None,
) -> tuple[Tensor, float]:
    """arXiv:2301.00774, algorithm 1, one column after the other, in `dtype`.

    With `follow`, a keep-mask somebody else found, the mask is chosen here too but theirs is used, so that one tie
    broken otherwise does not hide everything after it. Returns the weight and how far from a tie the worst
    disagreement was: the distance of its score from the threshold, relative to the threshold. `removed` says which
    weights an earlier stage took: they go first.
    """
    removed = torch.zeros_like(weight, dtype=torch.bool) if removed is None else removed
    weight = weight.to(dtype, copy=True)
    upper, dead_inputs = inverse_factor(hessian, damping_fraction, dtype), hessian.diagonal() == 0
    rows, columns = weight.shape
    keep, gap = torch.ones_like(removed), 0.0
    for start in range(0, columns, block_columns):
        stop = min(start + block_columns, columns)
        errors = torch.zeros(rows, stop - start, dtype=dtype)
        for column in range(start, stop):
            part = slice(start, stop) if group is None else slice(column, column + group[1])
            if column == start or (group and column % group[1] == 0):
                score = weight[:, part] ** 2 / upper.diagonal()[part] ** 2
                score[:, dead_inputs[part]] = 0
                units = score.reshape(1, -1) if group is None else score
                dead = removed[:, part].reshape(units.shape)
                drop = count(ratio, units.numel()) if group is None else group[1] - group[0]
                chosen = torch.stack([lowest_first(*pair, drop) for pair in zip(units, dead, strict=True)])
                if follow is not None:
                    theirs = follow[:, part].reshape(units.shape)
                    gap = max(
                        gap, distance_from_tie(units.masked_fill(dead, -1), chosen, theirs)
                    )  # removed ones drop at any score
                    chosen = theirs
                keep[:, part] = chosen.view_as(score)
            error = torch.where(keep[:, column], 0, weight[:, column]) / upper[column, column]
            weight[:, column:stop] -= error[:, None] * upper[column, column:stop]
            weight[:, column] = torch.where(keep[:, column], weight[:, column], 0)
            errors[:, column - start] = error
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return weight, gap


def distance_from_tie(score: Tensor, ours: Tensor, theirs: Tensor) -> float:
    """Largest relative distance from the threshold among scores two keep-masks disagree on, unit by unit."""
    threshold = score.masked_fill(ours, -1).amax(dim=1, keepdim=True).expand_as(score)
    differ = ours != theirs
    return float(((score - threshold).abs() / threshold)[differ].max()) if bool(differ.any()) else 0.0


def layer_inputs(module: torch.nn.Module, names: list[str], token_ids: Tensor) -> dict[str, Tensor]:
    """What enters the named layers during a plain forward of the whole model, all tokens, [token in]."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    handles = [
        module.get_submodule(name).register_forward_pre_hook(
            lambda _layer, args, name=name: seen[name].append(args[0].flatten(0, -2))
        )
        for name in names
    ]
    with torch.no_grad():
        for ids in token_ids:
            module(input_ids=ids[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def perplexity(module: torch.nn.Module, windows: Tensor) -> float:
    """exp of the mean token NLL over windows, each scored on its own."""
    losses = []
    with torch.no_grad():
        for ids in windows:
            logits = module(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
            losses.append(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none"))
    return math.exp(torch.cat(losses).mean())


def min_max_grid(weight: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """arXiv:2210.17323, sec. 4: scale, as bf16 holds it, and code of 0 for each row, codes 0 to 2^bits - 1."""
    steps = 2**bits - 1
    low, high = weight.amin(dim=1).clamp(max=0), weight.amax(dim=1).clamp(min=0)
    if symmetric:
        scale = (2 * torch.maximum(-low, high) / steps).bfloat16().double()
        return scale, torch.full_like(scale, 2 ** (bits - 1))
    scale = ((high - low) / steps).bfloat16().double()
    return scale, (-low / scale).round().clamp(0, steps)


def gptq_layer(
    weight: Tensor,
    hessian: Tensor,
    bits: int,
    group_size: int | None = None,
    symmetric: bool = False,
    act_order: bool = False,
    static_groups: bool = True,
    removed: Tensor | None = None,
    damping_fraction: float = 0.01,
    follow: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, float]:
    """arXiv:2210.17323, algorithm 1, one column after the other over the whole width, in fp64.

    With `follow`, the (weight, scale, code of 0) somebody else found, grids and levels are found here too but theirs
    are used, so that one tie broken otherwise does not hide everything after it. Returns the weight, and by how many
    steps their worst level was farther than the nearest, or their worst grid was off.
    """
    width = weight.shape[1]
    removed = torch.zeros_like(weight, dtype=torch.bool) if removed is None else removed
    weight, steps, gap = weight.double(), 2**bits - 1, 0.0
    size = group_size or width
    grids = {start: min_max_grid(weight[:, start : start + size], bits, symmetric) for start in range(0, width, size)}
    order = list(range(width))
    if act_order:
        order.sort(key=lambda column: -float(hessian[column, column]))
    weight = weight[:, order]
    upper = inverse_factor(hessian[order][:, order], damping_fraction, torch.float64)
    for position, column in enumerate(order):
        start = column - column % size
        if not static_groups and column == start:
            part = weight[:, start : start + size].masked_fill(removed[:, start : start + size], 0)
            grids[start] = min_max_grid(part, bits, symmetric)
        scale, zero = grids[start]
        if follow is not None:
            theirs = follow[1][:, start // size].double(), follow[2][:, start // size].double()
            off = torch.maximum((scale / theirs[0] - 1).abs() * steps, (zero - theirs[1]).abs())
            gap, (scale, zero) = max(gap, float(off.max())), theirs
        now = weight[:, position].clone()
        level = (((now / scale).round() + zero).clamp(0, steps) - zero) * scale
        level = torch.where(removed[:, column], 0, level)
        if follow is not None:
            theirs = follow[0][:, column].double()
            gap = max(gap, float((((now - theirs).abs() - (now - level).abs()) / scale).max()))
            level = theirs
        error = (now - level) / upper[position, position]
        weight[:, position:] -= error[:, None] * upper[position, position:]
        weight[:, position] = level
    found = torch.empty_like(weight)
    found[:, order] = weight
    return found, gap
