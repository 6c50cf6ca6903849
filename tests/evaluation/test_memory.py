from pathlib import Path

import pytest
import torch
from family_shapes import random_model
from torch import nn

from slimsweep.evaluation import memory
from slimsweep.evaluation.memory import Memory, load_memory_bytes

MIB = 2**20


def rise_of(model, held: int) -> int:
    """Measured rise of a forward that holds `held` bytes and a copy four times as large, and nothing afterwards."""
    model.hidden_states = lambda token_ids: torch.ones(held, dtype=torch.uint8).float().sum()
    model.logits = lambda hidden: hidden
    values = Memory().measure(model, None).values
    return values["peak_memory_bytes"] - values["load_memory_bytes"]


def test_distinct_storages_count_once():
    module = nn.Module()
    module.a, module.b = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
    assert load_memory_bytes(module) == 2 * 6 * 4
    module.b.weight = module.a.weight
    assert load_memory_bytes(module) == 6 * 4
    module.register_buffer("scale", torch.zeros(5, dtype=torch.float64))
    assert load_memory_bytes(module) == 6 * 4 + 5 * 8


def test_real_weights_take_four_bytes_a_parameter(stories260k):
    buffers = sum(buffer.numel() * 4 for buffer in stories260k.module.buffers())
    assert load_memory_bytes(stories260k.module) == 260_032 * 4 + buffers
    assert load_memory_bytes(stories260k.module.bfloat16()) == 260_032 * 2 + buffers // 2


@pytest.mark.parametrize("held", [20 * MIB, 40 * MIB])
def test_the_peak_rises_by_what_a_forward_holds(tiny, held):
    assert rise_of(tiny, held) == pytest.approx(5 * held, rel=0.1)


def test_an_earlier_higher_peak_is_forgotten(tiny):
    torch.ones(200 * MIB, dtype=torch.uint8)
    assert rise_of(tiny, 2 * MIB) < 30 * MIB


def test_memory_freed_before_does_not_hide_the_rise(tiny):
    ballast = [torch.ones(64 * 1024, dtype=torch.uint8) for _ in range(800)]  # small pieces stay in the heap
    ballast.clear()
    assert 39 * MIB < rise_of(tiny, 8 * MIB) < 41 * MIB


def test_the_forward_is_no_longer_than_the_model_takes(tiny):
    measurement = Memory(tokens=512).measure(tiny, None)
    assert measurement.protocols["peak_memory_bytes"] == "forward:1x128:resident"
    assert measurement.values["peak_memory_bytes"] > measurement.values["load_memory_bytes"] - 1


def test_a_classifier_is_measured_too(tmp_path):
    model = random_model("distilbert", str(tmp_path)).load(torch.float32, torch.device("cpu"))
    assert Memory(tokens=16).measure(model, None).values["load_memory_bytes"] > 0


def test_a_system_without_the_counter_gives_null_with_a_reason(tiny, monkeypatch):
    monkeypatch.setattr(memory, "CLEAR_REFS", Path("/proc/no/such/file"))
    measurement = Memory(tokens=8).measure(tiny, None)
    assert measurement.values["peak_memory_bytes"] is None
    assert "cannot be read on this system" in measurement.reasons["peak_memory_bytes"]
    assert measurement.values["load_memory_bytes"] == load_memory_bytes(tiny.module)


def test_bad_tokens_are_named():
    with pytest.raises(ValueError, match="evaluation.memory_tokens=0"):
        Memory(tokens=0)


@pytest.mark.gpu
def test_a_gpu_counts_its_own_memory(stories260k_source):
    model = stories260k_source.load(torch.float32, torch.device("cuda:0"))
    measurement = Memory(tokens=256).measure(model, None)
    rise = measurement.values["peak_memory_bytes"] - measurement.values["load_memory_bytes"]
    assert measurement.protocols["peak_memory_bytes"] == "forward:1x256:cuda"
    assert 256 * 512 * 4 <= rise < 64 * MIB  # at least the logits
    assert Memory(tokens=256).measure(model, None).values == measurement.values
