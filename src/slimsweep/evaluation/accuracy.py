"""Zero-shot accuracy by lm-evaluation-harness, on the task files in evaluation/tasks."""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml

from slimsweep.checks import refuse, whole_number_faults
from slimsweep.data.corpora import SHORT_DIGEST, Corpora
from slimsweep.data.rows import Rows
from slimsweep.data.unknown_tokens import texts_fault
from slimsweep.errors import CorpusError, TaskError
from slimsweep.evaluation.base import Measurement, Metric, other_task_fault
from slimsweep.evaluation.outcomes import Outcomes, items_digest
from slimsweep.evaluation.quantity import Quantity
from slimsweep.hints import allowed_names
from slimsweep.models.batch_sizes import BATCH_TOKENS, batch_tokens
from slimsweep.models.language_model import LanguageModel

TASKS = Path(__file__).parent / "tasks"
_METRICS = {"acc": "accuracy", "acc_norm": "acc_norm"}
"""Record field prefix of each harness metric."""


@dataclass(frozen=True, kw_only=True)
class Accuracy(Metric):
    """Fraction of questions answered right, with its standard error, by task. Nothing is shown beforehand."""

    version: ClassVar[int] = 2
    declares: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            field="accuracy_*",
            label="accuracy",
            unit="fraction",
            higher_is_better=True,
            group="quality",
            name="*",
            heading="accuracy *",
            format=".3f",
            place=1,
            error="accuracy_stderr_*",
        ),
        Quantity(field="accuracy_stderr_*", label="standard error of accuracy", unit="fraction", format=".3f"),
        Quantity(
            field="acc_norm_*",
            label="accuracy by length-normalised likelihoods",
            unit="fraction",
            higher_is_better=True,
            format=".3f",
            error="acc_norm_stderr_*",
        ),
        Quantity(field="acc_norm_stderr_*", label="standard error of acc_norm", unit="fraction", format=".3f"),
    )

    tasks: str | Sequence[str]
    """Names of files in evaluation/tasks; kept as a tuple."""
    task_limit: int | None = None
    """Questions asked of each task, from the start; None asks all."""
    batch_tokens: int | None = None
    """Tokens of one forward, padding included; None: 1024 on a CPU, up to 8192 on a GPU as memory
    allows; half of what windows of text take, since more sentences at once are padded more."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", (self.tasks,) if isinstance(self.tasks, str) else tuple(self.tasks))
        refuse(
            whole_number_faults("evaluation.task_limit", self.task_limit, is_optional=True)
            + whole_number_faults("evaluation.batch_tokens", self.batch_tokens, is_optional=True)
        )

    def parts(self) -> list[Metric]:
        return [dataclasses.replace(self, tasks=(task,)) for task in self.tasks]

    def quantities(self) -> list[Quantity]:
        declared = {one.field: one for one in self.declares}
        return [
            declared[pattern].named(task)
            for task in self.tasks
            for metric in _metrics(task_file(task))
            for pattern in (f"{_METRICS[metric]}_*", f"{_METRICS[metric]}_stderr_*")
        ]

    def digests(self, corpora: Corpora) -> dict[str, str]:
        return {task: _digest(task, _questions(task, corpora)[0]) for task in self.tasks}

    def texts(self, corpora: Corpora) -> Iterator[str]:
        for task in self.tasks:
            yield from _texts(_questions(task, corpora)[0][: self.task_limit])

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        faults = [f"task {task} is asked for twice" for task in set(self.tasks) if self.tasks.count(task) > 1]
        for task in self.tasks:
            try:
                _questions(task, corpora)
            except (CorpusError, TaskError) as error:
                faults.append(str(error))
        if source.task != "causal_lm":
            faults.append(other_task_fault(source, "zero-shot accuracy"))
        elif source.tokenizer() is None:
            faults.append(f"model {source.name} has no tokenizer, which zero-shot tasks need")
        return faults or self._unknown_token_faults(source, corpora)

    def _unknown_token_faults(self, source: Any, corpora: Corpora) -> list[str]:
        tokenizer, embeddings = source.tokenizer(), source.config().get_text_config().vocab_size
        faults = []
        for task in self.tasks:
            texts = _texts(_questions(task, corpora)[0][: self.task_limit])
            faults.append(texts_fault(f"task {task}", texts, tokenizer, embeddings))
        return [fault for fault in faults if fault]

    def measure(self, model: LanguageModel, corpora: Corpora) -> Measurement:
        """`accuracy_<task>` and `accuracy_stderr_<task>`; `acc_norm_<task>` where choices are normalised by length.

        Raises:
            TaskError: unknown task.
            CorpusError: its data is neither local nor reachable.
        """
        values, reasons, protocols, outcomes = {}, {}, {}, {}
        tokens = self.batch_tokens or batch_tokens(model) // 2
        for task in self.tasks:
            questions, origin = _questions(task, corpora)
            results, samples = _run(task, questions, model, self.task_limit, tokens)
            asked = min(len(questions), self.task_limit or len(questions))
            where = origin.split()[0] if origin.startswith(("hub", "package")) else "local"
            protocol = f"{task}:v{task_file(task)['metadata']['version']}:lm-eval:0-shot:{where}:questions={asked}"
            for metric in _metrics(task_file(task)):
                field, error_field = f"{_METRICS[metric]}_{task}", f"{_METRICS[metric]}_stderr_{task}"
                error = results.get(f"{metric}_stderr,none")
                values |= {field: results.get(f"{metric},none"), error_field: error}
                if not results:
                    reasons |= dict.fromkeys((field, error_field), "log-likelihoods are not finite")
                if isinstance(error, str):  # lm-eval's "N/A"
                    values[error_field], reasons[error_field] = None, "one question has no standard error"
                protocols[field] = f"{protocol}:{metric}:sha={_digest(task, questions)[:SHORT_DIGEST]}"
                if samples:
                    right = np.array([sample[metric] for sample in samples])
                    is_whole = np.isin(right, (0, 1)).all()
                    items = items_digest([_digest(task, questions), str(asked)])
                    outcomes[field] = Outcomes(right.astype(np.uint8 if is_whole else np.float64), "mean", items)
        return Measurement(values, reasons, protocols, outcomes)

    def working_bytes(self, token_bytes: int) -> int:
        return (self.batch_tokens or BATCH_TOKENS) * token_bytes


def task_file(task: str) -> dict[str, Any]:
    """The contents of a task's YAML.

    Raises:
        TaskError: there is no such file; near misses and all names are given.
    """
    names = sorted(path.stem for path in TASKS.glob("*.yaml"))
    if task not in names:
        raise TaskError(f"no task {task!r}. {allowed_names(task, names, 'Known')}")
    return yaml.safe_load((TASKS / f"{task}.yaml").read_text(encoding="utf-8"))


def _metrics(fields: dict[str, Any]) -> list[str]:
    return [entry["metric"] for entry in fields["metric_list"]]


def _questions(task: str, corpora: Corpora) -> tuple[list[dict], str]:
    """Rows of the task's split and where they came from."""
    fields = task_file(task)
    hub = {"path": fields.get("dataset_path"), "name": fields.get("dataset_name"), "split": fields["test_split"]}
    places = fields["metadata"]
    rows = Rows(
        files=tuple(places.get("local", ())),
        hub=hub if hub["path"] else {},
        embedded=places.get("embedded", ""),
    )
    return _read(json.dumps([rows.files, rows.hub, rows.embedded]), rows, corpora)


