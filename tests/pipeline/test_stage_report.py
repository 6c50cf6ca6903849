import torch

from slimsweep.pipeline.stage_report import places, sparsity


def test_a_layer_is_found_again_after_packing_after_renumbering_and_not_once_it_is_gone():
    first, second, third, packed = (torch.nn.Linear(2, 2) for _ in range(4))
    before = {"a.0": first, "a.1": second, "a.2": third}
    assert places(before, {"a.0": first, "a.1": packed, "a.2": third}) == {"a.0": "a.0", "a.1": "a.1", "a.2": "a.2"}
    assert places(before, {"a.0": first, "a.1": third}) == {"a.0": "a.0", "a.2": "a.1"}


def test_sparsity_is_of_what_is_left_of_some_layers(tiny):
    names = ["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"]
    for name in names:
        tiny.module.get_submodule(name).weight.data.fill_(1)
    half, _ = (tiny.module.get_submodule(name).weight for name in names)
    half.data[: len(half) // 2] = 0
    both = sum(tiny.module.get_submodule(name).weight.numel() for name in names)
    assert sparsity(tiny, set(names)) == half.numel() / 2 / both
    assert sparsity(tiny, {names[0]}) == 0.5
    assert sparsity(tiny, {"gone"}) is None
