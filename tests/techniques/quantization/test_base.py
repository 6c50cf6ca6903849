import pytest
import torch
from planning import apply_or_plan

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.evaluation.size import Size
from slimsweep.linear.base import packed_layers
from slimsweep.numerics.uniform_grid import GRIDS
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.base import bits_per_weight, grid_faults, group_faults
from slimsweep.techniques.quantization.rtn import RTN

BYTES = ("parameters", "weight_bytes", "bits_per_weight", "checkpoint_bytes", "compression_factor", "bitmap_bytes")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("group_size", [None, 16, 1])
def test_the_plan_on_shapes_alone_has_the_bytes_of_real_weights(bits, grid, group_size, tiny, tiny_source):
    meta, technique = tiny_source.skeleton().copy(), RTN(bits=bits, grid=grid, group_size=group_size)
    planned, real = technique.plan(meta), technique.apply(tiny, StageContext())
    assert planned.notes["bits_per_weight"] == real.notes["bits_per_weight"]
    sizes = [Size().measure(model, None).values for model in (meta, tiny)]
    for field in BYTES[:-1]:  # what a bitmap would take depends on weights that are rounded to zero
        assert sizes[0][field] == sizes[1][field], field


def test_a_chain_is_planned_as_it_is_stored(tiny, tiny_source):
    meta = tiny_source.skeleton().copy()
    for model in (meta, tiny):
        apply_or_plan(Magnitude(ratio=0.5), model)
        apply_or_plan(RTN(bits=8, group_size=16), model)
        apply_or_plan(RTN(bits=3, exclude=["*.mlp.*"], group_size=None), model)
    sizes = [Size().measure(model, None).values for model in (meta, tiny)]
    for field in BYTES[:-1]:
        assert sizes[0][field] == sizes[1][field], field
    assert sizes[0]["sparsity"] == 0.5 <= sizes[1]["sparsity"]


def test_a_group_as_wide_as_a_layer_is_one_scale_a_row(tiny, tiny_source):
    meta, technique = tiny_source.skeleton().copy(), RTN(group_size=48, include=["*.down_proj"])
    technique.plan(meta), technique.apply(tiny, StageContext())
    for model in (meta, tiny):
        assert {layer.settings["group_size"] for layer in packed_layers(model.module).values()} == {None}


def test_only_what_is_included_is_packed_and_reported(tiny):
    report = RTN(bits=4, include=["*.mlp.*"], exclude=["*.1.*"], group_size=None).apply(tiny, StageContext())
    names = [f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")]
    assert sorted(packed_layers(tiny.module)) == sorted(names) == sorted(layer.name for layer in report.layers)


def test_bits_per_weight_are_weighed_by_size():
    small, large = (
        RTN(bits=8, group_size=None).compress_layer(torch.randn(8, 8)),
        RTN(bits=2, group_size=None).compress_layer(torch.randn(8, 1024)),
    )
    # Codes, a scale of 2 bytes a row, zero-points in words, 16 bytes of shape.
    stored = (64 + 16 + 8 + 16) + (8 * 256 + 16 + 4 + 16)
    assert bits_per_weight([small, large]) == pytest.approx(8 * stored / (64 + 8192))


def test_every_layer_a_group_does_not_fit_is_named_with_the_nearest_size_that_does(tiny_source):
    skeleton = tiny_source.skeleton()
    [fault] = RTN(group_size=32).faults(skeleton)  # widths are 32 and, of down_proj, 48
    assert fault.startswith("group_size=32 does not divide the input width of ")
    assert "model.layers.0-1.mlp.down_proj (48)" in fault  # of both blocks
    assert fault.count("_proj (") == 1
    assert "The nearest size that divides every width is 16: set group_size=16, or group_size=null" in fault
    assert RTN(group_size=32, exclude=["*.down_proj"]).faults(skeleton) == []
    assert RTN(group_size=16).faults(skeleton) == RTN(group_size=None).faults(skeleton) == []


def test_a_size_of_no_power_of_two_may_be_the_nearest():
    layers = {name: torch.nn.Linear(width, 4) for name, width in (("a", 172), ("b", 43), ("c", 86))}
    [fault] = group_faults(layers, 64, knob="block_size")
    assert "block_size=64 does not divide the input width of a (172), b (43), c (86)" in fault
    assert "every width is 43: set block_size=43" in fault
    assert group_faults(layers, None) == group_faults(layers, 43) == []


def test_smollm2_takes_64_and_not_128():
    widths = {"q": torch.nn.Linear(576, 4, device="meta"), "down": torch.nn.Linear(1536, 4, device="meta")}
    [fault] = group_faults(widths, 128)
    assert "q (576)" in fault and "down" not in fault and "is 96: set group_size=96" in fault
    assert group_faults(widths, 64) == []


@pytest.mark.parametrize("bits", [0, 1, 5, 16, True, "4", 4.5, None])
def test_bits_that_are_not_offered(bits):
    [fault] = grid_faults(bits, None, "symmetric")
    assert fault.startswith(f"bits={bits!r}") and "2, 3, 4 or 8" in fault


@pytest.mark.parametrize("group_size", [0, -1, True, "64", 64.0])
def test_groups_that_are_no_count(group_size):
    [fault] = grid_faults(4, group_size, "symmetric")
    assert fault.startswith(f"group_size={group_size!r}") and "null" in fault


def test_faults_of_knobs_come_together():
    with pytest.raises(ValueError) as caught:
        RTN(bits=5, group_size=0, grid="round", inputs="mine")
    for part in ("bits=5", "group_size=0", "grid='round': give symmetric, asymmetric or minimum", "inputs='mine'"):
        assert part in str(caught.value)


@pytest.mark.parametrize("bits", [4.0, True, "4", 5])
def test_bits_are_whole_numbers_of_the_list(bits):
    assert grid_faults(bits, None, "asymmetric") == [f"bits={bits!r}: give 2, 3, 4 or 8"]
