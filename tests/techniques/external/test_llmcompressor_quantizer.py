import pytest
import torch
from contexts import text_context

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.base import packed_layers, weight_2d
from slimsweep.techniques.external.llmcompressor_quantizer import LLMCompressorQuantizer
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.awq import AWQ
from slimsweep.techniques.quantization.gptq import GPTQ
from slimsweep.techniques.quantization.rtn import RTN


def token_ids(vocabulary: int = 258):
    return torch.randint(vocabulary, (8, 128), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize(("grid", "group_size"), [("asymmetric", 8), ("symmetric", None)])
def test_its_codes_are_stored_packed(tiny, method, grid, group_size):
    technique = LLMCompressorQuantizer(method=method, grid=grid, group_size=group_size)
    report = technique.apply(tiny, text_context(token_ids()))
    packed = packed_layers(tiny.module)
    assert list(packed) == list(tiny.targets())
    for layer in packed.values():
        kind, settings = technique.form((layer.out_features, layer.in_features))
        assert isinstance(layer, kind)
        assert layer.settings == settings
    # bf16 scales are within 2^-9 of its fp32 ones, and the largest level is 15 steps from the other end.
    assert report.notes["packing_error"]["largest"] < (0.12 if method == "awq" else 0.004)
    assert tiny.module(token_ids()[:1]).logits.isfinite().all()


def test_zeros_stay_zeros(tiny):
    Magnitude(ratio=0.5).apply(tiny, StageContext())
    zeros = {name: weight_2d(layer) == 0 for name, layer in tiny.targets().items()}
    LLMCompressorQuantizer(group_size=8).apply(tiny, text_context(token_ids()))
    assert all((weight_2d(layer)[zeros[name]] == 0).all() for name, layer in tiny.targets().items())


@pytest.mark.parametrize(("method", "ours"), [("gptq", GPTQ), ("awq", AWQ)])
def test_it_lies_as_near_as_ours_on_a_trained_model(method, ours, shared, stories260k_source):
    """Same grids, same text: outputs of both are nearer to the dense model's than those of rounding."""
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:20_000]
    dense = stories260k_source.load(torch.float32, torch.device("cpu"))
    ids = torch.tensor(dense.tokenizer(text)["input_ids"][: 8 * 128]).view(8, 128)
    wanted = dense.module(ids).logits.log_softmax(-1)

    def distance(technique) -> float:
        model = stories260k_source.load(torch.float32, torch.device("cpu"))
        technique.apply(model, text_context(ids))
        found = model.module(ids).logits.log_softmax(-1)
        return float((wanted.exp() * (wanted - found)).sum(-1).mean())

    theirs = distance(LLMCompressorQuantizer(method=method, bits=3, group_size=4))
    assert theirs < distance(RTN(bits=3, group_size=4))
    assert 0.5 < theirs / distance(ours(bits=3, group_size=4)) < 2


@pytest.mark.parametrize(
    ("knobs", "word"),
    [({"method": "rtn"}, "method='rtn'"), ({"grid": "minimum"}, "grid='minimum'"), ({"inputs": "dense"}, "inputs=")],
)
def test_what_it_cannot_do_is_refused(knobs, word):
    with pytest.raises(ValueError, match=word):
        LLMCompressorQuantizer(**knobs)
