import pytest
import transformers

from slimsweep.errors import ModelError
from slimsweep.models.sources.byte_tokenizer import byte_tokenizer
from slimsweep.models.sources.local import LocalModel


@pytest.mark.parametrize(
    ("task", "allowed"), [("causal_lm", "sequence_classification"), ("seq2seq_lm", "sequence_classification")]
)
def test_a_task_that_the_checkpoint_cannot_do_is_refused_with_those_it_can(task, allowed, tmp_path):
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=300
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    byte_tokenizer().save_pretrained(tmp_path / "bert")
    source = LocalModel(path=str(tmp_path / "bert"), task=task, cache_dir=str(tmp_path))
    (fault,) = source.faults()
    assert f"cannot do task={task}" in fault and f"set model.task={allowed}" in fault
    assert LocalModel(path=str(tmp_path / "bert"), task=allowed, cache_dir=str(tmp_path)).faults() == []


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises((ValueError, ModelError), match="task='chat'.*causal_lm"):
        LocalModel(path="nowhere", task="chat", cache_dir="cache")
