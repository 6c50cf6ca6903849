"""Teacher's predictions on disk: the same as asked anew, asked once, with an error that is stated."""

import functools

import pytest
import torch
from family_shapes import ENCODERS
from small_pairs import pair_table, seq2seq, words
from stages import experiment

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.data.corpora import Corpora
from slimsweep.data.training import TrainingSet, padded_batch
from slimsweep.data.training_pairs import TrainingPairs
from slimsweep.data.training_text import TrainingText
from slimsweep.errors import TrainingError
from slimsweep.models.batches import IGNORED, text_batch
from slimsweep.models.sources.random import RandomModel
from slimsweep.numerics.divergences import forward_kl, top_log_probs
from slimsweep.pipeline.chain import compress, teacher_dir
from slimsweep.techniques.structured.llm_pruner import LLMPruner
from slimsweep.techniques.training.distill import Distill
from slimsweep.techniques.training.kept_logits import KeptDistillation, KeptLogits, digests_of

CPU = torch.device("cpu")
WORDS = 258


def instructions(count=24):
    chance = torch.Generator().manual_seed(0)
    examples = []
    for index in range(count):
        ids = torch.randint(3, 250, (4 + index % 5,), generator=chance).tolist()
        examples.append({"input_ids": ids, "labels": [IGNORED] * 2 + ids[2:]})
    return TrainingSet(examples[4:], examples[:4], functools.partial(padded_batch, padding=0), "instructions")


def never():
    raise AssertionError("the teacher was asked")


def peaked(tiny, seed=1):
    """A copy with other and larger weights, so that some tokens are likely."""
    model, chance = tiny.copy(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.module.parameters():
            if weight.ndim == 2:
                weight.copy_(0.15 * torch.randn(weight.shape, generator=chance))
    return model


def test_a_digest_is_of_tokens_and_labels_and_of_no_padding():
    examples = instructions().training
    together = digests_of(padded_batch(examples, 0))
    assert together == [digest for one in examples for digest in digests_of(padded_batch([one], 7))]
    assert len(set(together)) == len(examples)
    other = examples[0] | {"labels": examples[0]["input_ids"]}
    assert digests_of(padded_batch([other], 0)) != together[:1]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["instructions", "t5"])
def test_what_is_kept_is_what_the_teacher_says(tiny, tmp_path, kind):
    if kind == "t5":
        source = seq2seq("t5", tmp_path)
        data = TrainingPairs(path=pair_table(tmp_path, words(30))).examples(source, Corpora(None, tmp_path))
        teacher = source.load(torch.float32, CPU)
    else:
        data, teacher = instructions(), peaked(tiny)
    kept = KeptLogits(tmp_path, k=3, temperature=2.0, vocabulary=WORDS)
    kept.fill(data, lambda: teacher)
    again = KeptLogits(tmp_path, k=3, temperature=2.0, vocabulary=WORDS)
    again.fill(data, never)
    batch = data.collate([data.training[5], data.validation[0], data.training[2], data.training[5]])
    logits, labels = teacher.task.aligned(teacher.task.forward(teacher.module, batch).logits, batch)
    expected = top_log_probs(logits[labels != IGNORED][:, :WORDS], 3, 2.0)
    for one in (kept.of(batch), again.of(batch)):
        assert torch.allclose(one.log_probs, expected.log_probs, atol=1e-5)
        assert torch.allclose(one.log_rest, expected.log_rest, atol=1e-5)
        assert torch.equal(one.indices.long(), expected.indices)
    assert kept.asked == len(data.training) + len(data.validation) and again.asked == 0
    assert again.size_bytes == sum(file.stat().st_size for file in tmp_path.rglob("top3*/*")) > 0


@torch.no_grad()
def test_the_loss_is_the_soft_loss_less_what_the_bound_states(tiny, tmp_path):
    teacher, data, missing = peaked(tiny), instructions(), []
    batch = data.collate(data.validation)
    (student, labels), (theirs, _) = (
        one.task.aligned(one.task.forward(one.module, batch).logits, batch) for one in (tiny, teacher)
    )
    exact = float(forward_kl(student, theirs, labels != IGNORED, temperature=2.0))
    for k in (1, 8, WORDS):
        technique = Distill(losses={"soft": 1.0}, keep_top_k=k)
        kept = KeptLogits(tmp_path, k, 2.0, WORDS)
        kept.fill(data, lambda: teacher)
        missing.append(exact - float(KeptDistillation(technique.weights, kept).loss(tiny, batch)))
    assert missing[0] > missing[1] > missing[2] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("k", [1, 8, WORDS])
def test_the_notes_bound_what_is_missing(tiny, tmp_path, k):
    teacher, data = peaked(tiny), instructions()
    technique = Distill(losses={"soft": 1.0}, keep_top_k=k, tokens=None, epochs=1.0, batch_sequences=4)
    notes = technique.apply(tiny, StageContext(data=data, teacher=lambda: teacher, teacher_dir=tmp_path)).notes
    batch = data.collate(data.validation)
    with torch.no_grad():
        (student, labels), (theirs, _) = (
            one.task.aligned(one.task.forward(one.module, batch).logits, batch) for one in (tiny, teacher)
        )
        exact = float(forward_kl(student, theirs, labels != IGNORED, temperature=2.0))
    missing = exact - notes["training"]["loss_best"]
    assert -1e-4 < missing <= notes["kept_logits"]["soft_loss_missing_at_most"] + 1e-4
    assert notes["kept_logits"]["asked_examples"] == 24
    assert 0 <= notes["kept_logits"]["mean_rest_probability"] < 1


