"""Training loop, shared by every technique that trains: fine-tuning, LoRA, distillation, quantization-aware training.

transformers' trainer runs the steps (trainer.py). This file prepares a model for it, and puts the best weights back:

- Trained parameters are held in fp32, all others in their own dtype. A bf16 model computes under bf16 autocast.
- Gradients of weights that a pruning stage removed are set to zero, so that AdamW leaves these weights at zero.
- The validation loss is measured before, during and after training. The model ends with the weights of the lowest one.
- A checkpoint in the work folder holds only trained tensors and their state. A killed stage goes on from the last one.
"""

import contextlib
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.errors import TrainingError
from slimsweep.evaluation.memory import load_memory_bytes, peak, reset_peak
from slimsweep.linear.base import linear_layers
from slimsweep.linear.mask import removed
from slimsweep.linear.orientation import is_transposed
from slimsweep.models.language_model import LanguageModel
from slimsweep.techniques.training.objective import Objective
from slimsweep.techniques.training.schedule import Schedule

log = logging.getLogger(__name__)

LENGTHS_AT_ONCE = 64


@dataclass(frozen=True)
class TrainingReport:
    """Account of a training stage, as its record keeps it."""

    steps: int
    planned_steps: int
    tokens: int
    """Tokens trained on, padding left out."""
    seconds: float
    learning_rate: float
    loss_start: float
    """Validation loss before the first step."""
    loss_end: float
    """Validation loss after the last step."""
    loss_best: float
    """Lowest validation loss; the model has the weights of that step."""
    step_best: int
    trained_parameters: int
    peak_memory_bytes: int | None
    """Weights, gradients, optimizer and activations at their fullest; null where the system has no such counter."""
    predicted_peak_bytes: int | None
    """The same as predicted from shapes before the weights were loaded."""
    stopped: str | None
    """Reason why training ended before its budget."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """Training loss (mean since the entry before) and validation loss, by step."""

    def plain(self) -> dict[str, Any]:
        """Values for a record; losses that are not finite are null."""
        return _finite(vars(self))


class Examples(Dataset):
    """Examples as torch's loaders read them."""

    def __init__(self, examples: Sequence[Any]):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return self.examples[index]


def train(
    model: LanguageModel,
    trained: Sequence[nn.Parameter],
    objective: Objective,
    schedule: Schedule,
    context: StageContext,
) -> TrainingReport:
    """Train some parameters of a model in place; the model ends with the weights of the lowest validation loss.

    Weights that a pruning stage removed stay zero, unless the schedule has `preserve_sparsity=False`. Parameters in 16
    bits are trained in fp32 and given back in their dtype. A killed run goes on from the last checkpoint in
    `context.work_dir`.

    Raises:
        TrainingError: too little data, a work folder of another run, or no disk for a checkpoint.
        TrainingPaused: the limit of minutes was reached.
    """
    title = type(schedule).__name__
    steps = schedule.steps(_lengths(context))
    if len(context.data.training) < schedule.batch_sequences:
        raise TrainingError(
            f"{context.data.origin} has {len(context.data.training)} training examples, fewer than "
            f"batch_sequences={schedule.batch_sequences} of one step: set batch_sequences={len(context.data.training)} "
            "or give more data"
        )
    keeps_zeros = getattr(schedule, "preserve_sparsity", True)
    settings = {"steps": steps, "parameters": [list(one.shape) for one in trained]}
    is_bf16 = model.dtype == torch.bfloat16  # before trained parameters become fp32
    autocast = _autocast(model, is_bf16)
    with _work_folder(context, settings) as folder, _trainable(model, trained, objective, keeps_zeros), autocast:
        report = _run(model, objective, schedule, context, steps, folder, title)
    log.info(
        "%s: %d of %d steps, validation loss %.4f before, %.4f best, %.4f at the end%s",
        *(title, report.steps, steps, report.loss_start, report.loss_best, report.loss_end),
        f"; ended early: {report.stopped}" if report.stopped else "",
    )
    return report


def _run(
    model: LanguageModel,
    objective: Objective,
    schedule: Schedule,
    context: StageContext,
    steps: int,
    folder: Path,
    title: str,
) -> TrainingReport:
    """Run transformers' trainer, and put the best weights back."""
    from slimsweep.techniques.training.trainer import StageTrainer, last_checkpoint

    device, data = model.compute_device, context.data
    checkpoint = last_checkpoint(folder)
    trainer = StageTrainer(
        model,
        objective,
        title,
        schedule,
        args=schedule.arguments(steps, folder, context.seed, device.type, checkpoint is not None),
        data_collator=data.collate,
        train_dataset=Examples(data.training),
        eval_dataset=Examples(data.validation),
    )
    if checkpoint:
        log.info("%s: going on from %s", title, checkpoint.name)
    before = _counter(reset_peak, device)
    if checkpoint is None or not trainer.resume_ended(checkpoint):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.evaluate()
    end = _counter(peak, device)
    trainer.put_best()
    rise = None if before is None or end is None else max(0, end - before)
    return _account(trainer, schedule, context, None if rise is None else load_memory_bytes(model.module) + rise)


