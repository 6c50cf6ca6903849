"""Pruners and quantizers on every decoder family: how many weights go, and how near eight bits come."""

import itertools

import pytest
import torch
from contexts import text_context
from family_shapes import DECODERS, random_model
from reductions import logits, loud
from restatements import layer_inputs, wanda_layer

from slimsweep.linear.base import packed_layers, weight_2d
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.pruning.sparsegpt import SparseGPT
from slimsweep.techniques.pruning.wanda import Wanda
from slimsweep.techniques.quantization.awq import AWQ
from slimsweep.techniques.quantization.gptq import GPTQ
from slimsweep.techniques.quantization.rtn import RTN
from slimsweep.techniques.quantization.smoothquant import SmoothQuant

IDS = torch.randint(3, 250, (3, 20), generator=torch.Generator().manual_seed(2))
QUANTIZERS = {
    "rtn": RTN(bits=8, group_size=16),
    "gptq": GPTQ(bits=8, group_size=16),
    "awq": AWQ(bits=8, group_size=16),
    "smoothquant": SmoothQuant(),
}


@pytest.mark.parametrize("pruner", [Magnitude, Wanda, SparseGPT])
@pytest.mark.parametrize("family", DECODERS)
def test_half_of_each_layer_goes(family, pruner, tmp_path):
    model = loud(family, str(tmp_path))
    dense = logits(model)
    pruner(ratio=0.5).apply(model, text_context(IDS))
    for name, layer in model.targets().items():
        weight = weight_2d(layer)
        assert int((weight == 0).sum()) == weight.numel() // 2, name
    assert logits(model).isfinite().all()
    assert not torch.allclose(logits(model), dense, rtol=1e-3)


@pytest.mark.parametrize("family", DECODERS)
def test_inputs_of_the_first_block_decide_wandas_masks(family, tmp_path):
    model = loud(family, str(tmp_path))
    first = [name for name in model.targets() if name.startswith(f"{model.block_names[0]}.")]
    inputs = layer_inputs(model.module, first, IDS)
    expected = {name: wanda_layer(weight_2d(model.targets()[name]), inputs[name], 0.5) for name in first}
    Wanda(ratio=0.5).apply(model, text_context(IDS))
    for name in first:
        assert torch.equal(weight_2d(model.targets()[name]), expected[name]), name


def test_smoothing_of_a_family_without_norms_before_its_layers_is_refused(tmp_path):
    (fault,) = SmoothQuant().faults(random_model("olmo2", str(tmp_path)).skeleton())
    assert "its inputs are made by no norm): use technique=dynamic_int8" in fault


@pytest.mark.parametrize(
    ("family", "quantizer"),
    [pair for pair in itertools.product(DECODERS, QUANTIZERS) if pair != ("olmo2", "smoothquant")],
)
def test_eight_bits_are_near_the_weights(family, quantizer, tmp_path):
    model = loud(family, str(tmp_path))
    dense = logits(model)
    assert QUANTIZERS[quantizer].faults(model) == []
    QUANTIZERS[quantizer].apply(model, text_context(IDS))
    assert packed_layers(model.module).keys() == model.targets().keys()
    error = (logits(model) - dense).norm() / dense.norm()
    assert 0 < error < 0.1
