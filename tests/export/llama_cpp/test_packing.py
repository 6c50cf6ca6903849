import gguf
import numpy as np
import pytest
import torch

from slimsweep.export.llama_cpp import packing
from slimsweep.export.llama_cpp.packing import MIXTURES, missing_packer, packed, row_bytes, tensor_type


def error(values, kind, importance=None):
    """Mean squared error of packed values, weighed by importance."""
    rows = packed(values, kind, importance)
    back = torch.from_numpy(gguf.dequantize(rows.view(np.uint8), gguf.GGMLQuantizationType[kind]))
    weight = 1 if importance is None else importance / importance.mean()
    return float(((back - values).square() * weight).mean())


@pytest.mark.parametrize(
    ("kind", "largest"), [("F32", 0), ("F16", 1e-6), ("Q8_0", 1e-4), ("Q5_0", 6e-3), ("Q4_0", 2e-2)]
)
def test_packed_values_come_back(kind, largest):
    values = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    assert packed(values, kind).nbytes == 4 * row_bytes(kind, 256)
    assert error(values, kind) <= largest


@pytest.mark.parametrize(("kind", "largest"), [("Q4_K", 7e-3), ("Q6_K", 5e-4)])
def test_k_quants_come_back_with_less_error_than_blocks_of_32(kind, largest):
    pytest.importorskip("auto_round")
    values = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    assert packed(values, kind).nbytes == 64 * row_bytes(kind, 512)
    assert error(values, kind) <= largest < error(values, "Q4_0")


def test_importance_lowers_the_error_where_it_is_high():
    pytest.importorskip("auto_round")
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(64, 512, generator=generator)
    importance = torch.rand(512, generator=generator) ** 4 + 1e-3
    plain = packed(values, "Q4_K")
    back = torch.from_numpy(gguf.dequantize(plain, gguf.GGMLQuantizationType.Q4_K))
    unweighted = float(((back - values).square() * importance / importance.mean()).mean())
    assert error(values, "Q4_K", importance) < 0.95 * unweighted


def test_strips_of_rows_change_nothing(monkeypatch):
    values = torch.randn(10, 64)
    whole = packed(values, "Q4_0")
    monkeypatch.setattr(packing, "ROWS_AT_ONCE", 3 * 64)
    assert np.array_equal(packed(values, "Q4_0"), whole)


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("blk.0.attn_norm.weight", (512,), "F32"),
        ("blk.0.attn_q.weight", (512, 512), "Q4_K"),
        ("blk.0.attn_v.weight", (512, 512), "Q6_K"),  # first eighth of 16 blocks
        ("blk.2.attn_v.weight", (512, 512), "Q4_K"),
        ("blk.4.ffn_down.weight", (512, 1024), "Q6_K"),  # (4 - 2) % 3 == 2
        ("blk.3.ffn_down.weight", (512, 1024), "Q4_K"),
        ("blk.15.ffn_down.weight", (512, 1024), "Q6_K"),  # last eighth
        ("token_embd.weight", (1000, 512), "Q6_K"),
        ("blk.0.attn_q.weight", (512, 576), "Q5_0"),
        ("blk.0.attn_v.weight", (512, 576), "Q8_0"),
        ("blk.0.ffn_down.weight", (512, 172), "F16"),
    ],
)
def test_types_of_q4_k_m(name, shape, kind):
    assert tensor_type(MIXTURES["Q4_K_M"], name, shape, blocks=16, is_tied=True) == kind


def test_embeddings_that_are_no_head_are_packed_like_most():
    assert tensor_type(MIXTURES["Q4_K_M"], "token_embd.weight", (1000, 512), blocks=16, is_tied=False) == "Q4_K"
    assert tensor_type(MIXTURES["Q4_K_M"], "output.weight", (1000, 512), blocks=16, is_tied=False) == "Q6_K"


def test_file_types_are_those_of_the_package():
    for name, mixture in MIXTURES.items():
        known = gguf.LlamaFileType(mixture.number).name
        assert known in (f"MOSTLY_{name}", f"ALL_{name}")


def test_a_missing_packer_is_named(monkeypatch):
    assert missing_packer({"a": "Q8_0"}) is None
    monkeypatch.setattr(packing.importlib.util, "find_spec", lambda name: None)
    assert "auto-round" in missing_packer({"a": "Q4_K"})
