import pytest
import torch

from slimsweep.export.llama_cpp.importance import importance, usable
from slimsweep.models.batches import text_batch


def test_importance_is_the_mean_square_of_inputs_without_padding(tiny):
    batch = text_batch(torch.randint(0, 256, (2, 8), generator=torch.Generator().manual_seed(0)))
    batch["attention_mask"] = torch.ones(2, 8, dtype=torch.long)
    batch["attention_mask"][1, 5:] = 0
    found = importance(tiny, batch)
    assert found.keys() == tiny.targets().keys()
    seen = []
    name = "model.layers.1.mlp.down_proj"
    hook = tiny.module.get_submodule(name).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    tiny.module(**batch)
    hook.remove()
    expected = seen[0][batch["attention_mask"].bool()].square().mean(0)
    torch.testing.assert_close(found[name], expected)


def test_inputs_that_no_text_reached_weigh_a_little():
    assert usable(torch.tensor([0.0, 2.0])).tolist() == pytest.approx([1e-6, 2.0])
    assert usable(torch.zeros(2)).tolist() == [1.0, 1.0]


def test_importance_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        usable(torch.tensor([1.0, float("nan")]))
