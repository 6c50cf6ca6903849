"""Texts written token by token, against forwards of whole sequences without padding or cache."""

import pytest
import torch
from family_shapes import DECODERS
from small_pairs import seq2seq

from slimsweep.models.batches import IGNORED
from slimsweep.models.sources.random import RandomModel
from slimsweep.techniques.training.generation import (
    continuations,
    end_ids,
    in_eval_mode,
    left_padded,
    most_likely,
    prompts_of,
    write,
)

CPU = torch.device("cpu")
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14]]


def model_of(family, tmp_path):
    return RandomModel(name=family, shape=DECODERS[family], cache_dir=str(tmp_path)).load(torch.float32, CPU)


def draw(predicted):
    """A token of each sequence, drawn from the first model."""
    return torch.multinomial(predicted[0].exp(), 1)[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("family", DECODERS)
def test_prompts_of_different_lengths_are_read_as_each_is_alone(family, tmp_path):
    model, predictions = model_of(family, tmp_path), []
    model.module.generation_config.eos_token_id = None
    model.config.get_text_config().eos_token_id = None
    script = torch.tensor([[20, 21, 22, 23], [30, 31, 32, 33], [40, 41, 42, 43]])

    def choose(predicted):
        predictions.append(predicted[0])
        return script[:, len(predictions) - 1]

    assert write([model], left_padded(PROMPTS, padding=0), choose, tokens=4).rows() == script.tolist()
    for row, prompt in enumerate(PROMPTS):
        whole = model.module(torch.tensor([[*prompt, *script[row].tolist()]]), use_cache=False).logits[0]
        expected = whole.log_softmax(-1)[len(prompt) - 1 : -1]
        assert torch.allclose(torch.stack([one[row] for one in predictions]), expected, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_an_encoder_decoder_writes_as_from_whole_forwards(family, tmp_path):
    model = seq2seq(family, tmp_path).load(torch.float32, CPU)
    model.module.generation_config.eos_token_id = None
    sources = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    start = torch.zeros(2, 1, dtype=torch.long)
    batch = {"input_ids": sources, "attention_mask": mask, "decoder_input_ids": start}
    written = write([model], batch, most_likely, tokens=4)
    for row, source in zip(written.rows(), ([5, 6, 7, 8], [9, 10]), strict=True):
        text = [0]
        for token in row:
            logits = model.module(torch.tensor([source]), decoder_input_ids=torch.tensor([text])).logits
            assert int(logits[0, -1].argmax()) == token
            text.append(token)


def test_a_sequence_stops_at_its_end_and_what_follows_does_not_count(tiny):
    tiny.module.generation_config.eos_token_id = [7, 9]
    script = iter([[1, 7, 3], [9, 1, 3], [1, 1, 3]])
    written = write([tiny], left_padded(PROMPTS, 0), lambda _: torch.tensor(next(script)), tokens=3)
    assert written.rows() == [[1, 9], [7], [3, 3, 3]]


def test_nothing_is_written_after_all_have_ended(tiny):
    tiny.module.generation_config.eos_token_id = 7
    written = write([tiny], left_padded(PROMPTS, 0), lambda _: torch.tensor([7, 7, 7]), tokens=9)
    assert written.ids.shape == (3, 1)


def test_a_batch_of_continuations_predicts_the_written_tokens_alone(tiny):
    tiny.module.generation_config.eos_token_id = 7
    script = iter([[1, 7, 3], [2, 1, 3]])
    batch = continuations([tiny], PROMPTS, lambda _: torch.tensor(next(script)), tokens=2)
    labels = [[label for label in row if label != IGNORED] for row in batch["labels"].tolist()]
    assert labels == [[1, 2], [7], [3, 3]]
    assert batch["input_ids"][1].tolist() == [*PROMPTS[1], 7]
    assert batch["attention_mask"].sum(dim=1).tolist() == [5, 7, 3]
    assert tiny.task.predictions(batch) == 5


def test_prompts_end_before_the_first_label_or_after_so_many_tokens_of_text():
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]])
    assert prompts_of({"input_ids": ids, "labels": ids}, tokens=2) == [[1, 2], [5, 6]]
    labels = torch.tensor([[IGNORED, 2, IGNORED, 4], [IGNORED, IGNORED, 7, IGNORED]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    assert prompts_of(batch, tokens=3) == [[1], [5, 6]]


def test_draws_repeat_with_the_global_seed_and_differ_with_another(tiny):
    def written(seed):
        torch.manual_seed(seed)
        return write([tiny], left_padded(PROMPTS, 0), draw, tokens=5).ids.tolist()

    assert written(1) == written(1) != written(2)


def test_modules_come_back_in_their_mode_after_an_error(tiny):
    tiny.module.train()
    with pytest.raises(RuntimeError), in_eval_mode([tiny.module]):
        assert not tiny.module.training
        raise RuntimeError
    assert tiny.module.training


def test_ends_are_those_of_config_generation_and_tokenizer(tiny):
    tiny.config.eos_token_id, tiny.module.generation_config.eos_token_id = [4, 5], 4
    assert end_ids(tiny) == sorted({4, 5, tiny.tokenizer.eos_token_id})
