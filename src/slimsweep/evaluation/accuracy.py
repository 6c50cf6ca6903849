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
from slimsweep.models.batch_sizes import BATCH_TOKENS, batch_tokens, longest_context
from slimsweep.models.language_model import LanguageModel

log = logging.getLogger(__name__)

TASKS = Path(__file__).parent / "tasks"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's own where PyYAML has it: ten times as fast, and every check of a sweep's jobs reads these files."""
_METRICS = {
    ("acc", "none"): "accuracy",
    ("acc_norm", "none"): "acc_norm",
    ("exact_match", "strict-match"): "accuracy",
    ("exact_match", "flexible-extract"): "flexible_accuracy",
}
"""Record field prefix of each harness metric and filter of answers."""
LONGEST_TEXT = 256
"""Tokens of a written answer where a task does not say; the harness's own default."""


@dataclass(frozen=True, kw_only=True)
class Accuracy(Metric):
    """Fraction of questions answered right, with its standard error, by task.

    Nothing is shown beforehand, but where a task's file has `num_fewshot`.
    """

    version: ClassVar[int] = 2
    declares: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            field="accuracy_*",
            kind="accuracy",
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
        Quantity(
            field="flexible_accuracy_*",
            label="accuracy by the last number",
            unit="fraction",
            higher_is_better=True,
            format=".3f",
            error="flexible_accuracy_stderr_*",
        ),
        Quantity(
            field="flexible_accuracy_stderr_*",
            label="standard error of accuracy by the last number",
            unit="fraction",
            format=".3f",
        ),
        Quantity(field="cut_texts_*", label="answers cut at their longest", unit="texts", format=".0f"),
        Quantity(field="truncated_prompts_*", label="prompts cut to fit", unit="prompts", format=".0f"),
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
            for pattern in (
                *(f"{prefix}{end}_*" for prefix, _, _ in _scores(task_file(task)) for end in ("", "_stderr")),
                *(["cut_texts_*"] if _writes(task_file(task)) else []),
                "truncated_prompts_*",
            )
        ]

    def digests(self, corpora: Corpora) -> dict[str, str]:
        return {task: _digest(task, corpora) for task in self.tasks}

    def texts(self, corpora: Corpora) -> Iterator[str]:
        for task in self.tasks:
            yield from _texts(_questions(task, corpora)[0][: self.task_limit])

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        faults = [f"task {task} is asked for twice" for task in set(self.tasks) if self.tasks.count(task) > 1]
        for task in self.tasks:
            try:
                _questions(task, corpora)
                _shots(task, corpora)
            except (CorpusError, TaskError) as error:
                faults.append(str(error))
        if source.task != "causal_lm":
            faults.append(other_task_fault(source, "zero-shot accuracy"))
        elif source.tokenizer() is None:
            faults.append(f"model {source.name} has no tokenizer, which zero-shot tasks need")
        return faults or [*self._length_faults(source), *self._unknown_token_faults(source, corpora)]

    def _length_faults(self, source: Any) -> list[str]:
        longest, faults = longest_context(source.config()), []
        for task in self.tasks:
            new = task_file(task).get("generation_kwargs", {}).get("max_gen_toks", LONGEST_TEXT)
            if _writes(task_file(task)) and longest is not None and new >= longest:
                faults.append(
                    f"task {task} writes up to {new} tokens after its prompt, but model {source.name} takes {longest} "
                    "together: leave the task out, or take a model with a longer context"
                )
        return faults

    def _unknown_token_faults(self, source: Any, corpora: Corpora) -> list[str]:
        tokenizer, embeddings = source.tokenizer(), source.config().get_text_config().vocab_size
        faults = []
        for task in self.tasks:
            texts = _texts([*_questions(task, corpora)[0][: self.task_limit], *_shots(task, corpora)])
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
            (questions, origin), shots = _questions(task, corpora), _shots(task, corpora)
            run = _run(task, questions[: self.task_limit], shots, model, tokens)
            digest, asked = _digest(task, corpora), len(questions[: self.task_limit])
            where = origin.split()[0] if origin.startswith(("hub", "package")) else "local"
            protocol = f"{task}:v{task_file(task)['metadata']['version']}:lm-eval:{len(shots)}-shot:{where}"
            for prefix, metric, answers in _scores(task_file(task)):
                field, error_field = f"{prefix}_{task}", f"{prefix}_stderr_{task}"
                error = run.results.get(f"{metric}_stderr,{answers}")
                values |= {field: run.results.get(f"{metric},{answers}"), error_field: error}
                if not run.results:
                    reasons |= dict.fromkeys((field, error_field), "log-likelihoods are not finite")
                if isinstance(error, str):  # lm-eval's "N/A"
                    values[error_field], reasons[error_field] = None, "one question has no standard error"
                scored = metric if answers == "none" else f"{metric},{answers}:{run.written}"
                protocols[field] = f"{protocol}:questions={asked}:{scored}:sha={digest[:SHORT_DIGEST]}"
                if run.samples:
                    right = np.array([sample[metric] for sample in run.samples if sample["filter"] == answers])
                    is_whole = np.isin(right, (0, 1)).all()
                    items = items_digest([digest, str(asked)])
                    outcomes[field] = Outcomes(right.astype(np.uint8 if is_whole else np.float64), "mean", items)
            if _writes(task_file(task)):
                values[f"cut_texts_{task}"] = run.cut_texts
            values[f"truncated_prompts_{task}"] = run.truncated_prompts
            if run.truncated_prompts:
                log.warning(
                    "task %s: %d prompts are longer than the model takes and lost their beginning",
                    task,
                    run.truncated_prompts,
                )
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
    return yaml.load((TASKS / f"{task}.yaml").read_text(encoding="utf-8"), LOADER)


