"""On-policy distillation: what it draws, what its gradient is, and what it recovers."""

import dataclasses
import itertools

import pytest
import torch

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.data.corpora import Corpora
from slimsweep.data.training import TrainingSet, padded_batch
from slimsweep.data.training_text import TrainingText
from slimsweep.errors import TrainingError
from slimsweep.models.batches import IGNORED, text_batch
from slimsweep.numerics.divergences import reverse_kl
from slimsweep.techniques.structured.llm_pruner import LLMPruner
from slimsweep.techniques.training.generation import continuations
from slimsweep.techniques.training.minillm import MiniLLM, OnPolicy, longest_prompt

SMALL = {"tokens": None, "epochs": 3.0, "batch_sequences": 4, "evaluations": 3, "learning_rate": 1e-3}
WRITES = {"prompt_tokens": 3, "response_tokens": 4}
SWITCHES = {
    "all off": {"single_step": False, "importance": "none", "length_normalisation": False, "language_weight": 0.0},
    "single_step=false": {"single_step": False},
    "importance=none": {"importance": "none"},
    "importance=sequence": {"importance": "sequence"},
    "length_normalisation=false": {"length_normalisation": False},
    "teacher_share=0": {"teacher_share": 0.0},
    "teacher_share=1": {"teacher_share": 1.0},
    "language_weight=0": {"language_weight": 0.0},
    "micro_sequences": {"micro_sequences": 2},
    "adapters": {"rank": 2},
}


def draw(predicted):
    """A token of each sequence, drawn from the first model."""
    return torch.multinomial(predicted[0].exp(), 1)[:, 0]


@pytest.fixture(scope="module")
def teacher(tiny_source):
    """A model with random weights that are large enough for some tokens to be likely."""
    model = tiny_source.load(torch.float32, torch.device("cpu")).copy()
    with torch.no_grad():
        for weight in model.module.parameters():
            if weight.ndim == 2:
                weight *= 8
    return model


@pytest.fixture(scope="module")
def windows(teacher):
    """Ten texts that the teacher wrote."""
    teacher.module.generation_config.eos_token_id = None
    torch.manual_seed(0)
    ids = continuations([teacher], [[token] for token in range(40, 50)], draw, tokens=11)["input_ids"]
    return TrainingSet(list(ids[2:]), list(ids[:2]), stacked, "windows")


@pytest.fixture
def run(teacher, windows):
    def run(student, work_dir=None, seed=0, data=windows, teacher=teacher, **knobs):
        torch.manual_seed(seed)
        technique = MiniLLM(**{**SMALL, **WRITES, **knobs})
        context = StageContext(data=data, teacher=lambda: teacher, seed=seed, work_dir=work_dir)
        return technique.apply(student, context).notes["training"]

    return run


def stacked(examples):
    ids = torch.stack(list(examples))
    return {"input_ids": ids, "labels": ids}


