import math

import pytest
import torch
from family_shapes import random_model
from templated import with_template

from slimsweep.errors import TaskError
from slimsweep.evaluation.harness import HarnessModel, decoding_of
from slimsweep.models.generation import Decoding

CPU = torch.device("cpu")


class Request:
    """What the harness passes to a model: a context and its continuation."""

    def __init__(self, *args: str):
        self.args = args


REQUESTS = [
    Request("Once upon a time, there was a", " little girl named Lily."),
    Request("Once upon a time, there was a", " big"),
    Request("She loved to play", " outside"),
    Request("", "The end."),
    Request("trailing space ", "word"),
]


@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
def test_equals_the_harness_own_model_class(stories260k, batch_tokens):
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=stories260k.module, tokenizer=stories260k.tokenizer, batch_size=2)
    expected = theirs.loglikelihood(REQUESTS, disable_tqdm=True)
    found = HarnessModel(stories260k, batch_tokens).loglikelihood(REQUESTS, disable_tqdm=True)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


def test_equals_it_for_a_family_with_bounded_logits(tmp_path):
    from lm_eval.models.huggingface import HFLM

    model = random_model("gemma2", str(tmp_path)).load(torch.float32, CPU)
    theirs = HFLM(pretrained=model.module, tokenizer=model.tokenizer, batch_size=1)
    expected = theirs.loglikelihood(REQUESTS[:2], disable_tqdm=True)
    found = HarnessModel(model, 512).loglikelihood(REQUESTS[:2], disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


def test_a_context_longer_than_the_model_keeps_its_end(stories260k):
    from lm_eval.models.huggingface import HFLM

    long = [Request("once " * 400 + "upon a time there was", " a girl")]
    theirs = HFLM(pretrained=stories260k.module, tokenizer=stories260k.tokenizer, batch_size=1)
    ((expected, _),) = theirs.loglikelihood(long, disable_tqdm=True)
    lm = HarnessModel(stories260k, 4096)
    ((found, _),) = lm.loglikelihood(long, disable_tqdm=True)
    assert found == pytest.approx(expected, abs=1e-4)
    lm.loglikelihood([REQUESTS[0], Request(long[0].args[0], " boy")])
    assert lm.truncated_prompts == 2  # one of each call, and one of two choices


def test_choices_of_one_token_share_a_forward(tiny):
    shapes = []
    tiny.module.base_model.register_forward_pre_hook(
        lambda _, args, fields: shapes.append(tuple(fields["input_ids"].shape)), with_kwargs=True
    )
    pairs = [(("c", "a"), [1, 2, 3], [4]), (("c", "b"), [1, 2, 3], [5]), (("c", "d"), [1, 2, 3], [4, 6])]
    (four, _), (five, _), (four_six, _) = HarnessModel(tiny, 1)._loglikelihood_tokens(pairs)
    assert shapes == [(1, 4), (1, 3)]
    assert four != five
    assert four_six < four


def test_batches_hold_at_most_batch_tokens_padding_included(tiny):
    inputs = [tuple(range(length)) for length in (6, 5, 4, 2, 1)]
    assert [len(batch) for batch in HarnessModel(tiny, 12)._batches(inputs)] == [2, 3]


@pytest.mark.parametrize("prefix", ["", "<s> ", "<s> <s> "])
@pytest.mark.parametrize("closing", [" </s>", " </s> <s>"])
def test_special_tokens_after_a_text_change_no_likelihood(prefix, closing, tiny):
    plain, closed = (with_template(tiny.tokenizer, f"{prefix}$A{end}") for end in ("", closing))
    assert len(closed.encode("a")) == len(plain.encode("a")) + len(closing.split())
    tiny.tokenizer = plain
    expected = HarnessModel(tiny, 512).loglikelihood(REQUESTS, disable_tqdm=True)
    tiny.tokenizer = closed
    assert HarnessModel(tiny, 512).loglikelihood(REQUESTS, disable_tqdm=True) == expected
    assert all(score < 0 for score, _ in expected)


WRITTEN = [
    Request("Once upon a time, there was a", {"until": ["."], "max_gen_toks": 24}),
    Request("Lily and her mom went to the park", {"until": ["\n\n", " and"], "max_gen_toks": 24}),
    Request("The dog", {"until": ["."], "max_gen_toks": 24, "do_sample": False, "temperature": 0.0}),
    Request("once " * 500 + "upon a time", {"until": [], "max_gen_toks": 8}),  # loses its beginning
]


def test_generated_texts_equal_the_harness_own_model_class(stories260k):
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=stories260k.module, tokenizer=stories260k.tokenizer, batch_size=1)
    expected = theirs.generate_until(WRITTEN, disable_tqdm=True)
    lm = HarnessModel(stories260k, 512)
    assert lm.generate_until(WRITTEN) == expected and all(expected)
    assert 1 <= lm.cut_texts <= 4
    assert lm.truncated_prompts == 1


def test_settings_of_generation_that_are_not_known_are_refused():
    assert decoding_of({"until": "a"}) == Decoding(max_new_tokens=256, stops=("a",))
    drawn = decoding_of({"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_gen_toks": 3}, ("</s>",))
    assert drawn == Decoding(max_new_tokens=3, temperature=0.7, top_p=0.9, stops=("</s>",))
    with pytest.raises(TaskError, match="repetition_penalty; known are until"):
        decoding_of({"repetition_penalty": 1.2})


def merging_tokenizer():
    """Letters, of which `b` and `c` merge into the `A` before them."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<s>": 0, "A": 1, "b": 2, "c": 3, "x": 4, "Ab": 5, "Abc": 6}
    merges = [("A", "b"), ("Ab", "c")]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, merges)), bos_token="<s>")


def test_an_answer_that_merges_into_its_prompt_is_scored_with_what_it_merged_into(tiny):
    tiny.tokenizer = merging_tokenizer()
    lm = HarnessModel(tiny, 512)
    assert lm._encode_pair("xA", "b") == ([4], [5])
    assert lm._encode_pair("xAb", "c") == ([4], [6])
    assert lm._encode_pair("A", "b") == ([0], [5])  # nothing is left of the prompt: the beginning token stands for it
    assert lm._encode_pair("xA", "x") == ([4, 1], [4])
    ((found, _),) = lm.loglikelihood([Request("xA", "b")], disable_tqdm=True)
    logits = tiny.module(input_ids=torch.tensor([[4]])).logits[0, -1]
    assert found == pytest.approx(float(logits.log_softmax(dim=-1)[5]), abs=1e-5)


def test_an_answer_without_tokens_is_never_the_best(tiny):
    lm = HarnessModel(tiny, 512)
    (empty, is_greedy), (worst, _) = lm.loglikelihood([Request("prompt", ""), Request("prompt", "x" * 60)])
    assert (empty, is_greedy) == (-math.inf, False)
    assert math.isfinite(worst) and worst < -100
    assert lm._loglikelihood_tokens([(("", ""), [256], [])]) == [(-math.inf, False)]
