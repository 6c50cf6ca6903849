import math
from types import SimpleNamespace

import pytest
import torch
import transformers

from slimsweep.models.task import TASKS, task_of

T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_heads": 2, "vocab_size": 40}
T5 |= {"pad_token_id": 0, "decoder_start_token_id": 0}


def t5():
    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)).eval()


def constant(logits):
    """A module that gives the same logits whatever it is given."""
    module = torch.nn.Module()
    module.forward = lambda **_: SimpleNamespace(logits=logits)
    return module


def test_a_text_predicts_every_token_but_the_first_of_each_sequence():
    logits = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 2, 3, 0], [4, 5, 6, 1]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    picked = [float(logits.log_softmax(-1)[row, place - 1, ids[row, place]]) for row, place in
              ((0, 1), (0, 2), (1, 1), (1, 2), (1, 3))]  # fmt: skip
    batch = {"input_ids": ids, "attention_mask": mask}
    assert float(TASKS["causal_lm"].loss(constant(logits), batch)) == pytest.approx(-sum(picked) / 5, rel=1e-6)
    assert TASKS["causal_lm"].predictions(batch) == 5
    assert TASKS["causal_lm"].predictions({"input_ids": ids}) == 6


@torch.no_grad()
def test_the_loss_of_an_encoder_decoder_is_that_of_transformers():
    generator = torch.Generator().manual_seed(1)
    source, labels = (torch.randint(1, 40, (2, tokens), generator=generator) for tokens in (6, 4))
    labels[0, 2:] = -100
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6])
    module, task = t5(), TASKS["seq2seq_lm"]
    shifted = module.prepare_decoder_input_ids_from_labels(labels)
    batch = {"input_ids": source, "attention_mask": mask, "decoder_input_ids": shifted, "labels": labels}
    expected = module(input_ids=source, attention_mask=mask, labels=labels).loss
    assert float(task.loss(module, batch)) == pytest.approx(float(expected), rel=1e-6)
    assert task.predictions(batch) == 6


def test_a_classifier_has_the_labels_given_or_its_own_answer():
    logits, task = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]]), TASKS["sequence_classification"]
    batch = {"input_ids": torch.ones(2, 3, dtype=torch.long)}
    assert float(task.loss(constant(logits), batch)) == pytest.approx(-math.log(3 / 4))
    assert float(task.loss(constant(logits), batch | {"labels": torch.tensor([0, 1])})) == pytest.approx(
        -(math.log(1 / 4) + math.log(3 / 4)) / 2
    )
    assert task.predictions(batch) == 2


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("LlamaForCausalLM", "causal_lm"),
        ("GPT2LMHeadModel", "causal_lm"),
        ("BertForSequenceClassification", "sequence_classification"),
        ("T5ForConditionalGeneration", "seq2seq_lm"),
        ("MarianMTModel", "seq2seq_lm"),
        ("SomebodysModel", "causal_lm"),
    ],
)
def test_the_task_of_a_model_class(architecture, task):
    assert task_of(architecture).name == task
