"""Remove heads and neurons while low-rank adapters are trained, by the gradients of the adapters alone."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimsweep.blockwise.gradients import gradients, loss
from slimsweep.blockwise.removal_walk import lowest_units
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import number_faults, whole_number_faults
from slimsweep.linear.adapter import AdapterLinear
from slimsweep.models import anatomy
from slimsweep.models.anatomy import OUT, Units, units_of
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel, parameter_count
from slimsweep.models.skeleton import Skeleton
from slimsweep.models.surgery import remove
from slimsweep.techniques.base import StageReport
from slimsweep.techniques.layerwise import planned_layers, report_of
from slimsweep.techniques.structured.llm_pruner import LLMPruner
from slimsweep.techniques.training.base import Pair, Training
from slimsweep.techniques.training.loop import TrainingReport, train
from slimsweep.techniques.training.objective import Objective, TaskLoss

Place = tuple[int, str]
"""Index of a block, and a kind of its units."""
LEAST_EVALUATIONS = 2
"""Evaluations of a phase at least; with one alone, at its end, no rise of the loss could end it early."""


@dataclass(frozen=True, kw_only=True)
class LoRAPrune(Training):
    """Train adapters in phases; after each but the last, remove the units of lowest importance.

    The weight of a layer is W + B A. The importance of a weight is the square of its value times its estimated
    gradient: ((dB A + B dA - dB dA) (W + B A))^2. dA and dB are the gradients of the factors. The importance of a unit
    is the sum over its rows and columns, as a moving average over batches. No gradient of a full weight is ever held.

    The units are those of llm_pruner at level `block`, and as many are removed in the end. After removal t of n, a
    share of 1 - (1 - t / n)^3 of these is gone. The same pair of factors is trained throughout, cut where its layer is
    cut, and added to the weights at the end.

    Each phase is a training of its own. `evaluations` are divided among the phases, at least 2 each, and `patience`
    counts those of one phase. So a phase ends early only if `patience` is less than its evaluations.

    Source: arXiv:2305.18403, sec. 3. Departures: the paper masks units at each of many steps. Here they are cut
        out between phases of the training loop, which is the same function of the inputs. The importance is measured
        between phases too, on batches of the training data. Optimizer and learning rate begin anew in each phase. The
        scale of the product is one factor of all scores and is left out of the gradient.
    """

    version: ClassVar[int] = 3
    needs_rank: ClassVar[bool] = True

    ratio: float | int
    """Fraction of the heads and neurons to remove from each block, [0, 1)."""
    blocks: Sequence[int] | None = None
    """First and last block of each stack to remove from; null is the range of llm_pruner."""
    rank: int | None = 8
    removals: int = 4
    """Number of removals; training has one phase more, each with an equal part of the budget."""
    score_batches: int = 8
    """Batches that the importance is averaged over before each removal."""
    decay_factor: float = 0.9
    """Weight of the average so far against the importance on the next batch, [0, 1)."""

    def __post_init__(self) -> None:
        if isinstance(self.blocks, list):
            object.__setattr__(self, "blocks", tuple(self.blocks))
        super().__post_init__()
        object.__setattr__(self, "ratio", self.removal.ratio)  # whose knobs are checked as it is made

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values()
        if self.merge is False:
            faults.append("merge=false: pairs are cut with their layers and added to them at the end: set merge=true")
        for name in ("removals", "score_batches"):
            faults += whole_number_faults(name, getattr(self, name))
        return faults + number_faults("decay_factor", self.decay_factor, "[0, 1)")

    @property
    def removal(self) -> LLMPruner:
        """The technique that says which units there are and how many go."""
        return LLMPruner(ratio=self.ratio, blocks=self.blocks, importance="l1")

    def objective(self, model: LanguageModel, context: StageContext) -> Objective:
        return TaskLoss()

    def faults(self, skeleton: LanguageModel) -> list[str]:
        faults = super().faults(skeleton) or self.removal.faults(skeleton)
        if faults:
            return faults
        adapted = self.targets(skeleton)
        return [
            f"no layer of the {kind} of block {index} has an adapter, so that nothing tells their importance: take the "
            "layers of its attention and MLP into include=[...], or set blocks=[FIRST,LAST]"
            for (index, kind), units in self._places(skeleton).items()
            if not any(slot.name in adapted for slot in units.slots)
        ]

    def plan(self, skeleton: Skeleton) -> StageReport:
        """Remove as many units, the last ones."""
        notes = self.removal.plan(skeleton).notes
        return StageReport(planned_layers(skeleton, self.targets(skeleton)), notes)

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        """Train and remove in turn, then merge."""
        before, shape, started = parameter_count(model.module), anatomy.shape_of(model), time.monotonic()
        places = self._places(model)
        totals = {place: self.removal.removed_count(units) for place, units in places.items()}
        sizes = {place: len(units) for place, units in places.items()}
        pairs, phases = None, []
        for phase in range(self.removals + 1):
            schedule, within = self._phase(started), _phase_context(context, phase)
            with self._adapted(model, context, pairs) as adapters:
                factors = [factor for form in adapters.values() for factor in (form.down, form.up)]
                phases.append(train(model, factors, self.objective(model, within), schedule, within))
                scores = self._scores(model, adapters, within) if phase < self.removals else {}
            pairs = {name: (form.down.data, form.up.data) for name, form in adapters.items()}
            for place, values in scores.items():
                removed = lowest_units(values, share(totals[place], phase + 1, self.removals))
                units = units_of(model, place[1], place[0])
                cut(pairs, units, removed)
                remove(model, units, removed)
        layers = self.targets(model)
        report = report_of([self._merged(model, name, layers[name], form) for name, form in adapters.items()])
        report.notes.update(
            removed_parameters=before - parameter_count(model.module),
            before=shape.as_plain(),
            after=anatomy.shape_of(model).as_plain(),
            details=[
                {"block": index, "kind": kind, "before": sizes[index, kind], "removed": count}
                for (index, kind), count in totals.items()
            ],
            training=joined(phases).plain(),
        )
        return report

    def _places(self, model: LanguageModel) -> dict[Place, Units]:
        """The units of each block and kind that some are to go from."""
        kinds = self.removal.kinds_by_block(model)
        return {(index, kind): units_of(model, kind, index) for index, present in kinds.items() for kind in present}

    def _phase(self, started: float) -> "LoRAPrune":
        """The settings of one phase, as the training loop reads them."""
        parts, minutes = self.removals + 1, self.max_minutes
        if minutes is not None:
            minutes = max(1e-6, minutes - (time.monotonic() - started) / 60)
        return dataclasses.replace(
            self,
            tokens=None if self.tokens is None else max(1, self.tokens // parts),
            epochs=None if self.epochs is None else self.epochs / parts,
            evaluations=max(LEAST_EVALUATIONS, self.evaluations // parts),
            max_minutes=minutes,
        )

    def _scores(
        self, model: LanguageModel, adapters: dict[str, AdapterLinear], context: StageContext
    ) -> dict[Place, Float[Tensor, " unit"]]:
        """Importance of all units: the moving average over batches of the training data."""
        places, averages = self._places(model), {}
        factors = [factor for form in adapters.values() for factor in (form.down, form.up)]
        slopes: dict[int, Tensor] = {}

        def take(parameter: nn.Parameter) -> None:
            gradient = parameter.grad.detach().float()
            slopes[id(parameter)] = slopes[id(parameter)] + gradient if id(parameter) in slopes else gradient

        with gradients(factors, take):
            for parts in self._batches(context):
                predictions = [model.task.predictions(part) for part in parts]
                for part, count in zip(parts, predictions, strict=True):
                    (loss(model, part) * (count / sum(predictions))).backward()
                lines = {name: line_scores(form, slopes) for name, form in adapters.items()}
                for place, units in places.items():
                    now, past = unit_scores(units, lines), averages.get(place)
                    averages[place] = now if past is None else torch.lerp(now, past, self.decay_factor)
                slopes.clear()
        return averages

    def _batches(self, context: StageContext) -> Iterator[list[Batch]]:
        """Batches of a step's size drawn from the training data, in the parts that one forward takes."""
        examples = context.data.training
        order = torch.randperm(len(examples), generator=context.generator("importance")).tolist()
        size, part = self.batch_sequences, self.micro_sequences or self.batch_sequences
        for index in range(self.score_batches):
            chosen = [examples[order[(index * size + place) % len(order)]] for place in range(size)]
            yield [context.data.collate(chosen[start : start + part]) for start in range(0, size, part)]


