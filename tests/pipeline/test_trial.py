"""Trials on small random models: a late failure is found, and nothing is left among the real records."""

import dataclasses
import random

import pytest
import torch
from conftest import PROJECT
from small_classifier import small_classifier
from small_jobs import SMALL
from small_pairs import pair_table, saved_seq2seq, words

from slimsweep.evaluation.perplexity import Perplexity
from slimsweep.pipeline.trial import METRIC_LIMITS, STAGE_LIMITS, STAGE_VALUES, Trial, limited
from slimsweep.techniques.training.lora import LoRA

OWN = (f"--config-dir={PROJECT / 'tests' / 'conf'}",)
WIDE = ("model.shape.hidden_size=288", "model.shape.num_attention_heads=9", "model.shape.num_key_value_heads=3")


def test_a_trial_runs_chain_and_metrics_on_a_small_copy_and_records_nothing(slimsweep, tmp_path):
    answer = slimsweep(*SMALL, *WIDE, "technique=[sparsegpt,nf4]", "ratio=0.5", "trial=true")
    assert answer.status == 0
    assert "llama, 2 blocks, width 192" in answer.out
    for step in ("stage sparsegpt: computed", "stage nf4: computed", "measured perplexity", "measured size"):
        assert f"ok        {step}" in answer.out
    assert "passed in" in answer.out and "Nothing was recorded" in answer.out
    assert not (tmp_path / "outputs").exists()


def test_a_chain_that_fails_late_is_found_with_its_stage(slimsweep, tmp_path):
    answer = slimsweep(*OWN, *SMALL, "technique=[magnitude,breaking]", "ratio=0.5", "trial=true")
    assert answer.status == 1
    assert "ok        stage magnitude: computed" in answer.out and "stage breaking: RuntimeError" in answer.out
    assert "1 of 1 trials failed; the real jobs would fail too" in answer.err and "broke half-way" in answer.err
    assert not (tmp_path / "outputs").exists()


def test_a_sweep_tries_each_chain_once_and_tells_which_fail(slimsweep, tmp_path):
    sweep = ("-m", "technique=[],magnitude,breaking", "ratio=0.3,0.5", "trial=true", "evaluation=cost")
    answer = slimsweep(*OWN, "model=random", "tracker=none", "cache=off", *sweep)
    assert answer.status == 1 and "5 jobs, 3 distinct chains to try" in answer.out
    assert answer.out.count("trial of ") == 3 and "trial of random magnitude 0.5" in answer.out
    assert "1 of 3 trials failed" in answer.err and "random breaking 0.5" in answer.err
    assert not (tmp_path / "outputs").exists()


def test_a_training_stage_is_tried_for_a_few_steps(slimsweep):
    answer = slimsweep(*SMALL, "data.tokens=32", "technique=[llm_pruner,lora]", "ratio=0.5", "trial=true")
    assert answer.status == 0 and "stage lora: computed" in answer.out
    assert "LoRA: 24 of 24 steps" in answer.out  # 1536 tokens in steps of 2 x 32


def test_a_leading_finetune_and_its_distillation_are_tried(slimsweep):
    chain = ("technique=[finetune,distill]", "technique.finetune.epochs=30", "technique.finetune.tokens=null")
    answer = slimsweep(*SMALL, "data.tokens=32", *chain, "trial=true")
    assert answer.status == 0 and "stage finetune: computed" in answer.out and "stage distill: computed" in answer.out


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_encoder_decoders_are_tried_on_their_pairs(slimsweep, tmp_path, family):
    folder = saved_seq2seq(family, tmp_path)
    pairs = ("calibration=pairs", f"calibration.path={pair_table(tmp_path, words(60))}", "calibration.sequences=16")
    model = ("model=local", f"model.path={folder}", "model.task=seq2seq_lm")
    answer = slimsweep(*model, *pairs, "evaluation=pairs", "technique=wanda", "tracker=none", "trial=true")
    assert answer.status == 0 and "2+2 blocks" in answer.out and "measured pair_perplexity" in answer.out


def test_a_classifier_is_tried_on_its_rows(slimsweep, tmp_path):
    rows = "".join(f"{text}\t{label}\n" for text, label in zip(_texts(), [0, 1] * 20, strict=True))
    (tmp_path / "rows.tsv").write_text("text\tlabel\n" + rows)
    source = small_classifier(tmp_path)
    source.load(torch.float32, torch.device("cpu")).module.save_pretrained(tmp_path / "bert")
    source.tokenizer().save_pretrained(tmp_path / "bert")
    model = ("model=local", f"model.path={tmp_path / 'bert'}", "model.task=sequence_classification")
    data = ("data=rows", f"data.path={tmp_path / 'rows.tsv'}", "data.tokens=32", "evaluation=cost")
    answer = slimsweep(*model, *data, "technique=[finetune,half]", "tracker=none", "dtype=float32", "trial=true")
    assert answer.status == 0 and "bert, 2 blocks" in answer.out and "stage half: computed" in answer.out


def test_a_stage_that_only_fits_the_real_size_is_told_and_left_out(slimsweep):
    words = (*SMALL, "model.shape.num_hidden_layers=6", "ratio=0.5", "trial=true")
    answer = slimsweep(*words, "technique=[wanda,nf4]", "technique.wanda.include=['*layers.5.*']")
    assert answer.status == 0 and "not tried on this copy, which is too small for it: technique.wanda" in answer.out
    assert "stage nf4: computed" in answer.out


def test_shapes_alone_leave_nothing_to_try(slimsweep):
    answer = slimsweep("model=random", "evaluation=cost", "model.weights=meta", "tracker=none", "trial=true")
    assert answer.status == 0 and "not tried anything: only shapes are loaded" in answer.out
    assert "nothing could be tried" in answer.out and "passed" not in answer.out


def test_a_trial_without_steps_has_not_passed():
    left_out = Trial("tiny rows", skipped=["on this copy, which is too small for it: evaluation.metrics.rows"])
    assert left_out.lines[-1].strip() == "nothing could be tried"
    assert "passed in" in Trial("tiny", steps=["measured size"]).lines[-1]
    assert "FAILED after" in Trial("tiny", reason="ModelError: gone").lines[-1]


def test_amounts_are_lowered_and_never_raised():
    stage = limited(LoRA(tokens=None, epochs=3, batch_sequences=1), STAGE_LIMITS, STAGE_VALUES)
    assert (stage.epochs, stage.tokens, stage.batch_sequences, stage.evaluations) == (None, 1536, 1, 1)
    metric = limited(Perplexity(corpora=("mine",), context_tokens=32, max_windows=None), METRIC_LIMITS)
    assert (metric.context_tokens, metric.max_windows) == (32, 2)
    assert dataclasses.asdict(limited(metric, METRIC_LIMITS)) == dataclasses.asdict(metric)


def _texts() -> list[str]:
    chance = random.Random(0)
    return [" ".join(chance.choices(["good", "bad", "film", "plot", "long", "short"], k=6)) for _ in range(40)]
