from pathlib import Path

import pytest
import torch
from conftest import TINY_SHAPE

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.data.arithmetic import Arithmetic
from slimsweep.data.corpora import Corpora
from slimsweep.data.training_text import TrainingText
from slimsweep.errors import TrainingError
from slimsweep.models.generation import Generated
from slimsweep.models.sources.random import RandomModel
from slimsweep.techniques.training import distill_reasoning
from slimsweep.techniques.training.distill_reasoning import DistillReasoning

SHORT = {"tokens": None, "epochs": 1, "batch_sequences": 8, "evaluations": 1, "new_tokens": 8, "learning_rate": 0.01}
NO_CORPORA = Corpora(None, Path("unused"))
DATA = Arithmetic(terms=2, digits=1, problem_count=60, validation=4)


def texts_alone(texts):
    """What a model has written, as far as the stage reads it."""
    return Generated(texts, [[]] * len(texts), [False] * len(texts))


def oracle(monkeypatch, teacher, right=1.0):
    """Let a teacher write the key's solutions, for so many of the prompts in their order; students write themselves."""
    solutions, generate = {one.prompt: one.solution for one in DATA.problems()}, distill_reasoning.generate
    asked = []

    def written(model, prompts, decoding, title):
        if model is not teacher:
            return generate(model, prompts, decoding, title)
        texts = [model.tokenizer.decode(one) for one in prompts]
        asked.append(texts)
        last = [f"Q:{text.rpartition('Q:')[2]}" for text in texts]
        return texts_alone([solutions[one] if place < right * len(last) else "1+1=3" for place, one in enumerate(last)])

    monkeypatch.setattr(distill_reasoning, "generate", written)
    return asked


def stage(source, model, teacher, **knobs):
    context = StageContext(data=DATA.examples(source, NO_CORPORA), teacher=lambda: teacher)
    return DistillReasoning(**(SHORT | knobs)).apply(model, context)


def test_a_student_learns_steps_and_answers(tiny_source, tiny, monkeypatch):
    teacher = tiny.copy()
    asked = oracle(monkeypatch, teacher)
    notes = stage(tiny_source, tiny, teacher, shots=2).notes
    told = notes["reasoning"]
    assert told["share_kept"] == told["teacher_accuracy"] == 1.0 and told["kept"] == told["prompts"]
    assert all(text.count("\n\n") == 2 and text.endswith("=\n") for text in asked[0])
    fields = {f"{kind}_accuracy_{when}" for kind in ("answer", "steps") for when in ("before", "after")}
    assert fields <= told.keys()
    assert notes["training"]["loss_best"] < notes["training"]["loss_start"]
    changed = tiny.module.state_dict()
    assert any(not torch.equal(value, changed[name]) for name, value in teacher.module.state_dict().items())


def test_examples_are_none_of_the_prompts(tiny_source, tiny, monkeypatch):
    teacher = tiny.copy()
    asked = oracle(monkeypatch, teacher)
    told = stage(tiny_source, tiny, teacher, shots=3).notes["reasoning"]
    examples = asked[0][0].split("\n\n")[:-1]
    prompts = [text.rpartition("\n\n")[2] for text in asked[0]]
    assert len(examples) == 3 and not any(one.startswith(prompt) for one in examples for prompt in prompts)
    assert told["prompts"] == len(DATA.examples(tiny_source, NO_CORPORA).training) - 3


def test_a_student_learns_what_the_teacher_predicts_with_examples(tiny_source, tiny, monkeypatch):
    with torch.no_grad():
        for parameter in tiny.module.parameters():
            parameter.mul_(5 if parameter.ndim == 2 else 1)  # examples then change what the teacher predicts
    teacher = tiny.copy()
    oracle(monkeypatch, teacher)
    told = stage(tiny_source, tiny, teacher, mode="in_context", shots=2, learning_rate=1e-3).notes["reasoning"]
    assert 0 < told["kl_after"] < told["kl_before"]
    assert {"answer_accuracy_before", "answer_accuracy_after"} <= told.keys()


def test_the_student_may_have_fewer_blocks(tiny_source, tiny, monkeypatch):
    teacher = tiny.copy()
    oracle(monkeypatch, teacher)
    technique = DistillReasoning(**SHORT, shots=0, blocks="every_second")
    skeleton = tiny_source.skeleton().copy()
    planned = technique.plan(skeleton)
    report = technique.apply(tiny, StageContext(data=DATA.examples(tiny_source, NO_CORPORA), teacher=lambda: teacher))
    assert [layer.name for layer in planned.layers] == [layer.name for layer in report.layers]
    assert (len(tiny.blocks), len(teacher.blocks)) == (1, 2)


@pytest.mark.parametrize(("right", "works"), [(0.5, False), (1.0, True)])
def test_too_few_solved_problems_end_the_stage(tiny_source, tiny, monkeypatch, right, works):
    teacher, before = tiny.copy(), tiny.copy()
    oracle(monkeypatch, teacher, right)
    if works:
        assert stage(tiny_source, tiny, teacher, shots=0, least_kept=0.9)
        return
    with pytest.raises(TrainingError, match=r"solved \d+ of \d+ prompts .*technique=finetune .* or lower least_kept"):
        stage(tiny_source, tiny, teacher, shots=0, least_kept=0.9)
    assert all(map(torch.equal, before.module.state_dict().values(), tiny.module.state_dict().values()))