def test_a_second_job_asks_no_teacher_and_ends_at_the_same_weights(tiny, tmp_path):
    teacher, students = peaked(tiny), [tiny.copy(), tiny.copy()]
    technique = Distill(keep_top_k=4, tokens=None, epochs=2.0, batch_sequences=4)
    for student, ask in zip(students, (lambda: teacher, never), strict=True):
        torch.manual_seed(0)
        context = StageContext(data=instructions(), teacher=ask, teacher_dir=tmp_path)
        notes = technique.apply(student, context).notes
    assert notes["kept_logits"]["asked_examples"] == 0
    for one, other in zip(*(student.module.parameters() for student in students), strict=True):
        assert torch.equal(one, other)


def test_other_settings_and_damaged_files_are_asked_for_again(tiny, tmp_path):
    teacher, data = peaked(tiny), instructions()
    KeptLogits(tmp_path, 4, 2.0, WORDS).fill(data, lambda: teacher)
    for settings in ((5, 2.0, WORDS), (4, 1.0, WORDS), (4, 2.0, WORDS - 1)):
        with pytest.raises(AssertionError, match="was asked"):
            KeptLogits(tmp_path, *settings).fill(data, never)
    (file,) = tmp_path.glob("top4_t2_v258/*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    kept = KeptLogits(tmp_path, 4, 2.0, WORDS)
    kept.fill(data, lambda: teacher)
    assert kept.asked == 24 and kept.of(data.collate(data.training[:2])).log_probs.shape[1] == 4


def test_without_a_shared_folder_nothing_is_left(tiny, tmp_path):
    technique = Distill(keep_top_k=4, tokens=None, epochs=1.0, batch_sequences=4)
    context = StageContext(data=instructions(), teacher=lambda: peaked(tiny))
    assert technique.apply(tiny.copy(), context).notes["kept_logits"]["asked_examples"] == 24


def test_a_full_disk_is_named(tiny, tmp_path):
    (tmp_path / "top4_t2_v258").write_text("a file in the place of the folder")
    with pytest.raises(TrainingError, match="keep_top_k=null"):
        KeptLogits(tmp_path, 4, 2.0, WORDS).fill(instructions(), lambda: tiny)


def test_settings_that_need_more_of_the_teacher_are_refused(tiny_source, tmp_path):
    with pytest.raises(ValueError, match="losses has reverse_kl, hidden too"):
        Distill(keep_top_k=4, losses={"soft": 1.0, "reverse_kl": 1.0, "hidden": 0.1})
    with pytest.raises(ValueError, match="keep_top_k=0"):
        Distill(keep_top_k=0)
    assert "258 tokens, give fewer" in Distill(keep_top_k=259).faults(tiny_source.skeleton())[0]
    classifier = RandomModel(
        name="bert", task="sequence_classification", shape=ENCODERS["bert"], cache_dir=str(tmp_path)
    )
    assert "predicts labels" in Distill(keep_top_k=2).faults(classifier.skeleton())[0]


JOB = ("technique=[magnitude,distill]", "technique.distill.keep_top_k=4", "technique.distill.tokens=2000")
JOB += ("data=text", "data.tokens=16", "data.validation=4", "technique.distill.evaluations=1", "dtype=float32")
TEXT = "Twenty foxes jump over the lazy dogs of a farm. "


@pytest.fixture
def job(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 40)
    return (*JOB, f"data.path={tmp_path}/text.txt")


def test_jobs_share_the_folder_of_one_teacher(tmp_path, job):
    def folder(*overrides):
        return teacher_dir(experiment(tmp_path, *job, *overrides), 1)

    base = folder("ratio=0.5")
    assert base.parent == tmp_path / "teachers"
    assert base == folder("ratio=0.7") == folder("ratio=0.5", "technique.distill.learning_rate=0.01")
    chains = [folder(f"ratio={ratio}", "technique.distill.teacher=chain") for ratio in (0.5, 0.7)]
    assert len({base, folder("ratio=0.5", "model.seed=1"), *chains}) == 4
    assert teacher_dir(experiment(tmp_path, *job, "ratio=0.5"), 0) is None


def test_two_jobs_of_a_sweep_ask_the_teacher_once(tmp_path, job):
    asked = []
    for ratio in (0.5, 0.7):
        done = compress(experiment(tmp_path, *job, f"ratio={ratio}"))
        asked.append(done.stages[-1]["notes"]["kept_logits"]["asked_examples"])
    assert asked[0] > 4 and asked[1] == 0


def test_it_changes_the_result_by_less_than_a_seed_does(stories260k_source, shared, tmp_path):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:60_000]
    (tmp_path / "stories.txt").write_text(text)
    texts = TrainingText(corpus="text", path=str(tmp_path / "stories.txt"), tokens=64, validation=8)
    data = texts.examples(stories260k_source, Corpora(None, tmp_path))
    dense = stories260k_source.load(torch.float32, CPU)

    def perplexed(keep_top_k, seed):
        student = stories260k_source.load(torch.float32, CPU)
        LLMPruner(ratio=0.5).apply(student, StageContext(text_batch(torch.stack(list(data.training[:4])))))
        technique = Distill(
            losses={"soft": 1.0}, keep_top_k=keep_top_k, tokens=40 * 4 * 64, batch_sequences=4, learning_rate=1e-3
        )
        torch.manual_seed(seed)
        context = StageContext(data=data, teacher=lambda: dense, teacher_dir=tmp_path, seed=seed)
        technique.apply(student, context)
        with torch.no_grad():
            return float(student.task.loss(student.module, data.collate(data.validation)))

    whole = [perplexed(None, seed) for seed in (0, 1, 2)]
    kept = [perplexed(32, seed) for seed in (0, 1, 2)]
    spread = max(whole) - min(whole)
    print("whole", whole, "kept", kept)
    assert abs(sum(kept) - sum(whole)) / 3 < spread