def shaken(model, scale=0.3):
    """A copy whose weights differ."""
    other, chance = model.copy(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in other.module.parameters():
            weight += scale * weight.std(correction=0) * torch.randn(weight.shape, generator=chance)
    return other


def weights(model):
    return torch.cat([weight.detach().flatten() for weight in model.module.parameters()])


@pytest.fixture(scope="module")
def default(teacher, windows):
    """Weights that the default knobs give, and the notes."""
    student = shaken(teacher)
    torch.manual_seed(0)
    context = StageContext(data=windows, teacher=lambda: teacher)
    return student, MiniLLM(**SMALL, **WRITES).apply(student, context).notes["training"]


@pytest.mark.parametrize("knobs", SWITCHES.values(), ids=SWITCHES)
def test_each_switch_trains_and_changes_the_result(run, teacher, default, knobs):
    student = shaken(teacher)
    notes = run(student, **knobs)
    assert notes["steps"] == 6 and notes["curve"] != default[1]["curve"]
    assert all(entry["validation_loss"] < 20 for entry in notes["curve"])
    if knobs.get("single_step", True):  # without it the gradient of so few texts is mostly chance
        assert notes["loss_best"] < notes["loss_start"]


def test_equal_seeds_give_equal_weights(run, teacher, default):
    same, other = shaken(teacher), shaken(teacher)
    run(same, seed=0)
    run(other, seed=1)
    assert torch.equal(weights(same), weights(default[0]))
    assert not torch.equal(weights(other), weights(default[0]))


@pytest.mark.parametrize("step", [1, 2, 3, 5])  # an epoch has two steps, a checkpoint lies at each second one
def test_a_killed_run_goes_on_to_the_same_bits(run, teacher, default, tmp_path, monkeypatch, step):
    responses, calls = OnPolicy.responses, itertools.count()

    def kill(self, *given):
        if next(calls) == step:
            raise KeyboardInterrupt
        return responses(self, *given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(OnPolicy, "responses", kill)
        run(shaken(teacher), work_dir=tmp_path)
    again = shaken(teacher)
    notes = run(again, work_dir=tmp_path)
    assert torch.equal(weights(again), weights(default[0]))
    assert notes["curve"] == default[1]["curve"]


def test_validation_is_the_reverse_kl_on_the_data_and_draws_nothing(teacher, windows):
    student = shaken(teacher)
    batch = stacked(windows.validation)
    state = torch.get_rng_state()
    with torch.no_grad():
        loss = OnPolicy(MiniLLM(), teacher).loss(student, batch)
        student_logits, teacher_logits = (one.module(batch["input_ids"]).logits[:, :-1] for one in (student, teacher))
    assert torch.equal(torch.get_rng_state(), state)
    everywhere = torch.ones(student_logits.shape[:2], dtype=torch.bool)
    assert torch.allclose(loss, reverse_kl(student_logits, teacher_logits, everywhere))
    assert float(OnPolicy(MiniLLM(), teacher).loss(teacher, batch)) == pytest.approx(0, abs=1e-6)


def test_the_single_steps_gradient_is_that_of_the_reverse_kl_where_one_token_is_written(teacher, windows):
    """With one written token there are no later rewards, so the surrogate is the exact KL after the prompts."""
    student = shaken(teacher)
    student.module.requires_grad_(True).train()
    batch = stacked(windows.training)
    settings = MiniLLM(prompt_tokens=5, response_tokens=1, language_weight=0.0)
    OnPolicy(settings, teacher).loss(student, batch).backward()
    found = student.module.get_input_embeddings().weight.grad.clone()
    assert torch.allclose(found, first_token_gradient(student, teacher, batch["input_ids"][:, :5]), atol=1e-6)


def first_token_gradient(student, teacher, prompts):
    """Gradient of the reverse KL of the token after each prompt, in the embeddings, from whole forwards."""
    student.module.zero_grad()
    logits = [one.module(prompts).logits[:, -1] for one in (student, teacher)]
    reverse_kl(*logits, torch.ones(len(prompts), dtype=torch.bool)).backward()
    return student.module.get_input_embeddings().weight.grad


def test_importance_corrects_texts_of_the_mixture(teacher, windows):
    """The sampled token's gradient has the mean of the exact one, but for texts of the mixture taken as they are."""
    student, projected = shaken(teacher), {}
    student.module.requires_grad_(True).train()
    batch = stacked(windows.training[:1] * 2000)
    for importance in ("none", "token", "sequence"):
        torch.manual_seed(0)
        student.module.zero_grad()
        settings = MiniLLM(prompt_tokens=5, response_tokens=1, language_weight=0.0, teacher_share=0.7)
        settings = dataclasses.replace(settings, single_step=False, importance=importance)
        OnPolicy(settings, teacher).loss(student, batch).backward()
        found = student.module.get_input_embeddings().weight.grad.clone()
        exact = first_token_gradient(student, teacher, batch["input_ids"][:1, :5])
        projected[importance] = float((found * exact).sum() / exact.square().sum())
    assert projected["token"] == projected["sequence"] == pytest.approx(1, abs=0.15)
    assert projected["none"] < 0.6


def test_a_teacher_that_is_the_student_gives_no_gradient_on_written_text(teacher, windows):
    student = teacher.copy()
    student.module.requires_grad_(True).train()
    settings = MiniLLM(**WRITES, language_weight=0.0)
    loss = OnPolicy(settings, teacher).loss(student, stacked(windows.training))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert max(float(one.grad.abs().max()) for one in student.module.parameters()) < 1e-5


def test_tokens_after_the_end_count_nowhere(teacher, windows):
    """Texts that all end at once have the gradient of their first tokens, whatever the limit is."""
    student = shaken(teacher)
    student.module.generation_config.eos_token_id = list(range(258))
    student.module.requires_grad_(True).train()
    gradients = []
    for tokens in (1, 6):
        student.module.zero_grad()
        torch.manual_seed(0)
        settings = MiniLLM(prompt_tokens=3, response_tokens=tokens)
        OnPolicy(settings, teacher).loss(student, stacked(windows.training)).backward()
        gradients.append(student.module.get_input_embeddings().weight.grad.clone())
    assert torch.equal(*gradients)


def test_instructions_are_continued_after_their_question(run, teacher):
    examples = [
        {"input_ids": list(range(10, 10 + size)), "labels": [IGNORED] * (size - 2) + [7, 8]} for size in (6, 9, 5, 7, 8)
    ]
    data = TrainingSet(examples[1:], examples[:1], lambda some: padded_batch(some, 0), "instructions")
    assert longest_prompt(data, tokens=3) == 7
    student = shaken(teacher)
    responses = OnPolicy(MiniLLM(**WRITES), teacher).responses(student, data.collate(examples))
    assert responses["input_ids"][0, :4].tolist() == [10, 11, 12, 13]
    assert (responses["labels"] == IGNORED).sum(dim=1).ge(torch.tensor([4, 7, 3, 5, 6])).all()
    assert run(student, data=data, epochs=2.0)["loss_best"] is not None


def test_too_long_texts_and_other_tasks_are_refused(run, tiny, tiny_source, tmp_path):
    from small_pairs import seq2seq

    skeleton = tiny_source.skeleton()
    assert not MiniLLM().faults(skeleton)
    assert "make 140 tokens, and the model takes 128" in MiniLLM(response_tokens=124).faults(skeleton)[0]
    assert "use technique=distill" in MiniLLM().faults(seq2seq("t5", tmp_path).skeleton())[-1]
    with pytest.raises(TrainingError, match="set response_tokens=116 or less"):
        run(tiny, prompt_tokens=16, response_tokens=120)


@pytest.mark.parametrize(
    "knobs",
    [
        *({"prompt_tokens": 0}, {"response_tokens": 0}, {"teacher_share": 1.5}, {"importance": "all"}),
        *({"language_weight": -1.0}, {"teacher": "other"}),
    ],
)
def test_bad_knobs_are_named(knobs):
    with pytest.raises(ValueError, match=next(iter(knobs))):
        MiniLLM(**knobs)


def test_the_parts_of_a_step_are_part_of_its_identity():
    assert "micro_sequences" not in MiniLLM.unkeyed and "max_minutes" in MiniLLM.unkeyed


def test_it_recovers_what_block_pruning_lost(run, stories260k_source, stories260k, shared, tmp_path):
    data = stories(stories260k_source, shared, tmp_path)
    calibration = text_batch(torch.stack(list(data.training[:8])))
    LLMPruner(ratio=0.5).apply(stories260k, StageContext(calibration))
    dense = stories260k_source.load(torch.float32, torch.device("cpu"))
    held_out, pruned = stacked(data.validation), loss_of(stories260k, stacked(data.validation))
    knobs = {"tokens": 15 * 4 * 64, "epochs": None, "prompt_tokens": 8, "response_tokens": 24}
    notes = run(stories260k, teacher=dense, data=data, **knobs)
    assert notes["loss_best"] < 0.85 * notes["loss_start"]  # reverse KL to the dense model
    assert loss_of(stories260k, held_out) < pruned - 0.5  # nats per token


def stories(source, shared, tmp_path):
    texts = shared / "data" / "tinystories" / "tinystories.part1.txt"
    path = tmp_path / "stories.txt"
    path.write_text(texts.read_text()[:60_000])
    return TrainingText(corpus="text", path=str(path), tokens=64, validation=8).examples(
        source, Corpora(None, tmp_path)
    )


@torch.no_grad()
def loss_of(model, batch):
    return float(model.task.loss(model.module, batch))