def test_a_killed_stage_reads_the_solutions_that_it_has(tiny_source, tiny, monkeypatch, tmp_path):
    teacher = tiny.copy()
    asked = oracle(monkeypatch, teacher)
    context = StageContext(
        data=DATA.examples(tiny_source, NO_CORPORA), teacher=lambda: teacher, work_dir=tmp_path / "work"
    )
    technique = DistillReasoning(**SHORT, shots=0)
    monkeypatch.setattr(distill_reasoning.Training, "walk", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        technique.apply(tiny.copy(), context)
    monkeypatch.undo()
    monkeypatch.setattr(distill_reasoning, "generate", lambda model, prompts, *_: texts_alone([""] * len(prompts)))
    assert technique.apply(tiny, context).notes["reasoning"]["share_kept"] == 1.0
    assert len(asked) == 1


def test_the_teachers_weights_stay(tiny_source, tiny, monkeypatch):
    teacher = tiny.copy()
    before = {name: value.clone() for name, value in teacher.module.state_dict().items()}
    oracle(monkeypatch, teacher)
    stage(tiny_source, tiny, teacher, mode="in_context", shots=1)
    assert all(torch.equal(value, before[name]) for name, value in teacher.module.state_dict().items())


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"teacher": "other"}, "teacher='other': give base, chain or source"),
        ({"teacher": "source"}, "a path belongs to teacher=source"),
        ({"mode": "by_heart"}, "mode='by_heart': give step_by_step or in_context"),
        ({"mode": "in_context", "shots": 0}, "shots=0: give a whole number of at least 1"),
        ({"shots": -1}, "shots=-1"),
        ({"rationale_weight": -1.0}, "rationale_weight=-1.0"),
        ({"least_kept": 0.0}, "least_kept=0.0"),
        ({"new_tokens": 0}, "new_tokens=0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"blocks": "third"}, "blocks='third'"),
    ],
)
def test_bad_knobs_are_named(knobs, words):
    with pytest.raises(ValueError, match=words):
        DistillReasoning(**knobs)


def test_only_language_models_reason():
    shape = {"model_type": "bert", "vocab_size": 300, "num_hidden_layers": 1, "hidden_size": 36}
    source = RandomModel(name="bert", task="sequence_classification", weights="meta", shape=shape, cache_dir="unused")
    (fault,) = DistillReasoning().faults(source.skeleton())
    assert "choose technique=distill" in fault


def test_missing_blocks_are_named(tiny_source):
    (fault,) = DistillReasoning(blocks=[0, 5]).faults(tiny_source.skeleton())
    assert "this model has the blocks 0 to 1" in fault


def test_data_without_answers_is_refused(tiny_source):
    (fault,) = DistillReasoning().data_faults(TrainingText(corpus="movie_reviews", tokens=8), tiny_source)
    assert "set data=arithmetic" in fault


def test_examples_that_do_not_fit_are_refused(tiny_source):
    (fault,) = DistillReasoning(shots=9, new_tokens=32).data_faults(DATA, tiny_source)
    assert "takes 128: set fewer shots or new_tokens" in fault
    assert DistillReasoning(shots=0, new_tokens=32).data_faults(DATA, tiny_source) == []


def test_next_tokens_of_two_vocabularies_are_not_compared(tiny_source, stories260k_source):
    knobs = {"teacher": "source", "teacher_path": "stories260K", "shots": 1, "new_tokens": 16}
    (fault,) = DistillReasoning(mode="in_context", **knobs).data_faults(DATA, tiny_source, stories260k_source)
    assert "has another vocabulary" in fault and "set mode=step_by_step" in fault
    assert DistillReasoning(**knobs).data_faults(DATA, tiny_source, stories260k_source) == []


def test_faults_are_told_by_the_command_before_weights_are_read(slimsweep, monkeypatch):
    monkeypatch.setattr(RandomModel, "load", lambda *_, **__: 1 / 0)
    answer = slimsweep("model=random", "technique=distill_reasoning", "evaluation=cost", "data=quick")
    assert answer.status and "set data=arithmetic" in answer.err + answer.out


def test_the_command_runs_the_stage(slimsweep, monkeypatch):
    shape = {**TINY_SHAPE, "max_position_embeddings": 256}
    shape = "{" + ", ".join(f"{name}: {value}" for name, value in shape.items()) + "}"
    monkeypatch.setattr(
        distill_reasoning,
        "generate",
        lambda model, prompts, *_: texts_alone(
            [
                {one.prompt: one.solution for one in DATA.problems()}.get(
                    model.tokenizer.decode(prompt).removeprefix("[answer] ").removeprefix("[rationale] "), ""
                )
                for prompt in prompts
            ]
        ),
    )
    answer = slimsweep(
        *("model=random", f"model.shape={shape}", "technique=distill_reasoning", "evaluation=cost", "dtype=float32"),
        *("data=arithmetic", "data.terms=2", "data.digits=1", "data.problem_count=60", "data.validation=4"),
        *(f"technique.distill_reasoning.{knob}" for knob in ("shots=0", "tokens=400", "evaluations=1", "new_tokens=8")),
    )
    assert answer.status == 0, answer.err
