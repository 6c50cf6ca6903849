import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from slimsweep.data.corpora import Corpora
from slimsweep.errors import MetricError
from slimsweep.evaluation.base import Base
from slimsweep.evaluation.base_logits import CHECKED_PLACES
from slimsweep.evaluation.fidelity import Fidelity, perplexity_change
from slimsweep.evaluation.perplexity import Perplexity

CPU = torch.device("cpu")
TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 20


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    (tmp_path / "mine.txt").write_text(TEXT)
    return Corpora(tmp_path, tmp_path)


def metric(tmp_path, **fields) -> Fidelity:
    given = {"context_tokens": 32, "max_windows": 6, "batch_tokens": 64} | fields
    return Fidelity(corpora=({"name": "mine", "path": str(tmp_path / "mine.txt")},), **given)


def base_of(model, tmp_path, loads=None) -> Base:
    def load():
        if loads is not None:
            loads.append(1)
        return model

    return Base(tmp_path / "bases" / "key", load, model.tokenizer)


def measured(asked, model, corpora, base) -> dict:
    asked.keep_base(corpora, base)
    return asked.measure(model, corpora, base).values


def disturbed(model, size=0.05):
    other = model.copy()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in other.targets().values():
            layer.weight += size * torch.randn(layer.weight.shape, generator=generator)
    return other


def directly(base, model, windows) -> dict[str, float]:
    """The definitions, from whole logits in fp64."""
    with torch.no_grad():
        p, q = (one.module(windows).logits[:, :-1].double().flatten(0, 1) for one in (base, model))
    log_p, log_q = p.log_softmax(1), q.log_softmax(1)
    kl = (log_p.exp() * (log_p - log_q)).sum(1)
    targets = windows[:, 1:].flatten()[:, None]
    perplexities = [math.exp(-log.gather(1, targets).mean()) for log in (log_p, log_q)]
    return {
        "kl_mine": kl.mean().item(),
        "kl_median_mine": float(np.median(kl)),
        "kl_p99_mine": float(np.quantile(kl, 0.99)),
        "kl_max_mine": kl.max().item(),
        "top_agreement_mine": (p.argmax(1) == q.argmax(1)).double().mean().item(),
        "perplexity_change_mine": perplexities[1] - perplexities[0],
    }


def test_equals_a_direct_computation_from_two_models_whole_logits(tiny, tmp_path, corpora):
    other, asked = disturbed(tiny, 0.01), metric(tmp_path)
    found = measured(asked, other, corpora, base_of(tiny, tmp_path))
    windows = corpora.token_ids(asked.corpora[0], tiny.tokenizer).split(32)[:6]
    expected = directly(tiny, other, torch.stack(windows))
    assert expected["kl_mine"] > 1e-5 and 0 < expected["top_agreement_mine"] < 1
    for field, value in expected.items():
        assert found[field] == pytest.approx(value, rel=2e-4, abs=2e-6), field
    assert found["kl_missing_mine"] == 0


def test_equals_it_on_two_saved_trained_models(stories260k, stories260k_source, tmp_path, corpora):
    from slimsweep.models.sources.local import LocalModel
    from slimsweep.models.storage.saved_model import save

    save(disturbed(stories260k, 0.02), tmp_path / "other")
    other = LocalModel(path=str(tmp_path / "other"), cache_dir=str(tmp_path)).load(torch.float32, CPU)
    asked = metric(tmp_path, context_tokens=64, max_windows=5)
    found = measured(asked, other, corpora, base_of(stories260k, tmp_path))
    windows = corpora.token_ids(asked.corpora[0], stories260k.tokenizer).split(64)[:5]
    expected = directly(stories260k, other, torch.stack(windows))
    for field, value in expected.items():
        assert found[field] == pytest.approx(value, rel=1e-3, abs=1e-6), field


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_beside_itself_has_no_divergence_whatever_the_batch(tiny_source, tmp_path, corpora, dtype):
    model = tiny_source.load(dtype, CPU)
    base = base_of(model, tmp_path)
    metric(tmp_path, batch_tokens=32).keep_base(corpora, base)
    found = metric(tmp_path, batch_tokens=10**6).measure(model, corpora, base).values
    assert found["kl_max_mine"] < (1e-6 if dtype == torch.float32 else 1e-4)
    assert found["top_agreement_mine"] == pytest.approx(1, abs=0 if dtype == torch.float32 else 0.02)
    assert found["perplexity_change_mine"] == pytest.approx(0, abs=0.5 if dtype == torch.bfloat16 else 1e-3)


