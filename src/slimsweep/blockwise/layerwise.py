"""Compress the linear layers of a model block by block: collect what a technique asks of the inputs, compress."""

import contextlib
import functools
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimsweep.blockwise.activations import InputSum
from slimsweep.blockwise.layer_method import LayerMethod, Pruned, looks_at_inputs
from slimsweep.blockwise.shared_inputs import Prepared, Shared
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.blockwise.walk import Visit, Walk
from slimsweep.errors import LayerError, ModelError, SlimsweepError
from slimsweep.linear.base import (
    LinearForm,
    has_single_weights,
    install,
    is_plain,
    layer_shape,
    relative_error,
    weight_2d,
    weight_count,
    zero_count,
)
from slimsweep.linear.mask import removed, set_removed
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.numerics.parallel import parallel_map

WIDE_NUMBERS = 2048**2
"""Numbers of a statistic whose factor keeps all cores busy by itself; smaller ones are prepared side by side."""


@dataclass(frozen=True)
class LayerReport:
    """Counts, error and notes of one layer after a stage."""

    name: str
    weights: int
    zeros: int
    error: float | None = None
    """Relative error (Frobenius) of what a packed or factored layer stores, from the weight it was to store."""
    notes: dict[str, Any] = field(default_factory=dict)
    change: float | None = field(default=None, compare=False)
    """Relative distance (Frobenius) of a pruned dense weight from the weight before this stage; None after several
    passes, each of which sees the one before. Two reports are equal without it, since a plan has none."""


def compress_blocks(
    model: LanguageModel,
    method: LayerMethod,
    targets: dict[str, nn.Module],
    context: StageContext,
) -> list[LayerReport]:
    """Compress the targeted layers in place, block by block, in forward order.

    A method that looks at no inputs walks without any forward.

    Raises:
        ModelError: inputs of a layer that are not finite, or that no calibration token reached.
        HessianError: a Hessian that no damping makes factorable; both name the layers.
    """
    blocks = targets_by_block(model, targets)
    stop = max((index for index, layers in enumerate(blocks) if layers), default=-1) + 1
    with _shared(context, method, targets) as shared:
        looks = looks_at_inputs(method) and not shared.is_known

        def treat(visit: Visit) -> list[LayerReport]:
            layers = blocks[visit.index]
            if looks and method.inputs == "sequential" and layers:
                return _in_turn(model, method, visit, layers, context)
            if looks:
                every = shared.sum(visit.index, functools.partial(_timed, visit.collect, layers))
            elif shared.is_known:
                every = shared.read(visit.index, model.compute_device)
            else:
                every = [Prepared(method, InputSum(list(layers), None))]
            reports = _compress(model, method, layers, every, context)
            shared.keep(visit.index, every)
            return reports

        walk = Walk(
            title=type(method).__name__,
            batch=context.batches if looks else None,
            propagation=method.inputs if looks else "compressed",
            stop=stop,
        )
        return walk.run(model, treat)


def _timed(
    collect: Callable[..., list[InputSum]],
    layers: dict[str, nn.Module],
    statistic: Callable[[Tensor], Any],
    merge: Callable[[Any, Any], Any],
) -> tuple[list[InputSum], float]:
    """A block's sums, and the seconds they took."""
    started = time.perf_counter()
    return collect(layers, statistic, merge), time.perf_counter() - started


def _in_turn(
    model: LanguageModel,
    method: LayerMethod,
    visit: Visit,
    layers: dict[str, nn.Module],
    context: StageContext,
) -> list[LayerReport]:
    """Compress a block's layers in forward order, each on outputs of all that were compressed before it."""
    reports: dict[str, LayerReport] = {}
    for shared in visit.collect_in_turn(layers, method.statistic, model.module.get_submodule):
        group = {name: layers[name] for name in shared.layers}
        every = [Prepared(method, shared)]
        reports |= {report.name: report for report in _compress(model, method, group, every, context)}
    return [reports[name] for name in layers]


def _shared(
    context: StageContext, method: LayerMethod, targets: dict[str, nn.Module]
) -> AbstractContextManager[Shared]:
    """Open the cache of calibration statistics for this method, to read and to write; see StatisticsCache.of.

    Of compressed inputs jobs would share those of the first block alone, one of thirty in SmolLM2: not worth keeping.
    """
    is_shared = looks_at_inputs(method) and method.statistic_name and method.inputs == "dense"
    if context.statistics is None or not is_shared:
        return contextlib.nullcontext(Shared(method))
    return context.statistics.of(method, {name: layer_shape(layer)[1] for name, layer in targets.items()})


