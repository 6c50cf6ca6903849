import pytest
import torch
from conftest import CACHE
from small_classifier import small_classifier
from small_pairs import pair_table, seq2seq, words

from slimsweep.data.corpora import Corpora
from slimsweep.evaluation import generated_text
from slimsweep.evaluation.bleu import Bleu
from slimsweep.evaluation.generated_text import prompt_ids
from slimsweep.evaluation.rouge import Rouge

CPU = torch.device("cpu")


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    return Corpora(None, tmp_path)


@pytest.fixture
def bart(tmp_path):
    return seq2seq("bart", tmp_path).load(torch.float32, CPU)


def always_a(module, arguments, output):
    """Forward hook that makes one letter the likeliest token for ever."""
    output.logits[..., 64] = 1e6
    return output


def counted(monkeypatch):
    """Number of generations."""
    calls, generate = [], generated_text.generate
    monkeypatch.setattr(generated_text, "generate", lambda *given: calls.append(given) or generate(*given))
    return calls


def test_metrics_with_equal_settings_share_one_generation_until_the_weights_change(
    tmp_path, corpora, bart, monkeypatch
):
    calls, path = counted(monkeypatch), pair_table(tmp_path, words(5))
    first = Rouge(path=path, max_new_tokens=4).measure(bart, corpora)
    Bleu(path=path, max_new_tokens=4).measure(bart, corpora)
    assert len(calls) == 1
    assert Rouge(path=path, max_new_tokens=4).measure(bart, corpora).values == first.values
    Bleu(path=path, max_new_tokens=5).measure(bart, corpora)
    assert len(calls) == 2
    with torch.no_grad():
        bart.module.get_submodule("model.encoder.layers.0.fc1").weight.mul_(2)
    Rouge(path=path, max_new_tokens=4).measure(bart, corpora)
    assert len(calls) == 3


def test_texts_and_sources_that_were_cut_are_counted(tmp_path, corpora, bart, caplog):
    path = pair_table(tmp_path, [("a" * 10, "b"), ("a" * 60, "b"), ("c", "d")])
    bart.module.register_forward_hook(always_a)
    values = Rouge(path=path, max_new_tokens=3).measure(bart, corpora).values
    assert (values["rouge_truncated_sources"], values["rouge_cut_texts"]) == (1, 3)  # this model takes 40 tokens
    assert "1 of 3 sources" in caplog.text and "3 of 3 texts" in caplog.text
    shorter = Rouge(path=path, max_new_tokens=3, source_tokens=5).measure(bart, corpora).values
    assert shorter["rouge_truncated_sources"] == 2


def test_an_encoder_decoders_source_keeps_its_end_token_when_it_is_cut(bart):
    metric, tokenizer = Rouge(source_tokens=6), bart.tokenizer
    whole, is_cut = prompt_ids(metric, "abc", tokenizer, bart.config, "seq2seq_lm")
    assert not is_cut and whole == tokenizer("abc")["input_ids"]
    cut, is_cut = prompt_ids(metric, "abcdefghij", tokenizer, bart.config, "seq2seq_lm")
    assert is_cut and cut == tokenizer("abcdefghij"[: 6 - (len(whole) - 3)])["input_ids"]


def test_a_decoders_source_is_cut_within_its_prompt(tiny):
    metric = Rouge(prompt="Text: {source}\nSummary:", source_tokens=30, max_new_tokens=4)
    ids, is_cut = prompt_ids(metric, "abcdefghij" * 5, tiny.tokenizer, tiny.config, "causal_lm")
    text = tiny.tokenizer.decode(ids, skip_special_tokens=True)
    assert is_cut and len(ids) == 30
    assert text.startswith("Text: abcdef") and text.endswith("\nSummary:")


def test_a_conversation_is_written_up_to_its_answer_and_loses_its_beginning(tiny):
    turns = (("user", "a question"),)
    ids, is_cut = prompt_ids(Rouge(max_new_tokens=4), turns, tiny.tokenizer, tiny.config, "causal_lm")
    text = tiny.tokenizer.decode(ids, skip_special_tokens=True)
    assert not is_cut and text == "### User:\na question\n\n### Assistant:\n"
    short, is_cut = prompt_ids(
        Rouge(source_tokens=8, max_new_tokens=4), turns, tiny.tokenizer, tiny.config, "causal_lm"
    )
    assert is_cut and short == ids[-8:]


def test_the_protocol_tells_references_prompt_and_settings(tmp_path, corpora, bart):
    metric = Bleu(path=pair_table(tmp_path, words(5)), max_pairs=4, prompt="say: {source}", beams=2, max_new_tokens=4)
    protocol = metric.measure(bart, corpora).protocols["bleu"]
    assert (
        ":file:split=all:items=4:prompt='say: {source}':source<=model:beams=2:length_penalty=1:new<=4:tok=" in protocol
    )


def test_faults_are_known_before_weights_load(tmp_path, corpora):
    source = seq2seq("bart", tmp_path)
    path = pair_table(tmp_path, words(5))
    assert Rouge(path=path, max_new_tokens=40).faults(source, corpora) == []
    assert "takes 40 tokens" in Rouge(path=path, max_new_tokens=41).faults(source, corpora)[0]
    assert "add evaluation.metrics.rouge.path=FILE" in Rouge().faults(source, corpora)[0]
    prompt = "a long prompt before {source}"
    assert "shorten it" in Rouge(path=path, max_new_tokens=4, prompt=prompt, source_tokens=9).faults(source, corpora)[0]
    classifier = small_classifier(str(CACHE))
    assert "evaluation=classification" in Rouge(path=path).faults(classifier, corpora)[0]


def test_a_decoder_needs_room_for_prompt_and_text(tmp_path, corpora, tiny_source):
    path = pair_table(tmp_path, words(5))
    assert Rouge(path=path, max_new_tokens=100).faults(tiny_source, corpora) == []
    assert "of which its prompt needs" in Rouge(path=path, max_new_tokens=128).faults(tiny_source, corpora)[0]


def test_wrong_settings_are_told_together():
    with pytest.raises(ValueError, match="rouge.max_pairs=0.*rouge.beams=0.*rouge.prompt='x'"):
        Rouge(max_pairs=0, beams=0, prompt="x")
