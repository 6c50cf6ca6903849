from pathlib import Path

import pytest
import torch

from slimsweep.errors import ModelError
from slimsweep.models.placement.scratch import PAGE, Scratch, padded_bytes


def resident_bytes() -> int:
    words = Path("/proc/self/statm").read_text().split()
    return int(words[1]) * PAGE


def test_tensors_lie_apart_and_keep_what_is_written(tmp_path):
    scratch = Scratch(tmp_path, 3 * PAGE)
    first, second = scratch.tensor((3, 5), torch.bfloat16), scratch.tensor((7,), torch.float32)
    assert not first.any() and not second.any()
    first.copy_(torch.arange(15).view(3, 5))
    second.fill_(2.5)
    scratch.release()
    assert first.flatten().tolist() == list(range(15))
    assert second.tolist() == [2.5] * 7


def test_release_gives_memory_back_and_loses_nothing(tmp_path):
    size = 64 * 2**20
    scratch = Scratch(tmp_path, size)
    tensor = scratch.tensor((size // 4,), torch.float32)
    before = resident_bytes()
    tensor.fill_(1.0)
    assert resident_bytes() - before > 0.9 * size
    scratch.release()
    assert resident_bytes() - before < 0.1 * size
    assert float(tensor.double().sum()) == size // 4


def test_no_file_has_a_name_that_a_killed_process_would_leave(tmp_path):
    Scratch(tmp_path, PAGE)
    assert list(tmp_path.iterdir()) == []


def test_more_than_was_reserved_is_refused(tmp_path):
    scratch = Scratch(tmp_path, PAGE)
    scratch.tensor((1,), torch.float32)
    with pytest.raises(ValueError, match="scratch file"):
        scratch.tensor((1,), torch.float32)
    assert padded_bytes((1,), torch.float32) == PAGE
    assert padded_bytes((PAGE,), torch.bfloat16) == 2 * PAGE


def test_an_empty_tensor_takes_nothing(tmp_path):
    assert Scratch(tmp_path, PAGE).tensor((0, 4), torch.float32).shape == (0, 4)


def test_a_folder_without_room_is_named(tmp_path):
    with pytest.raises(ModelError, match=f"{tmp_path}.*set cache_dir"):
        Scratch(tmp_path, 2**60)
