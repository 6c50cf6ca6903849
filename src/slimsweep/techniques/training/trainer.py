"""Subclass of transformers' trainer for one stage: its objective, trained tensors, progress and checkpoints."""

import contextlib
import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from slimsweep.errors import TrainingError, TrainingPaused
from slimsweep.linear.base import is_linear
from slimsweep.models.batches import Batch, to_device
from slimsweep.models.language_model import LanguageModel
from slimsweep.progress import watcher
from slimsweep.techniques.training.objective import Objective
from slimsweep.techniques.training.schedule import Schedule

TRAINED = "trained.safetensors"
STATE = "stage.json"
"""Written last, so that a checkpoint with it is whole."""
BEST = "best.safetensors"


class StageTrainer(Trainer):
    """Trainer of one stage. It trains the tensors that ask for gradients, and writes no others to a checkpoint."""

    def __init__(
        self,
        model: LanguageModel,
        objective: Objective,
        title: str,
        schedule: Schedule,
        **rest: Any,
    ):
        super().__init__(model=model.module, **rest)
        self.model_accepts_loss_kwargs = True  # losses are weighted by their predictions here, see compute_loss
        self.remove_callback(PrinterCallback)
        self.add_callback(Watch(self))
        self.stage, self.objective, self.title = model, objective, title
        self.schedule = schedule
        self.curve: list[dict[str, Any]] = []
        """Step, mean training loss since the entry before, and validation loss."""
        self.tokens, self.seconds_before = 0, 0.0
        self.stopped: str | None = None
        """Reason why training ended before its budget."""
        self._began, self._recent, self._since = time.monotonic(), [], 0

    @property
    def seconds(self) -> float:
        """Seconds of training, those before an interruption included."""
        return self.seconds_before + time.monotonic() - self._began

    @property
    def is_late(self) -> bool:
        """Whether this launch has trained for as long as it may."""
        minutes = self.schedule.max_minutes
        return minutes is not None and time.monotonic() - self._began > 60 * minutes

    @property
    def best(self) -> float:
        """Lowest validation loss so far."""
        return min((entry["validation_loss"] for entry in self.curve), default=math.inf)

    def trained(self) -> dict[str, Tensor]:
        """Tensors that are trained, by name; those of the objective's modules too."""
        modules = [("", self.model), ("objective.", self.objective.modules)]
        return {
            prefix + name: parameter
            for prefix, module in modules
            if module is not None
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Mean loss of a batch, times its share of the predictions of a whole step."""
        predictions = self.stage.task.predictions(inputs)
        if num_items_in_batch is not None and not predictions:
            return sum(one.sum() for one in self.trained().values()) * 0.0  # a mean of nothing is no number
        loss = self.objective.loss(self.stage, inputs)
        return loss if num_items_in_batch is None else loss * (predictions / int(num_items_in_batch))

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> int:
        return sum(self.stage.task.predictions(batch) for batch in batch_samples)

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.tokens += token_count(inputs)
        if torch.isfinite(loss):
            self._recent.append(float(loss))
        elif self.stopped is None:
            step = self.state.global_step + 1
            where = self.broken_layer(inputs)
            self.stopped = f"the loss is not finite at step {step}{where}"
            self.control.should_training_stop = True
        return loss

    def broken_layer(self, batch: Batch) -> str:
        """Words that name the first layer whose output is not finite; empty where none can be named."""
        with self.compute_loss_context_manager(), contextlib.suppress(RuntimeError):
            return first_non_finite(self.stage, to_device(batch, self.args.device))
        return ""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not self.schedule.group_lengths:
            return super()._get_train_sampler(train_dataset)
        examples = self.train_dataset
        lengths = [token_count(self.data_collator([examples[place]])) for place in range(len(examples))]
        return SimilarLengths(self.schedule.batch_sequences, lengths, self.args.data_seed)

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clip over the model and the objective's modules together."""
        return nn.utils.clip_grad_norm_(list(self.trained().values()), self.args.max_grad_norm)

    def floating_point_ops(self, inputs: Batch) -> int:
        """Return 0: floating-point operations are not counted."""
        return 0

    def create_optimizer(self, *given: Any, **named: Any) -> Any:
        """AdamW over the trained tensors, with those of the objective's modules."""
        optimizer = super().create_optimizer(*given, **named)
        if self.objective.modules is not None:
            optimizer.add_param_group({"params": list(self.objective.modules.parameters()), "weight_decay": 0.0})
        return optimizer

    def evaluate(self, *given: Any, **named: Any) -> dict[str, float]:
        """Measure the validation loss, and note it beside the training loss since the last time."""
        if self.curve and self.curve[-1]["step"] == self.state.global_step:
            return {"eval_loss": self.curve[-1]["validation_loss"]}  # after an interruption
        value = self.validation_loss()
        if not self.curve and not math.isfinite(value):
            where = self.broken_layer(next(self.validation_batches()))
            raise TrainingError(
                f"the validation loss is not finite before the first step{where}: the stages before this one broke the "
                "model; compress less, or look at their report with slim show"
            )
        # Losses of the forwards of a step add up to the step's.
        forwards = self.args.gradient_accumulation_steps
        training = sum(self._recent) * forwards / len(self._recent) if self._recent else None
        if math.isfinite(value) and value < self.best:
            save_file(
                {name: tensor.detach().contiguous() for name, tensor in self.trained().items()}, self._folder / BEST
            )
            self._since = 0
        else:
            self._since += 1
        self.curve.append({"step": self.state.global_step, "loss": training, "validation_loss": value})
        self._recent = []
        if not math.isfinite(value):
            self.stopped = self.stopped or f"the validation loss is not finite at step {self.state.global_step}"
        elif self._since >= self.schedule.patience:
            self.stopped = self.stopped or (
                f"the validation loss rose or stood still at {self._since} evaluations in a row, the last at step "
                f"{self.state.global_step}"
            )
        self.control.should_training_stop |= self.stopped is not None
        return {"eval_loss": value}

    def validation_batches(self) -> Iterator[Batch]:
        """Validation examples in their order, as many at once as a forward of training has."""
        examples, size = self.eval_dataset, self.args.per_device_train_batch_size
        for start in range(0, len(examples), size):
            part = [examples[place] for place in range(start, min(start + size, len(examples)))]
            yield to_device(self.data_collator(part), self.args.device)

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean over all predictions of the validation examples."""
        was_training = self.model.training
        self.model.eval()
        losses, counts = [], []
        for batch in self.validation_batches():
            with self.compute_loss_context_manager():
                losses.append(float(self.objective.loss(self.stage, batch)))
            counts.append(self.stage.task.predictions(batch))
        self.model.train(was_training)
        return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / max(1, sum(counts))

    def _save_checkpoint(self, *given: Any, **named: Any) -> None:
        try:
            super()._save_checkpoint(*given, **named)
            state = {
                "curve": self.curve,
                "tokens": self.tokens,
                "seconds": self.seconds,
                "since": self._since,
                "recent": self._recent,
                "stopped": self.stopped,
                "run": json.loads((self._folder / "run.json").read_text()),
            }
            (self._folder / f"checkpoint-{self.state.global_step}" / STATE).write_text(json.dumps(state))
        except OSError as error:
            raise TrainingError(
                f"no checkpoint can be written to {self._folder} at step {self.state.global_step} ({error.strerror}): "
                "free space, or choose another cache_dir=FOLDER; the same command goes on from the checkpoint before"
            ) from error
        if self.is_late and self.stopped is None and self.state.global_step < self.args.max_steps:
            raise TrainingPaused(
                f"paused at step {self.state.global_step} of {self.args.max_steps} after "
                f"max_minutes={self.schedule.max_minutes:g}: the same command goes on from there"
            )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().contiguous() for name, tensor in self.trained().items()}, folder / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        self.put(load_file(folder / TRAINED))
        state = json.loads((folder / STATE).read_text())
        self.curve, self.tokens, self.seconds_before = state["curve"], state["tokens"], state["seconds"]
        self._since, self._recent, self.stopped = state["since"], state["recent"], state["stopped"]

    def resume_ended(self, checkpoint: Path) -> bool:
        """Restore a checkpoint if its run had ended early; True if so."""
        state = json.loads((checkpoint / STATE).read_text())
        if state["stopped"] is None:
            return False
        self._load_from_checkpoint(str(checkpoint))
        self.state.global_step = self.curve[-1]["step"]
        return True

    @torch.no_grad()
    def put(self, tensors: dict[str, Tensor]) -> None:
        """Give the trained tensors other values."""
        for name, parameter in self.trained().items():
            parameter.copy_(tensors[name])

    def put_best(self) -> None:
        """Give the trained tensors the values of the lowest validation loss."""
        self.put(load_file(self._folder / BEST))

    @property
    def _folder(self) -> Path:
        return Path(self.args.output_dir)


class SimilarLengths(LengthGroupedSampler):
    """Order of examples in which neighbours have similar lengths. Seed and epoch alone decide it."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """The trainer says at its beginning which epoch it is, after an interruption too."""
        self.generator = torch.Generator().manual_seed(self.seed + epoch)


class Watch(TrainerCallback):
    """Tells progress after each step, and asks for a checkpoint where the stage is to pause."""

    def __init__(self, trainer: StageTrainer):
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> Any:
        best = self.trainer.best
        watcher().part(f"{self.trainer.title}, best loss {best:.4f}: step", state.global_step, state.max_steps)
        control.should_save |= self.trainer.is_late
        if self.trainer.objective.modules is not None:  # transformers clears the gradients of the model alone
            self.trainer.objective.modules.zero_grad()
        return control


def last_checkpoint(work_dir: Path) -> Path | None:
    """The latest whole checkpoint of a work folder; parts of others are removed."""
    whole = []
    for folder in work_dir.glob("checkpoint-*"):
        if (folder / STATE).is_file():
            whole.append(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def token_count(batch: Batch) -> int:
    """Tokens of a batch without padding, those of targets included."""
    total = 0
    for name, mask in (("input_ids", "attention_mask"), ("decoder_input_ids", "decoder_attention_mask")):
        if name in batch:
            total += int(batch[mask].sum()) if mask in batch else batch[name].numel()
    return total


@torch.no_grad()
def first_non_finite(model: LanguageModel, batch: Batch) -> str:
    """Words that name the first part of a model whose output is not finite; empty where there is none."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if not found and isinstance(tensor, Tensor) and not bool(torch.isfinite(tensor).all()):
                found.append(name)

        return hook

    layers = {
        name: module
        for name, module in model.module.named_modules()
        if name and (is_linear(module) or not list(module.children()))
    }
    handles = [module.register_forward_hook(look(name)) for name, module in layers.items()]
    try:
        model.module(**{name: values for name, values in batch.items() if name != "labels"})
    finally:
        for handle in handles:
            handle.remove()
    return f", first in {found[0]}" if found else ""
