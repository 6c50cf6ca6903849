"""Learn parameters of one block by gradient descent, so that the changed block reproduces the outputs of the dense one.

One block is in memory, and no labels are needed. A user of this file brings four things:

    block_inputs(...)   the calibration sequences as they enter the block, from the walk's own activations
    targets             outputs that the changed block is to reproduce: those of the dense block
    parameters          tensors to train, by name, and where they start
    changed             a function from parameters to the block's weights by name, differentiable

AutoRound trains rounding offsets and clip factors, and `changed` rounds with them. Regional optimization of Wanda++
would train the weights themselves, with a `changed` that masks them. Block-AP of EfficientQAT would train weights,
scales and zero-points, and `changed` is their fake quantization.

    drawn sequences -> block with changed(parameters) -> squared error from targets, padding left out
                                 ^---------- gradient step ----------'
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Adam, Optimizer

from slimsweep.blockwise.activations import Activations, Part
from slimsweep.blockwise.block_calls import Call, hidden_of
from slimsweep.models.language_model import LanguageModel
from slimsweep.numerics.finite import all_finite, non_finite_error
from slimsweep.progress import tracked

Tensors = dict[str, Tensor]
LEAST_SHARE = 1e-3
"""Least mean square that errors of a token are divided by, as a share of the median over tokens."""
FP16_LOSS_SCALE = 2.0**20
"""Factor of the loss in fp16: gradients of a mean over a million outputs are below the least fp16 number."""


@dataclass(frozen=True)
class BlockInputs:
    """All calibration sequences as they enter one block, with the block's other arguments."""

    hidden: Float[Tensor, "sequence token width"]
    parts: list[Part]
    """Consecutive sequences that were recorded together; all have as many as the first, but for the last."""
    place: int
    """Place of the block in its stack."""

    def __len__(self) -> int:
        return len(self.hidden)

    def some(self, chosen: Int[Tensor, " chosen"]) -> Iterator[tuple[Part, Int[Tensor, " run"]]]:
        """Some sequences as parts that run at once, each with the indices of its sequences."""
        size, chosen = len(self.parts[0].hidden), chosen.sort().values
        if self._is_uniform:
            yield from ((self._part(self.parts[0], run, run), run) for run in chosen.split(size))
            return
        for index, part in enumerate(self.parts):
            run = chosen[chosen // size == index]
            if len(run):
                yield self._part(part, run, run - index * size), run

    def rows(self) -> Float[Tensor, "token width"]:
        """The tokens of all sequences, without padding."""
        masks = [part.tokens for part in self.parts]
        rows = self.hidden.flatten(0, 1)
        return rows if masks[0] is None else rows[torch.cat(masks)]

    @property
    def _is_uniform(self) -> bool:
        """Whether one call serves any sequences, whichever part they lie in."""
        first = self.parts[0]
        return first.repeats > 1 and all(part.calls is first.calls and not part.tail for part in self.parts)

    def _part(self, part: Part, chosen: Int[Tensor, " run"], within: Int[Tensor, " run"]) -> Part:
        """A part of chosen sequences, which lie at `within` in the one they come from."""
        count, call = len(part.hidden), part.calls[self.place]
        if part.repeats == 1:  # recorded from this part: arguments have its sequences
            args, kwargs = _select(call.args, within, count), _select(call.kwargs, within, count)
            call = Call(args, kwargs, call.handed)
        tokens = None if part.tokens is None else part.tokens.view(count, -1)[within.to(part.tokens.device)].flatten()
        return replace(
            part,
            hidden=self.hidden[chosen.to(self.hidden.device)],
            calls=[call],
            repeats=1 if part.repeats == 1 else len(chosen),
            tokens=tokens,
            tail=_select(part.tail, within, count),
        )


def block_inputs(model: LanguageModel, activations: Activations, index: int, is_copied: bool = False) -> BlockInputs:
    """Inputs of a block as they are now.

    Args:
        is_copied: whether the hidden states are copied, so that the activations may go on to the next block.
    """
    parts = [replace(part) for part, _ in activations.runs(index)]
    hidden = activations.hidden.clone() if is_copied else activations.hidden
    return BlockInputs(hidden, parts, index - next(blocks.start for blocks in model.stack_ranges if index in blocks))


def _select(value: Any, chosen: Int[Tensor, " chosen"], count: int) -> Any:
    """Some sequences of an argument of a block.

    Only tensors with `count` sequences are cut; any other argument, such as a flag, is the same for all sequences.
    Tensors of one dimension count tokens. A table of ALiBi has its heads beside the sequences.
    """
    if isinstance(value, dict):
        return {
            name: _alibi(part, chosen, count) if name == "alibi" else _select(part, chosen, count)
            for name, part in value.items()
        }
    if isinstance(value, tuple | list):
        return type(value)(_select(part, chosen, count) for part in value)
    is_batch = isinstance(value, Tensor) and value.dim() > 1 and len(value) == count
    return value[chosen.to(value.device)] if is_batch else value


def _alibi(table: Tensor | None, chosen: Int[Tensor, " chosen"], count: int) -> Tensor | None:
    """Some sequences of a table [sequence x head ...]."""
    if table is None or len(table) % count:
        return table
    return table.unflatten(0, (count, -1))[chosen.to(table.device)].flatten(0, 1)


@dataclass(frozen=True)
class Reconstruction:
    """A block, its inputs, and the outputs that it is to reproduce."""

    name: str
    """Full name of the block."""
    block: nn.Module
    inputs: BlockInputs
    targets: Float[Tensor, "sequence token width"]
    """Outputs of the dense block. Those of padding do not count."""
    token_weights: Float[Tensor, "sequence token"] | None = None
    """Factor of each token's squared error; None counts all alike."""

    def loss(self, weights: Tensors, chosen: Int[Tensor, " chosen"]) -> float:
        """Mean squared error of the outputs for some sequences, over their tokens and channels, by these weights.

        Each token's error is multiplied by its weight in `token_weights`.
        """
        with torch.no_grad():
            errors = list(self._errors(weights, chosen))
        return sum(float(total) for total, _ in errors) / sum(count for _, count in errors)

    def gradients(self, weights: Tensors, chosen: Int[Tensor, " chosen"], scale: float = 1.0) -> tuple[float, Tensors]:
        """The same loss, and `scale` times its gradient for each of the weights.

        The forward of one part is alive at a time.
        """
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        total, count = 0.0, self._numbers(chosen)
        with torch.enable_grad():
            for error, _ in self._errors(leaves, chosen):
                (error * (scale / count)).backward()
                total += float(error.detach())
        slopes = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
        return total / count, slopes

    def _numbers(self, chosen: Int[Tensor, " chosen"]) -> int:
        """Output numbers of some sequences that count."""
        tokens = sum(
            part.hidden.shape[:2].numel() if part.tokens is None else int(part.tokens.sum())
            for part, _ in self.inputs.some(chosen)
        )
        return tokens * self.targets.shape[-1]

    def _errors(self, weights: Tensors, chosen: Int[Tensor, " chosen"]) -> Iterator[tuple[Float[Tensor, ""], int]]:
        """Sum of squared errors of each part, and the numbers in it."""

        def changed(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.block, weights, args, kwargs)

        for part, run in self.inputs.some(chosen):
            output = hidden_of(part.run(changed, 0)).flatten(0, 1)
            target = self.targets[run.to(self.targets.device)].flatten(0, 1)
            if part.tokens is not None:
                output, target = output[part.tokens], target[part.tokens]
            errors = (output.float() - target.float()).square().mean(dim=-1)
            if self.token_weights is not None:
                weights_of_run = self.token_weights[run.to(self.targets.device)].flatten()
                errors = errors * (weights_of_run if part.tokens is None else weights_of_run[part.tokens])
            yield errors.sum() * output.shape[-1], output.numel()


def inverse_squares(targets: Float[Tensor, "sequence token width"]) -> Float[Tensor, "sequence token"]:
    """Weights that make the error of each token relative to the mean square of its target.

    The first tokens of many models have a few channels a thousand times as large as all others. Without weights their
    error is nearly all of the loss, and the rest of the text teaches nothing. The next block divides each token by its
    root mean square, so that relative errors are those it sees.
    """
    squares = targets.float().square().mean(dim=-1)
    if not bool(squares.any()):
        return torch.ones_like(squares)
    return 1 / squares.clamp(min=LEAST_SHARE * float(squares[squares > 0].median()))


class SignDescent(Optimizer):
    """Step against the sign of each gradient: w <- w - rate sign(g). Source: arXiv:2309.05516, eq. 6."""

    def __init__(self, parameters: Any, lr: float):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad.sign(), alpha=group["lr"])


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Settings of a training. The rate falls linearly to 0."""

    steps: int
    """0 trains nothing."""
    batch_sequences: int
    """Sequences drawn for a step, without repetition; where there are not so many, all of them."""
    optimizer: Callable[[list[Tensor]], Optimizer]
    """Makes the rule, such as sign descent or Adam, with the rate of the first step."""

    @classmethod
    def by_sign(cls, steps: int, batch_sequences: int, rate: float) -> "Descent":
        """Signed gradient descent."""
        rule = functools.partial(SignDescent, lr=rate)
        return cls(steps=steps, batch_sequences=batch_sequences, optimizer=rule)

    @classmethod
    def by_adam(cls, steps: int, batch_sequences: int, rate: float) -> "Descent":
        """Adam."""
        rule = functools.partial(Adam, lr=rate)
        return cls(steps=steps, batch_sequences=batch_sequences, optimizer=rule)


@dataclass(frozen=True)
class Trained:
    """Outcome of a training."""

    parameters: Tensors
    loss_before: float
    """Loss over all sequences of the parameters as they started."""
    loss_after: float
    """The same of those that were kept; never higher."""
    kept_step: int
    """Steps after which the parameters were kept."""
    failed_step: int | None = None
    """Step at which a loss or gradient was not finite, which ended the training; None where none was."""

    def notes(self) -> dict[str, Any]:
        """Notes for a report."""
        notes = {"before": self.loss_before, "after": self.loss_after, "kept_step": self.kept_step}
        return notes if self.failed_step is None else notes | {"failed_step": self.failed_step}


def train(
    task: Reconstruction,
    parameters: Tensors,
    changed: Callable[[Tensors], Tensors],
    descent: Descent,
    generator: torch.Generator,
    project: Callable[[Tensors], None] = lambda _: None,
) -> Trained:
    """Train parameters, and keep those of the lowest loss.

    As in the paper, the loss of the drawn sequences picks the best step, since a loss over all sequences at each step
    would take longer than the training. At the end the start, this step and the last step are compared by their loss
    over all sequences. So the result is never worse than the start.

    Args:
        changed: weights of the block by name, such as `mlp.up_proj.weight`, in its dtype.
        generator: draws the sequences of each step.
        project: puts parameters back into their bounds, in place, after each step.

    Raises:
        ModelError: the loss of the start is not finite.
    Source: arXiv:2309.05516, alg. 1.
    """
    everything = torch.arange(len(task.inputs))

    def loss(values: Tensors) -> float:
        with torch.no_grad():
            return task.loss(changed(values), everything)

    before = loss(parameters)
    if not torch.isfinite(torch.tensor(before)):
        raise non_finite_error(f"The block loss of {task.name} is not finite before the first step", "compress less")
    trained, best, last, failed = _descend(task, parameters, changed, descent, generator, project)
    candidates = [(before, 0, parameters)]
    candidates += [(loss(values), step, values) for step, values in {last: trained, **best}.items() if step]
    no_worse = [candidate for candidate in candidates if candidate[0] <= before]  # NaN is not
    after, step, values = min(no_worse, key=lambda candidate: candidate[0])
    return Trained(values, before, after, step, failed)


def _descend(
    task: Reconstruction,
    parameters: Tensors,
    changed: Callable[[Tensors], Tensors],
    descent: Descent,
    generator: torch.Generator,
    project: Callable[[Tensors], None],
) -> tuple[Tensors, dict[int, Tensors], int, int | None]:
    """Parameters after the last step, the best ones before by their step, the last step, and the one that failed."""
    values = {name: tensor.detach().clone().requires_grad_() for name, tensor in parameters.items()}
    optimizer = descent.optimizer(list(values.values()))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(1, descent.steps))
    lowest, best = float("inf"), {}
    for _, step in tracked(range(descent.steps), f"{task.name}: step"):
        chosen = torch.randperm(len(task.inputs), generator=generator)[: descent.batch_sequences]
        with torch.enable_grad():
            weights = changed(values)
        scale = FP16_LOSS_SCALE if any(weight.dtype == torch.float16 for weight in weights.values()) else 1.0
        loss, slopes = task.gradients(weights, chosen, scale)
        if not torch.isfinite(torch.tensor(loss)) or not all(map(all_finite, slopes.values())):
            return _detached(values), best, step, step
        if loss < lowest:
            lowest, best = loss, {step: _detached(values)}
        torch.autograd.backward(list(weights.values()), [slopes[name] for name in weights])
        for value in values.values():
            value.grad = value.grad if scale == 1 or value.grad is None else value.grad / scale
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        with torch.no_grad():
            project(values)
    return _detached(values), best, descent.steps, None


def _detached(values: Tensors) -> Tensors:
    return {name: value.detach().clone() for name, value in values.items()}