def _account(trainer: Any, schedule: Schedule, context: StageContext, peak_bytes: int | None) -> TrainingReport:
    """Account of a run, after the best weights were put back."""
    best = min((entry for entry in trainer.curve if _is_number(entry["validation_loss"])), key=_validation_loss)
    return TrainingReport(
        steps=trainer.state.global_step,
        planned_steps=trainer.args.max_steps,
        tokens=trainer.tokens,
        seconds=trainer.seconds,
        learning_rate=schedule.learning_rate,
        loss_start=trainer.curve[0]["validation_loss"],
        loss_end=trainer.curve[-1]["validation_loss"],
        loss_best=best["validation_loss"],
        step_best=best["step"],
        trained_parameters=sum(tensor.numel() for tensor in trainer.trained().values()),
        peak_memory_bytes=peak_bytes,
        predicted_peak_bytes=context.predicted_bytes,
        stopped=trainer.stopped,
        curve=trainer.curve,
    )


def _lengths(context: StageContext) -> list[float]:
    """Length of each training example in tokens, as the mean of LENGTHS_AT_ONCE neighbours."""
    from slimsweep.techniques.training.trainer import token_count

    examples, lengths = context.data.training, []
    for start in range(0, len(examples), LENGTHS_AT_ONCE):
        part = examples[start : start + LENGTHS_AT_ONCE]
        lengths += [token_count(context.data.collate(part)) / len(part)] * len(part)
    return lengths


@contextlib.contextmanager
def _work_folder(context: StageContext, run: dict[str, Any]) -> Iterator[Path]:
    """The folder of checkpoints, which goes when the stage is done.

    Raises:
        TrainingError: it holds checkpoints of another run.
    """
    if context.work_dir is None:
        with tempfile.TemporaryDirectory(prefix="slimsweep-training-") as folder:
            (Path(folder) / "run.json").write_text(json.dumps(run))
            yield Path(folder)
        return
    folder, run = context.work_dir, run | {"seed": context.seed, "threads": torch.get_num_threads()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "run.json"
        if file.is_file() and json.loads(file.read_text()) != run:
            raise TrainingError(
                f"{folder} holds checkpoints of another run (steps, shapes, seed or threads differ): remove the "
                "folder, or launch with the settings that made it"
            )
        file.write_text(json.dumps(run))
    except OSError as error:
        raise TrainingError(
            f"no checkpoint can be written to {folder} ({error.strerror}): choose another cache_dir=FOLDER"
        ) from error
    yield folder


@contextlib.contextmanager
def _autocast(model: LanguageModel, is_bf16: bool) -> Iterator[None]:
    """Let forwards of a model in bf16 compute in bf16 although its trained weights are in fp32.

    transformers' trainer would do the same, but give logits in fp32, and leave its forward on the model.
    """
    if not is_bf16:
        yield
        return
    plain = vars(model.module).get("forward")
    model.module.forward = torch.autocast(model.compute_device.type, torch.bfloat16)(model.module.forward)
    try:
        yield
    finally:
        del model.module.forward
        if plain is not None:
            model.module.forward = plain


@contextlib.contextmanager
def _trainable(
    model: LanguageModel, trained: Sequence[nn.Parameter], objective: Objective, keeps_zeros: bool
) -> Iterator[None]:
    """Make parameters trainable, in fp32. With `keeps_zeros`, removed weights get no gradient."""
    dtypes = [parameter.dtype for parameter in trained]
    masks = _masks(model, trained) if keeps_zeros else {}
    handles = []
    for parameter in trained:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
        if (mask := masks.get(id(parameter))) is not None:
            # A weight whose gradients are all zero stays as it is under AdamW: zero.
            handles.append(parameter.register_hook(lambda gradient, mask=mask: gradient.masked_fill(mask, 0)))
    if objective.modules is not None:
        objective.modules.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, dtype in zip(trained, dtypes, strict=True):
            parameter.requires_grad_(False)
            parameter.grad = None
            parameter.data = parameter.data.to(dtype)
        model.module.eval()


def _masks(model: LanguageModel, trained: Sequence[nn.Parameter]) -> dict[int, Tensor]:
    """Masks of removed weights by the id of the parameter, as the parameter lies in memory."""
    wanted, masks = {id(parameter) for parameter in trained}, {}
    for layer in linear_layers(model.module).values():
        weight = getattr(layer, "weight", None)
        if id(weight) in wanted and (mask := removed(layer)) is not None:
            masks[id(weight)] = mask.T if is_transposed(layer) else mask
    return masks


def _counter(read: Any, device: torch.device) -> int | None:
    try:
        return read(device)
    except OSError:
        return None


def _is_number(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _validation_loss(entry: dict[str, Any]) -> float:
    return entry["validation_loss"]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not _is_number(value) else value
