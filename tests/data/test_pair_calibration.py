from dataclasses import replace

import pytest
import torch
from small_pairs import pair_table, seq2seq, words

from slimsweep.data.corpora import Corpora
from slimsweep.data.pair_calibration import PairCalibration
from slimsweep.data.pairs import Pair
from slimsweep.errors import CorpusError
from slimsweep.pipeline.keys import identity


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    return Corpora(None, tmp_path)


@pytest.fixture
def source(tmp_path):
    return seq2seq("bart", tmp_path)


@pytest.fixture
def calibration(tmp_path) -> PairCalibration:
    return PairCalibration(path=pair_table(tmp_path, words(60)), sequences=20)


def decoded(rows, mask) -> list[str]:
    """Texts of one id per byte, whose printable letters have the ids of GPT-2's byte alphabet."""
    from slimsweep.models.sources.byte_tokenizer import byte_tokenizer

    return [byte_tokenizer().decode(row[kept.bool()]).replace(" ", "") for row, kept in zip(rows, mask, strict=True)]


def test_a_seed_decides_the_pairs(calibration, source, corpora):
    first, again, other = (calibration.sample(source, corpora, seed) for seed in (0, 0, 1))
    assert all(first[name].equal(again[name]) for name in first)
    assert first["input_ids"].shape[0] == 20
    assert not (first["input_ids"].shape == other["input_ids"].shape and first["input_ids"].equal(other["input_ids"]))


def test_drawn_pairs_are_pairs_of_the_file_and_none_is_held_out(calibration, source, corpora):
    batch = replace(calibration, sequences=40).sample(source, corpora, seed=0)
    sources = decoded(batch["input_ids"], batch["attention_mask"])
    targets = decoded(batch["labels"].clamp(min=0), batch["decoder_attention_mask"])
    assert set(zip(sources, targets, strict=True)) <= set(words(60))
    assert len(set(sources)) == 40
    assert not any(Pair(0, text, "").is_held_out for text in sources)


def test_the_batch_has_every_tensor_that_a_forward_takes(calibration, source, corpora):
    batch = calibration.sample(source, corpora, seed=0)
    assert sorted(batch) == sorted(
        ["input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask", "labels"]
    )
    module = source.load(torch.float32, torch.device("cpu")).module
    assert torch.isfinite(module(**batch).loss)


def test_too_few_pairs_are_a_fault_with_the_number_to_set(calibration, source, corpora):
    many = replace(calibration, sequences=60)
    (fault,) = many.faults(source, corpora)
    found = sum(not Pair(0, text, "").is_held_out for text, _ in words(60))
    assert f"has {found} pairs to calibrate on, fewer than 60" in fault
    assert f"set calibration.sequences={found}" in fault
    with pytest.raises(CorpusError, match="fewer than 60"):
        many.sample(source, corpora, seed=0)
    assert replace(calibration, sequences=found).faults(source, corpora) == []


def test_held_out_pairs_may_be_longer_than_the_model_takes(tmp_path, source, corpora):
    long = next(text for text in (letter * 50 for letter in "abcdefghij") if Pair(0, text, "").is_held_out)
    calibration = PairCalibration(path=pair_table(tmp_path, [*words(10), (long, "x")]), sequences=2)
    assert calibration.faults(source, corpora) == []


def test_keys_hold_the_pairs_and_no_path_or_column(tmp_path, calibration, corpora):
    (tmp_path / "lines.en").write_text("".join(f"{text}\n" for text, _ in words(60)))
    (tmp_path / "lines.xx").write_text("".join(f"{text}\n" for _, text in words(60)))
    lines = replace(calibration, path=str(tmp_path / "lines.en"), target_path=str(tmp_path / "lines.xx"))
    renamed = tmp_path / "renamed.tsv"
    renamed.write_text((tmp_path / "pairs.tsv").read_text().replace("source\ttarget", "a\tb", 1))
    columns = replace(calibration, path=str(renamed), source_column="a", target_column="b")
    assert identity(lines) == identity(columns) == identity(calibration)
    assert lines.digest(corpora) == columns.digest(corpora) == calibration.digest(corpora)
    assert identity(replace(calibration, source_tokens=8)) != identity(calibration)


def test_plans_count_sources_and_targets():
    few = PairCalibration(sequences=4, source_tokens=100, target_tokens=20)
    assert few.hidden_bytes(2) == 2 * 4 * 120
    assert few.working_bytes(3, is_whole=False) == 3 * 4 * 120
    many = replace(few, sequences=1000)
    assert many.working_bytes(3, is_whole=True) == 3 * 1000 * 120
    assert many.working_bytes(3, is_whole=False) == 3 * 2048


def test_the_number_of_pairs_is_checked():
    with pytest.raises(ValueError, match=r"calibration\.sequences=0: give a whole number"):
        PairCalibration(sequences=0)
