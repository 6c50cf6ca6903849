import pytest
import torch
from contexts import text_context
from safetensors.torch import load_file, save_file

from slimsweep.blockwise.layerwise import replace_weight
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.errors import ModelError
from slimsweep.linear.base import weight_2d
from slimsweep.linear.mask import (
    MASKS_FILE,
    mark_zeros,
    masked_layers,
    read_masks,
    removed,
    reserve,
    select,
    set_removed,
    write_masks,
)
from slimsweep.models import anatomy
from slimsweep.models.language_model import weights_digest
from slimsweep.models.sources.local import LocalModel
from slimsweep.models.storage import saved_model
from slimsweep.models.surgery import remove, remove_blocks
from slimsweep.models.task import TASKS
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.pruning.wanda import Wanda
from slimsweep.techniques.quantization.rtn import RTN

CPU = torch.device("cpu")


def chosen(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < 0.4


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 43])
def test_a_mask_comes_back_as_it_was_given(columns):
    layer, mask = torch.nn.Linear(columns, 5), chosen(5, columns)
    mask[0, 0] = True
    assert removed(layer) is None
    set_removed(layer, mask)
    assert torch.equal(removed(layer), mask) and layer.removed_bits.shape == (5, -(-columns // 8))
    set_removed(layer, torch.zeros_like(mask))
    assert removed(layer) is None


def test_the_first_input_is_the_lowest_bit():
    layer = torch.nn.Linear(9, 1)
    set_removed(layer, torch.tensor([[True, False, True] + [False] * 5 + [True]]))
    assert layer.removed_bits.tolist() == [[0b101, 1]]


def test_a_mask_is_no_part_of_the_weights(tiny, tiny_source):
    for layer in tiny.targets().values():
        set_removed(layer, chosen(*weight_2d(layer).shape))
    assert weights_digest(tiny) == weights_digest(tiny_source.load(torch.float32, CPU))


def test_memory_that_was_reserved_holds_the_mask():
    layer, storage = torch.nn.Linear(9, 2), torch.zeros(2, 2, dtype=torch.uint8)
    reserve(layer, storage)
    set_removed(layer, chosen(2, 9))
    assert layer.removed_bits.data_ptr() == storage.data_ptr() and torch.equal(removed(layer), chosen(2, 9))


def test_rows_and_columns_that_go_take_their_bits_with_them():
    layer, mask = torch.nn.Linear(9, 4), chosen(4, 9)
    set_removed(layer, mask)
    select(layer, 1, torch.tensor([0, 2, 8]))
    layer.in_features = 3
    select(layer, 0, torch.tensor([1, 3]))
    layer.out_features = 2
    assert torch.equal(removed(layer), mask[:, [0, 2, 8]][[1, 3]])


@torch.no_grad()
def test_removal_of_neurons_heads_and_blocks_keeps_the_bits_of_what_stays(tiny):
    Magnitude(ratio=0.4).apply(tiny, StageContext())
    remove(tiny, anatomy.neurons(tiny, 0), [0, 5, 40])
    remove(tiny, anatomy.heads(tiny, 1), [1])
    remove(tiny, anatomy.channels(tiny), [3])
    for layer in tiny.targets().values():
        assert torch.equal(removed(layer), weight_2d(layer) == 0)
    remove_blocks(tiny, [0])
    assert len(masked_layers(tiny.module)) == len(tiny.targets()) == 7


@torch.no_grad()
def test_packing_takes_the_mask_over_and_a_copy_has_it(tiny):
    Magnitude(ratio=0.4).apply(tiny, StageContext())
    before = {name: removed(layer) for name, layer in tiny.targets().items()}
    RTN(group_size=16).apply(tiny, StageContext())
    for model in (tiny, tiny.copy()):
        assert all(torch.equal(removed(layer), before[name]) for name, layer in model.targets().items())


@torch.no_grad()
def test_a_removed_weight_that_gets_a_value_is_removed_no_longer(tiny):
    name, layer = next(iter(tiny.targets().items()))
    mask = chosen(*weight_2d(layer).shape)
    weight_2d(layer).masked_fill_(mask, 0)
    set_removed(layer, mask)
    grown = weight_2d(layer).clone()
    grown[mask.nonzero()[0][0], mask.nonzero()[0][1]] = 1
    replace_weight(tiny, name, grown)
    assert int(removed(layer).sum()) == int(mask.sum()) - 1


@pytest.mark.parametrize("technique", [None, RTN(group_size=16), RTN(group_size=16, grid="minimum")])
@torch.no_grad()
def test_a_saved_model_comes_back_with_its_masks(technique, tiny, tmp_path):
    Magnitude(ratio=0.4).apply(tiny, StageContext())
    if technique:
        technique.apply(tiny, StageContext())
    expected = {name: removed(layer) for name, layer in tiny.targets().items()}
    saved_model.save(tiny, tmp_path / "saved")
    source = LocalModel(path=str(tmp_path / "saved"), cache_dir=str(tmp_path / "cache"))
    model = source.load(torch.float32, CPU)
    assert all(torch.equal(removed(layer), expected[name]) for name, layer in model.targets().items())
    if technique is None:
        mapped = source.load_mapped(torch.float32, tmp_path / "scratch")
        assert all(torch.equal(removed(layer), expected[name]) for name, layer in mapped.targets().items())
    before = source.digest()
    (tmp_path / "saved" / MASKS_FILE).unlink()
    assert source.digest() != before
    again = saved_model.read(tmp_path / "saved", TASKS["causal_lm"], torch.float32, CPU, False)
    assert not masked_layers(again)


def test_masks_that_do_not_fit_the_weights_are_refused(tiny, tmp_path):
    Magnitude(ratio=0.4).apply(tiny, StageContext())
    write_masks(tiny.module, tmp_path)
    name = next(iter(tiny.targets()))
    with torch.no_grad():
        tiny.targets()[name].weight.fill_(1)
    with pytest.raises(ModelError, match=r"masks.safetensors does not fit.*1 of its 14 layers.*q_proj.*delete it"):
        read_masks(tiny.module, tmp_path)
    save_file({"elsewhere": torch.zeros(1, 1, dtype=torch.uint8)}, tmp_path / MASKS_FILE)
    with pytest.raises(ModelError, match="elsewhere"):
        read_masks(tiny.module, tmp_path)
    (tmp_path / MASKS_FILE).write_bytes(b"no file of tensors")
    with pytest.raises(ModelError, match="cannot be read"):
        read_masks(tiny.module, tmp_path)


@torch.no_grad()
def test_a_model_without_masks_writes_no_file(tiny, tmp_path):
    write_masks(tiny.module, tmp_path)
    assert list(tmp_path.iterdir()) == []
    layer = next(iter(tiny.targets().values()))
    weight_2d(layer)[:, :3] = 0
    mark_zeros(layer, weight_2d(layer))
    write_masks(tiny.module, tmp_path)
    assert [tensor.shape for tensor in load_file(tmp_path / MASKS_FILE).values()] == [(32, 4)]


@torch.no_grad()
def test_zeros_by_value_are_ordinary_for_a_pruner_and_ratios_of_the_remaining(tiny):
    for layer in tiny.targets().values():
        weight_2d(layer)[:, ::2] = 0
    Wanda(ratio=0.25, relative_to="remaining").apply(tiny, text_context(torch.arange(64).view(2, 32)))
    for layer in tiny.targets().values():
        rows, columns = weight_2d(layer).shape
        assert int(removed(layer).sum()) == rows * (columns // 4)  # of all of them, zeros by value first
        assert int((weight_2d(layer) == 0).sum()) == rows * columns // 2
