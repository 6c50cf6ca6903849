import torch
from tiny_training import text_batch_of, tiny_llama

from slimsweep.techniques.training.trainer import first_non_finite, last_checkpoint, token_count


def test_tokens_are_counted_without_padding_and_with_targets():
    ids = torch.zeros(2, 4, dtype=torch.long)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    assert token_count({"input_ids": ids}) == 8
    assert token_count({"input_ids": ids, "attention_mask": mask}) == 6
    assert token_count({"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids}) == 14


def test_the_first_layer_that_gives_no_number_is_named(tmp_path):
    model = tiny_llama(tmp_path)
    batch = text_batch_of([torch.arange(8)])
    assert first_non_finite(model, batch) == ""
    model.blocks[1].self_attn.v_proj.weight.data[0, 0] = torch.inf
    assert first_non_finite(model, batch) == ", first in model.layers.1.self_attn.v_proj"


def test_the_last_whole_checkpoint_is_found_and_parts_go(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step in (9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}" / "stage.json").write_text("{}")
    assert last_checkpoint(tmp_path).name == "checkpoint-10"
    assert not (tmp_path / "checkpoint-11").exists()
