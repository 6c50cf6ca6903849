import pytest
import torch

from slimsweep.techniques.pruning.sparsegpt import SparseGPT
from slimsweep.techniques.quantization.gptq import GPTQ

METHODS = [lambda **knobs: SparseGPT(ratio=0.5, **knobs), GPTQ]


def drawn_gram(width: int = 12) -> torch.Tensor:
    inputs = torch.randn(40, width, generator=torch.Generator().manual_seed(0))
    return inputs.T @ inputs


@pytest.mark.parametrize("method", METHODS)
def test_the_statistic_is_the_gram_matrix_of_the_inputs(method):
    inputs = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(method().statistic(inputs), inputs.T @ inputs, atol=1e-5)
    assert method().requirements.calibration and method().statistic_name == "gram"


@pytest.mark.parametrize("method", METHODS)
def test_what_is_prepared_comes_back_from_a_file(method):
    technique = method()
    prepared = technique.prepare(drawn_gram())
    again = technique.from_tensors(technique.to_tensors(prepared))
    for name, tensor in technique.to_tensors(prepared).items():
        assert torch.equal(technique.to_tensors(again)[name], tensor), name
    assert again.damping_fraction == prepared.damping_fraction == 0.01


@pytest.mark.parametrize("method", METHODS)
def test_factors_of_another_damping_have_another_name(method):
    names = {method(damping_fraction=fraction).prepared_name for fraction in (0.01, 0.1, 1)}
    assert len(names) == 3


def test_factors_in_another_order_have_another_name():
    assert SparseGPT(ratio=0.5).prepared_name == GPTQ(act_order=False).prepared_name != GPTQ().prepared_name


@pytest.mark.parametrize("method", METHODS)
def test_a_damping_that_had_to_be_raised_is_noted(method):
    technique = method()
    indefinite = torch.diag(torch.tensor([1.0, 1.0])) + torch.tensor([[0.0, 1.05], [1.05, 0.0]])  # lowest root -0.05
    assert technique.notes(technique.prepare(indefinite)) == {"damping_raised": pytest.approx(0.1)}
    assert technique.notes(technique.prepare(drawn_gram())) == {}


@pytest.mark.parametrize("method", METHODS)
def test_bad_knobs_of_a_solve_are_named(method):
    with pytest.raises(ValueError, match="block_columns=0: .*; damping_fraction=2: give"):
        method(block_columns=0, damping_fraction=2)
