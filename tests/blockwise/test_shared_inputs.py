import threading

import pytest
import torch

from slimsweep.blockwise.activations import InputSum
from slimsweep.blockwise.shared_inputs import Prepared, refuse_inputs
from slimsweep.errors import HessianError, ModelError
from slimsweep.techniques.pruning.sparsegpt import SparseGPT


def test_a_hessian_that_fails_is_tried_once_whoever_asks(monkeypatch):
    tried = []

    def prepare(_self, summed):
        tried.append(summed)
        raise HessianError("no")

    monkeypatch.setattr(SparseGPT, "prepare", prepare)
    prepared = Prepared(SparseGPT(ratio=0.5), InputSum(["q", "k"], torch.eye(2)))
    for _ in range(2):
        with pytest.raises(HessianError, match="Hessian of q, k: no. Use more calibration text"):
            prepared()
    assert len(tried) == 1


def test_layers_that_ask_at_once_get_the_same_prepared_once(monkeypatch):
    made, is_asked = [], threading.Barrier(3)

    def prepare(_self, summed):
        made.append(object())
        return made[-1]

    monkeypatch.setattr(SparseGPT, "prepare", prepare)
    prepared, found = Prepared(SparseGPT(ratio=0.5), InputSum(["q", "k", "v"], torch.eye(2))), []

    def ask():
        is_asked.wait()
        found.append(prepared())

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == made * 3


def test_the_sum_is_taken_so_that_it_can_be_freed():
    shared = InputSum(["q"], torch.eye(3))
    prepared = Prepared(SparseGPT(ratio=0.5), shared)
    assert shared.summed is None and prepared.numbers == 9
    assert prepared().upper.shape == (3, 3) and prepared.numbers == 9


def test_without_a_sum_there_is_nothing_to_prepare():
    prepared = Prepared(SparseGPT(ratio=0.5), InputSum(["q"], None))
    assert prepared() is None and prepared.numbers == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_sums_that_are_not_finite_name_the_layers(bad):
    refuse_inputs(InputSum(["q", "k"], torch.tensor([1.0, 3e38])))
    refuse_inputs(InputSum(["q", "k"], None))
    with pytest.raises(ModelError, match="inputs of q, k are not finite"):
        refuse_inputs(InputSum(["q", "k"], torch.tensor([1.0, bad, 2.0])))