def _scores(fields: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Prefix of the record field, metric and filter of answers of each score of a task."""
    filters = [one["name"] for one in fields.get("filter_list", ())] or ["none"]
    return [
        (_METRICS[entry["metric"], answers], entry["metric"], answers)
        for entry in fields["metric_list"]
        for answers in filters
    ]


def _writes(fields: dict[str, Any]) -> bool:
    """Whether a task has the model write its answers."""
    return fields["output_type"] == "generate_until"


def _questions(task: str, corpora: Corpora) -> tuple[list[dict], str]:
    """Rows of the task's split and where they came from."""
    return _split(task_file(task), "local", task_file(task)["test_split"], corpora)


def _shots(task: str, corpora: Corpora) -> list[dict]:
    """Rows that stand before each question, in order: the first of another split."""
    fields = task_file(task)
    count = fields.get("num_fewshot", 0)
    return _split(fields, "local_shots", fields["fewshot_config"]["split"], corpora)[0][:count] if count else []


def _split(fields: dict[str, Any], local: str, split: str, corpora: Corpora) -> tuple[list[dict], str]:
    """Rows of a split and where they came from."""
    hub = {"path": fields.get("dataset_path"), "name": fields.get("dataset_name"), "split": split}
    places = fields["metadata"]
    rows = Rows(
        files=tuple(places.get(local, ())),
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


def _digest(task: str, corpora: Corpora) -> str:
    """SHA-256 of the task file, its questions and what is shown before them: what an answer is scored by."""
    shots = _shots(task, corpora)
    given = [task_file(task), _questions(task, corpora)[0], *([shots] if shots else [])]
    return hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class _Run:
    """One run of a task through the harness."""

    results: dict[str, Any]
    """The harness's results; empty where likelihoods are not finite."""
    samples: list[dict[str, Any]]
    """Results of each question in order, for each filter of answers."""
    written: str
    """Settings of generation; empty where nothing was written."""
    cut_texts: int
    truncated_prompts: int


def _run(task: str, questions: list[dict], shots: list[dict], model: LanguageModel, batch_tokens: int) -> _Run:
    """Run one task. The questions are in memory: nothing is downloaded or written."""
    import datasets

    evaluate, task_manager, harness_model, decoding_of = _harness()
    fields = task_file(task)
    data = {fields["test_split"]: datasets.Dataset.from_list(questions)}
    if shots:
        data[fields["fewshot_config"]["split"]] = datasets.Dataset.from_list(shots)
    lm = harness_model(model, batch_tokens)
    loaded = task_manager.load([{**fields, "custom_dataset": lambda **_: data}])
    results = evaluate(lm=lm, task_dict=loaded, log_samples=True)
    if lm.has_nan:  # the harness would take one of the answers and call it a choice
        return _Run({}, [], "", 0, lm.truncated_prompts)
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    written = decoding_of(fields["generation_kwargs"]).decoding_protocol if _writes(fields) else ""
    return _Run(results["results"][task], samples, written, lm.cut_texts, lm.truncated_prompts)


@functools.cache
def _harness() -> tuple[Any, Any, Any, Any]:
    """The harness, imported at the first task; without the tasks it ships, which would be read for seconds."""
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    from slimsweep.evaluation.harness import HarnessModel, decoding_of

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return evaluate, TaskManager(include_defaults=False), HarnessModel, decoding_of