def test_fewer_tokens_give_less_and_tell_what_is_missing(tiny, tmp_path, corpora):
    other = disturbed(tiny, 0.3)
    whole = measured(metric(tmp_path), other, corpora, base_of(tiny, tmp_path))
    few = measured(metric(tmp_path, top_tokens=64), other, corpora, base_of(tiny, tmp_path))
    assert CHECKED_PLACES < 6 * 31  # not every place is checked
    assert 0.2 * whole["kl_max_mine"] < few["kl_max_mine"] < whole["kl_max_mine"]
    assert 0.1 * whole["kl_mine"] < few["kl_missing_mine"] < whole["kl_mine"]
    assert few["kl_mine"] == pytest.approx(whole["kl_mine"], abs=3 * few["kl_missing_stderr_mine"])
    assert 0 < few["kl_missing_stderr_mine"] < 0.1 * whole["kl_mine"] and whole["kl_missing_stderr_mine"] == 0
    assert few["top_agreement_mine"] == whole["top_agreement_mine"]


def test_the_base_is_scored_once_for_all_models(tiny, tmp_path, corpora):
    loads = []
    base, asked = base_of(tiny, tmp_path, loads), metric(tmp_path)
    for model in (disturbed(tiny), tiny):
        measured(asked, model, corpora, base)
    assert len(loads) == 1
    asked.keep_base(Corpora(tmp_path, tmp_path), base)
    assert len(loads) == 1
    measured(metric(tmp_path, max_windows=5), tiny, corpora, base)
    assert len(loads) == 2


def test_reading_along_gives_both_what_they_measure_alone(tiny, tmp_path, corpora):
    other, asked, base = disturbed(tiny, 0.2), metric(tmp_path), base_of(tiny, tmp_path)
    alone = measured(asked, other, corpora, base)
    carrier, reader = asked.carrier(), asked.reader(other, corpora, base)
    assert isinstance(carrier, Perplexity) and carrier.batch_tokens == 64
    perplexity = carrier.measure(other, corpora, [reader])
    before = carrier.measure(other, corpora)
    along = reader.result().values
    timed = {"evaluate_seconds_mine", "fidelity_seconds_mine"}
    assert {name: value for name, value in along.items() if name not in timed} == {
        name: value for name, value in alone.items() if name not in timed
    }
    assert perplexity.values["perplexity_mine"] == before.values["perplexity_mine"]


def test_windows_keep_what_each_contributed(tiny, tmp_path, corpora):
    base, asked = base_of(tiny, tmp_path), metric(tmp_path)
    asked.keep_base(corpora, base)
    found = asked.measure(disturbed(tiny, 0.2), corpora, base)
    for field in ("kl_mine", "top_agreement_mine"):
        assert found.outcomes[field].score() == pytest.approx(found.values[field], rel=1e-9)
        assert found.outcomes[field].values.shape == (6, 2)
    perplexity = asked.carrier().measure(tiny, corpora)
    assert found.outcomes["kl_mine"].items == perplexity.outcomes["perplexity_mine"].items


def test_the_change_of_perplexity_has_a_paired_error_over_windows():
    base = np.log(np.array([[2.0, 2.0], [4.0, 4.0], [8.0, 8.0]])).ravel()
    assert perplexity_change(base, base, 3) == (0.0, 0.0)
    change, error = perplexity_change(base, base + math.log(2), 3)  # perplexity 4 becomes 8
    assert change == pytest.approx(4)
    parts = 8 * (np.log([2, 4, 8]) + math.log(2)) - 4 * np.log([2, 4, 8])
    assert error == pytest.approx(np.std(parts, ddof=1) / math.sqrt(3))
    assert perplexity_change(base, base, 1) == (0.0, None)


def test_logits_that_are_not_finite_have_a_reason(tiny, tmp_path, corpora):
    other, base, asked = tiny.copy(), base_of(tiny, tmp_path), metric(tmp_path)
    asked.keep_base(corpora, base)
    other.module.lm_head.weight = torch.nn.Parameter(torch.full_like(other.module.lm_head.weight, math.nan))
    found = asked.measure(other, corpora, base)
    assert found.values["kl_mine"] is None and "not finite" in found.reasons["kl_mine"]
    assert found.values["top_agreement_mine"] is None


def test_another_vocabulary_is_refused(tiny, tmp_path, corpora, monkeypatch):
    asked, base, logits = metric(tmp_path), base_of(tiny, tmp_path), tiny.logits
    asked.keep_base(corpora, base)
    monkeypatch.setattr(tiny, "logits", lambda hidden: torch.cat([logits(hidden)] * 2, dim=-1))
    with pytest.raises(MetricError, match="516 tokens and its base 258"):
        asked.measure(tiny, corpora, base)


def test_faults_are_those_of_perplexity(tiny_source, tmp_path, corpora):
    (fault,) = metric(tmp_path, context_tokens=512).faults(tiny_source, corpora)
    assert "this model takes 128" in fault
    with pytest.raises(ValueError, match="top_tokens=0"):
        metric(tmp_path, top_tokens=0)
    assert replace(metric(tmp_path), top_tokens=8).parts()[0].top_tokens == 8
