import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from slimsweep.evaluation.base_logits import BaseLogits, KeepLogits, log_partition

CPU = torch.device("cpu")


def kept(folder, logits, targets, k, rows):
    folder.mkdir()
    keeper = KeepLogits(folder, len(logits), k)
    for part, wanted in zip(logits.split(rows), targets.split(rows), strict=True):
        keeper.read(part, wanted, cross_entropy(part.float(), wanted, reduction="none"))
    return BaseLogits(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_most_likely_tokens_come_back_to_the_bit(tmp_path, dtype):
    logits = torch.randn(300, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    targets = torch.arange(300) % 40
    found = kept(tmp_path / "a", logits, targets, 5, 7)
    part = found.part(100, 120, CPU)
    exact = logits[100:120].double().log_softmax(1).topk(5, dim=1)
    assert torch.allclose(part.log_probs.double(), exact.values, atol=1e-6)
    assert torch.equal(logits[100:120].gather(1, part.tokens), logits[100:120].topk(5, dim=1).values)
    assert torch.equal(part.nll, cross_entropy(logits[100:120].float(), targets[100:120], reduction="none"))
    assert found.k == 5 and not found.is_whole and len(found.checked) == 128
    assert torch.equal(found.whole(0, 128, CPU), logits[torch.from_numpy(np.array(found.checked))])
    assert found.size_bytes > 300 * 5 * (logits.element_size() + 2)


def test_a_small_vocabulary_is_whole_and_keeps_no_place_twice(tmp_path):
    logits = torch.randn(9, 6)
    found = kept(tmp_path / "a", logits, torch.zeros(9, dtype=torch.long), 512, 4)
    assert found.is_whole and len(found.checked) == 0
    assert found.part(0, 9, CPU).log_probs.exp().sum(dim=1).numpy() == pytest.approx(1)


def test_the_log_partition_is_what_the_loss_knows():
    logits, targets = torch.randn(4, 9), torch.tensor([0, 3, 8, 1])
    nll = cross_entropy(logits, targets, reduction="none")
    assert torch.allclose(log_partition(logits, targets, nll), logits.logsumexp(1))