_read_rows: dict[tuple, tuple[list[dict], str]] = {}


def _read(name: str, rows: Rows, corpora: Corpora) -> tuple[list[dict], str]:
    path = rows.local_path(corpora.data_dir)
    key = (name, str(path), path.stat().st_mtime_ns if path else None)
    if key not in _read_rows:
        _read_rows[key] = rows.read(corpora.data_dir, corpora.cache_dir)
    return _read_rows[key]


def _texts(value: Any) -> Iterator[str]:
    """Every text within a value of dicts and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _digest(task: str, questions: list[dict]) -> str:
    """SHA-256 of the task file and its questions: what an answer is scored by."""
    content = json.dumps([task_file(task), questions], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def _run(
    task: str, questions: list[dict], model: LanguageModel, limit: int | None, batch_tokens: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The harness's results of one task, and those of each question in order.

    The questions are in memory: nothing is downloaded or written.
    """
    import datasets

    evaluate, task_manager, harness_model = _harness()
    split = task_file(task)["test_split"]
    data = {split: datasets.Dataset.from_list(questions[:limit])}
    fields = {**task_file(task), "custom_dataset": lambda **_: data}
    lm = harness_model(model, batch_tokens)
    results = evaluate(lm=lm, task_dict=task_manager.load([fields]), log_samples=True)
    if lm.has_nan:  # the harness would take one of the answers and call it a choice
        return {}, []
    return results["results"][task], sorted(results["samples"][task], key=lambda sample: sample["doc_id"])


@functools.cache
def _harness() -> tuple[Any, Any, Any]:
    """The harness, imported at the first task; without the tasks it ships, which would be read for seconds."""
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    from slimsweep.evaluation.harness import HarnessModel

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return evaluate, TaskManager(include_defaults=False), HarnessModel
