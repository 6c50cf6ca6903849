"""Training data that a teacher writes."""

import functools

import pytest
import torch
from family_shapes import ENCODERS
from g2p import characters, phonemes_of, write_g2p
from small_pairs import pair_table, seq2seq, words

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.data.corpora import Corpora
from slimsweep.data.training import TrainingSet, padded_batch
from slimsweep.data.training_pairs import TrainingPairs
from slimsweep.models.batches import IGNORED
from slimsweep.models.generation import end_ids
from slimsweep.models.sources.local import LocalModel
from slimsweep.models.sources.random import RandomModel
from slimsweep.progress import Watcher, watched_by
from slimsweep.techniques.training.distill import Distill
from slimsweep.techniques.training.written import Writing, written_set

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def windows(count=10, tokens=12):
    ids = torch.randint(3, 250, (count, tokens), generator=generator())
    return TrainingSet(list(ids[2:]), list(ids[:2]), stacked, "windows")


def stacked(examples):
    ids = torch.stack(list(examples))
    return {"input_ids": ids, "labels": ids}


def endless(model):
    model.module.generation_config.eos_token_id = model.config.eos_token_id = model.tokenizer.eos_token_id = None
    return model


def greedy_alone(model, prompt, tokens):
    text = list(prompt)
    for _ in range(tokens):
        text.append(int(model.module(torch.tensor([text]), use_cache=False).logits[0, -1].argmax()))
    return text[len(prompt) :]


@torch.no_grad()
def test_a_causal_teacher_continues_the_beginning_of_each_window(tiny):
    model, data = endless(tiny), windows()
    written, notes = written_set(model, data, Writing(texts="teacher", prompt_tokens=5), generator())
    for example, window in zip(written.training, data.training, strict=True):
        prompt = window[:5].tolist()
        assert example["input_ids"] == [*prompt, *greedy_alone(model, prompt, 7)]
        assert example["labels"] == [IGNORED] * 5 + example["input_ids"][5:]
    assert notes == {"sequences": 8, "tokens": 56, "without_end": 1.0}
    held_out = written.collate(written.validation)
    assert torch.equal(held_out["input_ids"], torch.stack(data.validation))
    assert torch.equal(held_out["labels"], torch.stack(data.validation))


def test_a_text_ends_with_its_end(tiny):
    data = windows()
    endless(tiny).module.generation_config.eos_token_id = list(range(258))
    written, notes = written_set(tiny, data, Writing(texts="teacher", prompt_tokens=5), generator())
    assert [len(example["input_ids"]) for example in written.training] == [6] * 8
    assert notes["without_end"] == 0


def test_instructions_are_answered_and_no_text_is_longer_than_the_longest(tiny):
    examples = [
        {"input_ids": list(range(10, 10 + size)), "labels": [IGNORED] * question + [7] * (size - question)}
        for size, question in ((9, 3), (6, 5), (8, 6))
    ]
    data = TrainingSet(examples, examples[:1], functools.partial(padded_batch, padding=0), "instructions")
    written, _ = written_set(endless(tiny), data, Writing(texts="teacher"), generator())
    labels = [[label for label in example["labels"] if label != IGNORED] for example in written.training]
    assert [len(row) for row in labels] == [6, 4, 3]  # 9 tokens at most, of which 3, 5 and 6 are the question
    assert [example["input_ids"][: len(row)] for example, row in zip(written.training, ([10], [10]), strict=False)]
    assert written.validation == examples[:1]


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder_writes_the_targets_of_its_sources(family, tmp_path):
    source = seq2seq(family, tmp_path)
    data = TrainingPairs(path=pair_table(tmp_path, words(30))).examples(source, Corpora(None, tmp_path))
    teacher = endless(source.load(torch.float32, CPU))
    written, notes = written_set(teacher, data, Writing(texts="teacher"), generator())
    longest = max(len(tokens.target) for _, tokens in data.training)
    assert notes["sequences"] == len(data.training) and notes["without_end"] == 1
    assert {len(tokens.target) for _, tokens in written.training} == {longest}
    assert [pair for pair, _ in written.training] == [pair for pair, _ in data.training]
    assert written.validation == data.validation and written.collate is data.collate
    batch = written.collate(written.training[:3])
    logits = teacher.module(**{name: values for name, values in batch.items() if name != "labels"}).logits
    assert torch.equal(logits.argmax(-1), batch["labels"])


def test_so_many_are_written_and_the_seed_draws_which(tiny):
    settings, data = Writing(texts="teacher", written_sequences=3, prompt_tokens=5), windows()
    drawn = [written_set(tiny, data, settings, generator(seed))[0].training for seed in (0, 0, 1)]
    assert len(drawn[0]) == 3 and drawn[0] == drawn[1] != drawn[2]


def test_samples_repeat_with_the_generator_and_leave_the_global_one_alone(tiny):
    settings, state = Writing(texts="teacher", decoding="sample", prompt_tokens=5), torch.get_rng_state()
    drawn = [written_set(endless(tiny), windows(), settings, generator(seed))[0].training for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_is_told(tiny):
    class Told(Watcher):
        parts = ()

        def part(self, title, done, total):
            self.parts += ((title, done, total),)

    with watched_by(Told()) as _, watched_by(told := Told()):
        written_set(tiny, windows(), Writing(texts="teacher"), generator())
    assert told.parts == (("teacher writes: batch", 0, 1), ("teacher writes: batch", 1, 1))


def test_distill_trains_on_what_the_teacher_wrote(tiny):
    student = tiny.copy()
    technique = Distill(
        texts="teacher", losses={"hard": 1.0}, tokens=None, epochs=2.0, batch_sequences=4, prompt_tokens=5
    )
    report = technique.apply(student, StageContext(data=windows(), teacher=lambda: endless(tiny)))
    assert report.notes["written"]["sequences"] == 8 and report.notes["training"]["steps"] == 4


def test_bad_knobs_and_classifiers_are_refused(tmp_path):
    for knobs in ({"texts": "student"}, {"written_sequences": 0}, {"prompt_tokens": 0}, {"decoding": "beam"}):
        with pytest.raises(ValueError, match=next(iter(knobs))):
            Distill(**knobs)
    classifier = RandomModel(
        name="bert", task="sequence_classification", shape=ENCODERS["bert"], cache_dir=str(tmp_path)
    ).skeleton()
    assert "texts=data" in Distill(texts="teacher").faults(classifier)[0]
    assert not Distill().faults(classifier)


def test_a_trained_speller_writes_phonemes(shared, tmp_path):
    folder, file = write_g2p(shared, tmp_path)
    source = LocalModel(path=str(folder), task="seq2seq_lm", cache_dir=str(tmp_path / "cache"))
    pairs = TrainingPairs(path=str(file), source_column="word", target_column="phonemes", validation=8)
    data = pairs.examples(source, Corpora(None, tmp_path))
    teacher = source.load(torch.float32, CPU)
    settings = Writing(texts="teacher", written_sequences=40)
    written, notes = written_set(teacher, data, settings, generator())
    _, phonemes = characters(folder)
    spelled = [phonemes_of(tokens.target, phonemes) for _, tokens in written.training]
    expected = [pair.target for pair, _ in written.training]
    assert notes["without_end"] < 0.1 and end_ids(teacher) == [2]
    assert sum(one == other for one, other in zip(spelled, expected, strict=True)) > 20
