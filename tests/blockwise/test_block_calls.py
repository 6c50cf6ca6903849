import pytest
import torch
from transformers.cache_utils import Cache

from slimsweep.blockwise import block_calls
from slimsweep.models.batches import text_batch


@pytest.fixture
def tiny(tiny_source):
    return tiny_source.load(torch.float32, torch.device("cpu"))


@pytest.fixture
def token_ids():
    return torch.randint(258, (5, 32), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_blocks_run_alone_on_what_was_recorded_as_in_the_model(tiny, token_ids):
    calls = block_calls.record_calls(tiny, text_batch(token_ids[:1]))
    hidden, _ = block_calls.first_inputs(tiny, text_batch(token_ids), 2)
    for block, call in zip(tiny.blocks, calls, strict=True):
        hidden = block(hidden, *call.args, **call.kwargs)
    torch.testing.assert_close(tiny.module.model.norm(hidden), tiny.hidden_states(text_batch(token_ids)))


@torch.no_grad()
def test_no_cache_of_keys_is_recorded(tiny, token_ids):
    for call in block_calls.record_calls(tiny, text_batch(token_ids[:1])):
        assert not any(isinstance(value, Cache) for value in (*call.args, *call.kwargs.values()))


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2, 5, 9])
def test_first_inputs_are_embeddings_whatever_the_batch(tiny, token_ids, batch):
    hidden, spill = block_calls.first_inputs(tiny, text_batch(token_ids), batch)
    assert spill is None
    assert torch.equal(hidden, tiny.module.get_input_embeddings()(token_ids))
