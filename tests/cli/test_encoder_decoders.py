"""Whole commands on encoder-decoders: jobs on pairs, and everything that is refused before weights load."""

import gzip

import pytest
from g2p import write_g2p
from small_jobs import SMALL, record_at
from small_pairs import pair_table, saved_seq2seq, words

QUIET = ("tracker=none", "device=cpu", "dtype=float32")


def model_at(folder) -> tuple[str, ...]:
    return ("model=local", f"model.path={folder}", "model.task=seq2seq_lm", *QUIET)


def on_pairs(path) -> tuple[str, ...]:
    return ("calibration=pairs", f"calibration.path={path}", "calibration.sequences=16", "evaluation=pairs")


@pytest.fixture
def bart(tmp_path):
    return saved_seq2seq("bart", tmp_path)


def test_a_job_calibrates_on_pairs_and_measures_the_held_out_ones(slimsweep, shared, tmp_path):
    folder, path = write_g2p(shared, tmp_path)
    head, *rows = gzip.decompress(path.read_bytes()).decode().splitlines()
    path = tmp_path / "words.tsv"
    path.write_text("\n".join([head, *rows[::10]]))  # a tenth, which is tokenized sooner
    columns = ("calibration.source_column=word", "calibration.target_column=phonemes")
    pairs = (*on_pairs(path), *columns, "evaluation.max_pairs=100")
    dense, pruned = (
        record_at(slimsweep(*model_at(folder), *pairs, *technique))
        for technique in (["technique=[]"], ["technique=wanda", "ratio=0.5", "calibration.sequences=256"])
    )
    assert 1 < dense["pair_perplexity"] < 1.2 * pruned["pair_perplexity"] and dense["parameters"] == 751_488
    assert dense["pair_perplexity"] < pruned["pair_perplexity"] < 30
    assert "pairs=100" in pruned["protocols"]["pair_perplexity"]
    assert pruned["nonzero_parameters"] < dense["nonzero_parameters"]


def test_every_fault_of_text_on_an_encoder_decoder_is_told_at_once(slimsweep, bart):
    answer = slimsweep(*model_at(bart), "technique=wanda", "evaluation=quick")
    assert answer.status == 1 and "nothing was started" in answer.err
    assert "set calibration=pairs calibration.path=FILE" in answer.err
    assert "perplexity needs a language model" in answer.err and "zero-shot accuracy needs" in answer.err
    assert "set evaluation=pairs evaluation.metrics.pair_perplexity.path=FILE" in answer.err


def test_every_fault_of_pairs_on_a_language_model_is_told_at_once(slimsweep):
    answer = slimsweep(*SMALL[:1], *QUIET, "technique=wanda", "calibration=pairs", "evaluation=pairs")
    assert answer.status == 1
    assert "choose text with calibration=quick" in answer.err
    assert "measure text with +metric=perplexity" in answer.err
    assert "add calibration.path=FILE" in answer.err
    assert "add evaluation.metrics.pair_perplexity.path=FILE" in answer.err


def test_pair_perplexity_without_pairs_names_the_setting(slimsweep, bart):
    answer = slimsweep(*model_at(bart), "technique=[]", "evaluation=cost", "+metric=pair_perplexity")
    assert answer.status == 1 and "add evaluation.metrics.pair_perplexity.path=FILE" in answer.err


def test_files_of_unequal_lines_and_long_targets_are_refused(slimsweep, bart, tmp_path):
    (tmp_path / "a.en").write_text("one\ntwo\n")
    (tmp_path / "a.de").write_text("eins\n")
    two_files = (*on_pairs(tmp_path / "a.en"), f"calibration.target_path={tmp_path / 'a.de'}")
    answer = slimsweep(*model_at(bart), "technique=wanda", *two_files)
    assert answer.status == 1 and "a.en has 2 lines and" in answer.err and "a.de has 1" in answer.err
    long = pair_table(tmp_path, [*words(60), ("long", "x" * 41)])
    answer = slimsweep(*model_at(bart), "technique=wanda", *on_pairs(long))
    assert answer.status == 1 and "row 61 has a target of 41 tokens, but this model takes 40" in answer.err
    assert "set calibration.target_tokens=40" in answer.err or "pair_perplexity.target_tokens=40" in answer.err


@pytest.mark.parametrize("task", ["causal_lm", "sequence_classification"])
def test_a_task_that_the_model_cannot_do_is_refused(slimsweep, tmp_path, task):
    marian = saved_seq2seq("t5" if task == "causal_lm" else "marian", tmp_path)
    answer = slimsweep("model=local", f"model.path={marian}", f"model.task={task}", *QUIET, "evaluation=cost")
    assert answer.status == 1 and f"cannot do task={task}" in answer.err
    assert "set model.task=seq2seq_lm" in answer.err


def test_an_unknown_metric_is_answered_with_the_nearest(slimsweep):
    answer = slimsweep(*SMALL, "evaluation=cost", "+metric=pair_perplexty")
    assert answer.status == 1 and "Did you mean: pair_perplexity" in answer.err
