import pytest
from small_stacks import encoder_decoder
from torch import nn
from transformers.pytorch_utils import Conv1D

from slimsweep.blockwise.layer_method import LayerMethod
from slimsweep.techniques.external.base import dense_faults, stack_faults
from slimsweep.techniques.external.llmcompressor import LLMCompressor
from slimsweep.techniques.external.sparseml import SparseML
from slimsweep.techniques.pruning.sparsegpt import SparseGPT


@pytest.mark.parametrize("peer", [LLMCompressor, SparseML])
def test_a_block_of_columns_loses_one_more_than_ours(peer):
    """128 and 72 of 200 columns, 10 rows: floor(0.3 x 1280) + floor(0.3 x 720), and one each."""
    assert peer(ratio=0.3).planned_zeros({"layer": (10, 200)}, {}) == {"layer": 384 + 216 + 2}
    ours = SparseGPT(ratio=0.5, pattern="2:4").planned_zeros({"layer": (10, 200)}, {})
    assert peer(ratio=0.5, pattern="2:4").planned_zeros({"layer": (10, 200)}, {}) == ours == {"layer": 1000}


@pytest.mark.parametrize("peer", [LLMCompressor, SparseML])
@pytest.mark.parametrize("knobs", [{"relative_to": "remaining"}, {"inputs": "dense"}])
def test_what_only_ours_can_is_refused(peer, knobs):
    with pytest.raises(ValueError, match=f"{peer.package} has only"):
        peer(ratio=0.5, **knobs)


@pytest.mark.parametrize("peer", [LLMCompressor, SparseML])
def test_patterns_are_told_as_what_goes(peer):
    assert peer(ratio=0.5).mask_structure == "0:0"
    assert peer(ratio=0.5, pattern="2:4").mask_structure == "2:4"
    assert peer(ratio=0.5, pattern="1:4").mask_structure == "3:4"


@pytest.mark.parametrize("peer", [LLMCompressor, SparseML])
@pytest.mark.parametrize("knobs", [{"block_columns": 0}, {"damping_fraction": 2}])
def test_bad_knobs_are_found_before_anything_loads(peer, knobs):
    with pytest.raises(ValueError, match=next(iter(knobs))):
        peer(ratio=0.5, **knobs)


@pytest.mark.parametrize("peer", [LLMCompressor, SparseML])
def test_their_own_walk_has_no_single_layer(peer):
    assert not isinstance(peer(ratio=0.5), LayerMethod)


def test_other_layers_than_torchs_are_named():
    assert dense_faults({"a": nn.Linear(2, 2)}, "peer") == []
    (fault,) = dense_faults({"a": nn.Linear(2, 2), "h.c_attn": Conv1D(2, 2)}, "peer")
    assert fault.endswith("h.c_attn, ...")


def test_a_model_of_two_stacks_is_refused(tiny, tmp_path):
    assert stack_faults(tiny, "peer") == []
    (fault,) = stack_faults(encoder_decoder("bart", tmp_path), "peer")
    assert "peer" in fault and "encoder" in fault and "technique=" in fault