def targets_by_block(model: LanguageModel, targets: dict[str, nn.Module]) -> list[dict[str, nn.Module]]:
    """The targeted layers of each block by full name."""
    return [
        {name: targets[name] for part in model.linears(block) if (name := f"{prefix}.{part}") in targets}
        for prefix, block in zip(model.block_names, model.blocks, strict=True)
    ]


def replace_weight(
    model: LanguageModel,
    name: str,
    result: Tensor | LinearForm | Pruned,
    notes: dict[str, Any] | None = None,
    wanted: Float[Tensor, "out in"] | None = None,
) -> LayerReport:
    """Give a layer a new weight, in place where it is plain; a form takes the place of the layer.

    A dense weight for a layer that is packed is packed again, on the levels it has. The error of what a form stores is
    from `wanted`, or from the weight the layer had. The layer's mask becomes that of `result`. Without one it stays,
    but for removed weights that are no zeros any more. A form without single weights has no mask.
    """
    layer = model.module.get_submodule(name)
    is_pruned = isinstance(result, Pruned)
    mask = ~result.keep if is_pruned else removed(layer)
    result = result.weight if is_pruned else result
    form, error = result if isinstance(result, LinearForm) else None, None
    if form is not None:
        wanted = weight_2d(layer).float() if wanted is None else wanted
    elif not has_single_weights(layer):
        raise ModelError(
            f"{name} is stored as {layer.kind}, which has no single weights to change: exclude it, or put this stage "
            "first"
        )
    elif not is_plain(layer):
        form, wanted = layer.requantize(result), result
    change = None
    if form is None:
        weight = weight_2d(layer)
        change = relative_error(result.to(weight.device), weight.float()) if is_pruned else None
        weight.copy_(result)
    else:
        install(model.module, name, form)
        layer, weight = form, form.weight
        error = relative_error(weight, wanted)
    if not has_single_weights(layer):
        return LayerReport(name, weight_count(layer), zero_count(layer), error, notes or {})
    if mask is not None and (form is not None or not is_pruned):  # rounding or a repair may leave no zero there
        mask = mask & (weight == 0)
    set_removed(layer, mask)
    zeros = weight.numel() - int(torch.count_nonzero(weight))
    return LayerReport(name, weight.numel(), zeros, error, notes or {}, change)


def install_empty(skeleton: Skeleton, name: str, form: type[LinearForm], settings: dict[str, Any]) -> None:
    """Plan a form: an empty layer takes the place of another. Zeros planned there stay where it has single weights."""
    shape = layer_shape(skeleton.module.get_submodule(name))
    install(skeleton.module, name, form.empty(shape, settings))
    if not form.has_single_weights:
        skeleton.zeros.pop(name, None)


def _compress(
    model: LanguageModel,
    method: LayerMethod,
    layers: dict[str, nn.Module],
    every: list[Prepared],
    context: StageContext,
) -> list[LayerReport]:
    """Compress layers in place, side by side: those that have most to prepare first, then the largest.

    Those that share an input share what is prepared of it. Their rows are not stacked into one solve: each layer has
    its own mask, and on a CPU layers side by side keep all cores busy.
    """
    if not layers:
        return []
    device = next(next(iter(layers.values())).parameters()).device
    for prepared in every:
        if len(every) == 1 or prepared.numbers >= WIDE_NUMBERS:
            prepared()

    def solve(job: tuple[str, Prepared]) -> LayerReport:
        name, prepared = job
        common = prepared()
        layer, generator = layers[name], context.generator(name)
        try:
            result = method.compress_layer(weight_2d(layer).float(), common, generator, removed(layer))
            return replace_weight(model, name, result, method.notes(common))
        except SlimsweepError:  # names its layers itself
            raise
        except Exception as error:
            raise LayerError(f"{name}: {type(error).__name__}: {error}") from error

    reports = {report.name: report for report in parallel_map(solve, _by_size(every, layers), device)}
    return [reports[name] for name in layers]


def _by_size(every: list[Prepared], layers: dict[str, nn.Module]) -> list[tuple[str, Prepared]]:
    """Layers with what they share, one of each input first: nobody waits for what another layer prepares."""
    sizes = {name: math.prod(layer_shape(layer)) for name, layer in layers.items()}
    firsts, others = [], []
    for prepared in sorted(every, key=lambda prepared: -prepared.numbers):
        first, *rest = sorted(prepared.layers, key=lambda name: -sizes[name])
        firsts.append((first, prepared))
        others += [(name, prepared) for name in rest]
    firsts.sort(key=lambda job: (-job[1].numbers, -sizes[job[0]]))
    return firsts + sorted(others, key=lambda job: -sizes[job[0]])
