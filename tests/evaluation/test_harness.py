import pytest
import torch
from family_shapes import random_model

from slimsweep.evaluation.harness import HarnessModel

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
    ((found, _),) = HarnessModel(stories260k, 4096).loglikelihood(long, disable_tqdm=True)
    assert found == pytest.approx(expected, abs=1e-4)


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
