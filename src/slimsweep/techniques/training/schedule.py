"""Settings of the training loop: how much, how fast, in what portions, and when to stop."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from slimsweep.checks import choice_faults, flag_faults, number_faults, whole_number_faults

DECAYS = ("cosine", "linear", "constant")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Mix-in of the knobs that every training stage has."""

    unkeyed: ClassVar[frozenset[str]] = frozenset(("max_minutes",))
    """Knobs that decide no result."""

    tokens: int | None = 500_000
    """Budget: tokens to train on, padding left out; null where `epochs` is given."""
    epochs: int | float | None = None
    """Budget: passes over the training examples; null where `tokens` is given."""
    batch_sequences: int = 8
    """Sequences of one step."""
    micro_sequences: int | None = None
    """Sequences of one forward; gradients of a step are summed over several forwards. Null: those of a step."""
    group_lengths: bool = False
    """Whether a step has sequences of similar length, so that less is padded. No gain where all are equally long."""
    learning_rate: int | float = 1e-4
    """Highest learning rate of AdamW."""
    warmup_fraction: int | float = 0.05
    """Part of the steps in which the learning rate rises from 0."""
    decay: str = "cosine"
    """Fall of the learning rate after that: `cosine` or `linear` to 0, or `constant`."""
    weight_decay: int | float = 0.0
    max_gradient_norm: int | float = 1.0
    """Longer gradients are scaled down to this norm."""
    checkpoint_blocks: bool = False
    """Whether activations of blocks are computed again in the backward pass, which takes less memory and more time."""
    evaluations: int = 8
    """Number of times that the validation loss is measured and a checkpoint written, the end included."""
    patience: int = 3
    """Training ends after so many evaluations in a row that did not improve the best."""
    max_minutes: int | float | None = None
    """Pause after so many minutes, with a checkpoint; the same command goes on from there. Null: never."""

    def schedule_faults(self) -> list[str]:
        """Every field that holds what is not allowed."""
        faults = []
        if (self.tokens is None) == (self.epochs is None):
            faults.append(f"tokens={self.tokens} and epochs={self.epochs}: give one of them, and null for the other")
        faults += whole_number_faults("tokens", self.tokens, is_optional=True)
        if self.epochs is not None:
            faults += number_faults("epochs", self.epochs, "(0, inf)")
        for name in ("batch_sequences", "evaluations", "patience"):
            faults += whole_number_faults(name, getattr(self, name))
        faults += whole_number_faults("micro_sequences", self.micro_sequences, is_optional=True)
        if not faults and self.micro_sequences and self.batch_sequences % self.micro_sequences:
            faults.append(
                f"micro_sequences={self.micro_sequences} does not divide batch_sequences={self.batch_sequences}: give "
                "one that does"
            )
        faults += number_faults("learning_rate", self.learning_rate, "(0, inf)")
        faults += number_faults("warmup_fraction", self.warmup_fraction, "[0, 1)")
        faults += number_faults("weight_decay", self.weight_decay, "[0, inf)")
        faults += number_faults("max_gradient_norm", self.max_gradient_norm, "(0, inf)")
        faults += choice_faults("decay", [self.decay], DECAYS)
        for name in ("checkpoint_blocks", "group_lengths"):
            faults += flag_faults(name, getattr(self, name))
        if self.max_minutes is not None:
            faults += number_faults("max_minutes", self.max_minutes, "(0, inf)")
        return faults

    def steps(self, lengths: Sequence[int | float]) -> int:
        """Number of optimizer steps of the budget.

        Args:
            lengths: tokens of each training example.
        """
        if self.epochs is not None:
            return max(1, round(self.epochs * len(lengths) / self.batch_sequences))
        return max(1, round(self.tokens * len(lengths) / (sum(lengths) * self.batch_sequences)))

    @property
    def forwards(self) -> int:
        """Forwards of a step."""
        return self.batch_sequences // (self.micro_sequences or self.batch_sequences)

    def arguments(self, steps: int, work_dir: Any, seed: int, device_type: str, is_resumed: bool) -> Any:
        """These settings as transformers' trainer reads them; autocast is the loop's own."""
        from transformers import TrainingArguments

        return TrainingArguments(
            output_dir=str(work_dir),
            max_steps=steps,
            per_device_train_batch_size=self.micro_sequences or self.batch_sequences,
            gradient_accumulation_steps=self.forwards,
            learning_rate=self.learning_rate,
            warmup_steps=math.ceil(self.warmup_fraction * steps),
            lr_scheduler_type=self.decay,
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_gradient_norm,
            gradient_checkpointing=self.checkpoint_blocks,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            seed=seed % 2**31,
            data_seed=seed % 2**31,
            use_cpu=device_type == "cpu",
            eval_on_start=not is_resumed,
            eval_strategy="steps",
            save_strategy="steps",
            eval_steps=max(1, math.ceil(steps / self.evaluations)),
            save_steps=max(1, math.ceil(steps / self.evaluations)),
            save_total_limit=2,
            logging_strategy="no",
            logging_nan_inf_filter=False,
            remove_unused_columns=False,
            dataloader_drop_last=True,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            report_to=[],
            disable_tqdm=True,
            log_level="error",
        )
