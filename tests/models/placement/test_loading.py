import torch
from torch import nn

from slimsweep.errors import ModelError
from slimsweep.models.placement.loading import has_room, is_shareable, refuse_non_finite


def module_with(value):
    module = nn.Linear(3, 2)
    module.weight.data[1, 2] = value
    return module


def test_finite_weights_pass():
    assert refuse_non_finite(dict(module_with(1e30).named_parameters()), "m", torch.float32) is None


def test_every_kind_of_non_finite_weight_is_found():
    for value in (float("nan"), float("inf"), -float("inf")):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            try:
                refuse_non_finite(dict(module_with(value).to(dtype).named_parameters()), "m", dtype)
            except ModelError as error:
                assert "in weight." in str(error)
            else:
                raise AssertionError(f"{value} in {dtype} was not found")


def test_many_bad_tensors_are_named_in_part():
    module = nn.Sequential(*(module_with(float("nan")) for _ in range(7)))
    try:
        refuse_non_finite(dict(module.named_parameters()), "m", torch.float32)
    except ModelError as error:
        assert "0.weight, 1.weight, 2.weight, 3.weight, 4.weight and 2 more" in str(error)


def test_only_small_models_are_shared():
    assert is_shareable(nn.Linear(3, 2), torch.device("cpu"))
    with torch.device("meta"):
        huge = nn.Linear(10**6, 10**6)
    assert not is_shareable(huge, torch.device("cpu"))


def test_room_is_counted_in_the_dtype_of_the_model_to_come(monkeypatch):
    monkeypatch.setattr("slimsweep.models.placement.loading.free_bytes", lambda _device: 100)
    assert has_room(30, torch.bfloat16, torch.device("cpu"))
    assert not has_room(30, torch.float32, torch.device("cpu"))
