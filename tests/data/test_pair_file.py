from dataclasses import replace

import pytest
from small_pairs import pair_table, seq2seq, words

from slimsweep.data.pair_calibration import PairCalibration


def file_of(tmp_path, pairs, **fields) -> PairCalibration:
    return PairCalibration(path=pair_table(tmp_path, pairs), sequences=2, **fields)


def everything(pair) -> bool:
    return True


def faults(calibration, source) -> list[str]:
    return calibration.pair_faults(source, everything)


def test_pairs_within_the_limits_are_kept_and_limits_are_inclusive(tmp_path):
    tokenizer = seq2seq("bart", tmp_path).tokenizer()
    pairs = [("a", "abc"), ("ab", "ab"), ("abc", "a"), ("abcd", "abcd")]

    def kept(**limits):
        file = file_of(tmp_path, pairs, **limits)
        return [pair.source for pair, _ in file.kept(tokenizer, everything)]

    assert kept() == ["a", "ab", "abc", "abcd"]
    assert kept(source_tokens=3) == ["a", "ab", "abc"]
    assert kept(source_tokens=3, target_tokens=2) == ["ab", "abc"]


def test_a_target_longer_than_the_decoder_takes_is_named_with_its_row_and_length(tmp_path):
    source = seq2seq("bart", tmp_path)  # 40 positions
    file = file_of(tmp_path, [*words(3), ("long", "x" * 41), ("longer", "y" * 50), ("z" * 60, "z")])
    short, long = faults(file, source)
    assert "row 6 has a source of 60 tokens, but this model takes 40: set calibration.source_tokens=40" in short
    assert "row 4 (and 1 more rows) has a target of 41 tokens" in long and "calibration.target_tokens=40" in long
    assert faults(replace(file, source_tokens=40, target_tokens=40), source) == []


def test_t5_takes_any_length(tmp_path):
    file = file_of(tmp_path, [("x" * 700, "y" * 700)])
    assert faults(file, seq2seq("t5", tmp_path)) == []
    assert faults(file, seq2seq("marian", tmp_path)) != []


def test_every_fault_of_a_decoder_without_a_file_is_told_at_once(tiny_source):
    kind, file = faults(PairCalibration(sequences=2), tiny_source)
    assert "pairs need an encoder-decoder (model.task=seq2seq_lm)" in kind
    assert "model tiny has model.task=causal_lm: choose text with calibration=quick" in kind
    assert "add calibration.path=FILE" in file and "calibration.target_path=FILE" in file


def test_a_column_that_is_not_there_is_named_with_the_settings(tmp_path):
    (fault,) = faults(file_of(tmp_path, words(3), source_column="word"), seq2seq("bart", tmp_path))
    assert "columns there: source, target" in fault and "calibration.source_column=NAME" in fault


def test_unequal_lines_are_a_fault_with_both_counts(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("un\n")
    file = PairCalibration(path=str(tmp_path / "a.txt"), target_path=str(tmp_path / "b.txt"), sequences=1)
    (fault,) = faults(file, seq2seq("bart", tmp_path))
    assert "a.txt has 2 lines" in fault and "b.txt has 1" in fault


def test_tokens_without_an_embedding_are_found(tmp_path):
    source = seq2seq("bart", tmp_path)
    tokenizer = source.tokenizer()

    class Narrow:
        """The model with embeddings for fewer tokens than its tokenizer has."""

        name, task = "narrow", source.task

        def tokenizer(self):
            return tokenizer

        def config(self):
            return type(source.config())(**source.config().to_dict() | {"vocab_size": 60})

    both = faults(file_of(tmp_path, words(3)), Narrow())
    assert ["has embeddings for 60" in fault or "embeddings for 60" in fault for fault in both] == [True, True]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source_tokens": 0}, "calibration.source_tokens=0: give a whole number"),
        ({"target_tokens": -1}, "calibration.target_tokens=-1: give a whole number"),
        ({"target_path": "b.txt"}, "calibration.target_path has no sources beside it: add calibration.path=FILE"),
    ],
)
def test_bad_settings_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        PairCalibration(sequences=2, **fields)


def test_plans_take_the_limit_or_a_byte_a_token(tmp_path):
    file = file_of(tmp_path, [("abc", "é")])
    assert (file.longest("source"), file.longest("target")) == (5, 4)
    assert replace(file, source_tokens=64).longest("source") == 64
    assert replace(file, path="absent.tsv").longest("source") == 0
