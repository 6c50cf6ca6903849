import pytest
import torch
from torch import nn

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.evaluation import semi_structured
from slimsweep.evaluation.semi_structured import FIELD, SemiStructured, is_2_of_4, stored_sparse
from slimsweep.techniques.pruning.magnitude import Magnitude


def test_a_pattern_is_counted_in_neighbouring_inputs():
    assert is_2_of_4(torch.tensor([[1.0, 0, 0, 1, 0, 0, 0, 1]]))
    assert not is_2_of_4(torch.tensor([[1.0, 1, 0, 1, 0, 0, 0, 0]]))
    assert not is_2_of_4(torch.tensor([[0.0, 0, 0, 0, 0, 0]]))


def test_a_cpu_has_no_such_kernels_and_the_record_says_so(tiny):
    found = SemiStructured(prompt_tokens=8, repeats=1).measure(tiny, None)
    assert found.values == {FIELD: None}
    assert "compute capability 8.0" in found.reasons[FIELD]


@pytest.fixture
def with_kernels(monkeypatch):
    """As if this device had them; what is stored sparse is marked by a count."""
    made = []

    def sparse(weight):
        made.append(weight)
        return weight.clone()

    monkeypatch.setattr(SemiStructured, "has_kernels", staticmethod(lambda device: True))
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", sparse)
    return made


def test_dense_and_sparse_alternate_and_the_model_stays_as_it_was(tiny, with_kernels, monkeypatch):
    Magnitude(ratio=0.5, pattern="2:4").apply(tiny, StageContext())
    weights = {name: layer.weight for name, layer in tiny.targets().items()}
    seconds = iter([100, 100, 3, 1, 8, 4, 4, 2])  # the warm-up of both, then dense and sparse in turn
    monkeypatch.setattr(semi_structured.Speed, "prefill_seconds", lambda *_: float(next(seconds)))
    found = SemiStructured(prompt_tokens=8, repeats=3).measure(tiny, None)
    assert found.values == {FIELD: 2.0}
    assert found.protocols[FIELD] == f"prefill:1x8:medians of 3 alternating runs:{len(weights)} layers"
    assert len(with_kernels) == 4 * len(weights)
    assert all(layer.weight is weights[name] for name, layer in tiny.targets().items())


def test_a_model_without_the_pattern_says_so(tiny, with_kernels):
    assert "two of every four" in SemiStructured(repeats=1).measure(tiny, None).reasons[FIELD]


def test_what_torch_refuses_is_a_reason_and_leaves_the_weights(tiny, monkeypatch):
    Magnitude(ratio=0.5, pattern="2:4").apply(tiny, StageContext())
    monkeypatch.setattr(SemiStructured, "has_kernels", staticmethod(lambda device: True))
    first = next(iter(tiny.targets().values())).weight
    found = SemiStructured(prompt_tokens=8, repeats=1).measure(tiny, None)
    assert "torch refuses these layers" in found.reasons[FIELD]
    assert next(iter(tiny.targets().values())).weight is first


def test_an_error_inside_gives_the_weights_back(with_kernels):
    layer = nn.Linear(4, 4)
    weight = layer.weight
    with pytest.raises(KeyError), stored_sparse([layer]):
        assert layer.weight is not weight
        raise KeyError
    assert layer.weight is weight


@pytest.mark.gpu
def test_sparse_kernels_compute_what_dense_ones_do():
    layer = nn.Linear(256, 256, bias=False, device="cuda", dtype=torch.float16)
    with torch.no_grad():
        layer.weight.view(-1, 4)[:, :2] = 0
    inputs = torch.randn(64, 256, device="cuda", dtype=torch.float16)
    expected = layer(inputs)
    with stored_sparse([layer]):
        assert torch.allclose(layer(inputs), expected, rtol=1e-2, atol=1e-2)
