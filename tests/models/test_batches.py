import torch

from slimsweep.models.batches import sequence_count, split, text_batch, to_device


def test_parts_are_consecutive_and_keep_every_tensor():
    batch = {"input_ids": torch.arange(10).view(5, 2), "labels": torch.arange(5)}
    parts = list(split(batch, 2))
    assert [sequence_count(part) for part in parts] == [2, 2, 1]
    for name, values in batch.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), values)


def test_text_has_no_mask():
    ids = torch.ones(2, 3, dtype=torch.long)
    assert text_batch(ids) == {"input_ids": ids}
    assert to_device(text_batch(ids), torch.device("meta"))["input_ids"].is_meta