def estimated_gradient(
    down: Float[Tensor, "rank in"],
    up: Float[Tensor, "out rank"],
    down_gradient: Float[Tensor, "rank in"],
    up_gradient: Float[Tensor, "out rank"],
) -> Float[Tensor, "out in"]:
    """Change of B A in a step of plain gradient descent: dB A + B dA - dB dA. Source: arXiv:2305.18403, sec. 3."""
    return up_gradient @ down + up @ down_gradient - up_gradient @ down_gradient


def weight_scores(weight: Float[Tensor, "out in"], gradient: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """Importance of each weight, adapter included: (gradient x weight)^2. Source: arXiv:2305.18403, sec. 3."""
    return (gradient * weight).square()


@torch.no_grad()
def line_scores(form: AdapterLinear, slopes: dict[int, Tensor]) -> dict[str, Float[Tensor, " line"]]:
    """Importance of the outputs and of the inputs of a layer, summed over the weights of each, by `out` and `in`.

    Args:
        slopes: gradients of the factors by the id of the parameter.
    """
    down, up = form.down.float(), form.up.float()
    gradient = estimated_gradient(down, up, slopes[id(form.down)], slopes[id(form.up)])
    scores = weight_scores(form.base.weight.float() + form.product.float(), gradient)
    return {anatomy.OUT: scores.sum(dim=1).cpu(), anatomy.IN: scores.sum(dim=0).cpu()}


def unit_scores(units: Units, lines: dict[str, dict[str, Float[Tensor, " line"]]]) -> Float[Tensor, " unit"]:
    """Importance of units: the sum over the lines that each owns in layers with an adapter."""
    parts = [lines[slot.name][slot.side][slot.index].sum(dim=1) for slot in units.slots if slot.name in lines]
    return torch.stack(parts).sum(dim=0)


def share(total: int, step: int, steps: int) -> int:
    """Units of `total` that step `step` of `steps` removes, counted from 1.

    After it total x (1 - (1 - step / steps)^3) are removed, rounded down. Source: arXiv:1710.01878, eq. 1.
    """

    def removed_after(step: int) -> int:
        return total * (steps**3 - (steps - step) ** 3) // steps**3

    return removed_after(step) - removed_after(step - 1)


def cut(pairs: dict[str, Pair], units: Units, removed: Sequence[int]) -> None:
    """Take units out of the factors, as they are taken out of the layers: rows of B, columns of A."""
    owned: dict[tuple[str, str], list[Tensor]] = {}
    for slot in units.slots:
        owned.setdefault((slot.name, slot.side), []).append(slot.index[list(removed)].flatten())
    for (name, side), parts in owned.items():
        if name in pairs:
            down, up = pairs[name]
            pairs[name] = (down, without(up, 0, parts)) if side == OUT else (without(down, 1, parts), up)


def without(values: Tensor, axis: int, parts: list[Tensor]) -> Tensor:
    """A matrix without some of its lines along an axis."""
    keep = torch.ones(values.shape[axis], dtype=torch.bool)
    keep[torch.cat(parts)] = False
    return values.index_select(axis, keep.nonzero().flatten().to(values.device))


def joined(phases: Sequence[TrainingReport]) -> TrainingReport:
    """One account of several phases. The best loss and its step are those of the last, whose weights the model has."""
    curve, tokens, steps = [], 0, 0
    for report in phases:
        curve += [entry | {"step": entry["step"] + steps} for entry in report.curve]
        steps += report.steps
        tokens += report.tokens
    last, peaks = phases[-1], [report.peak_memory_bytes for report in phases]
    return dataclasses.replace(
        last,
        steps=steps,
        planned_steps=sum(report.planned_steps for report in phases),
        tokens=tokens,
        seconds=sum(report.seconds for report in phases),
        loss_start=phases[0].loss_start,
        step_best=steps - last.steps + last.step_best,
        trained_parameters=phases[0].trained_parameters,
        peak_memory_bytes=None if None in peaks else max(peaks),
        stopped="; ".join(report.stopped for report in phases if report.stopped) or None,
        curve=curve,
    )


def _phase_context(context: StageContext, phase: int) -> StageContext:
    """The context of one phase: its own order of the data, and its own checkpoints."""
    folder: Any = None if context.work_dir is None else context.work_dir / f"phase-{phase}"
    return dataclasses.replace(context, seed=context.seed + phase, work_dir=folder)
