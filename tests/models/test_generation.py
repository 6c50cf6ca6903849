import pytest
import torch

from slimsweep.models.generation import write


def greedy(model, prompt, new_tokens):
    """Continuation by whole forwards, without a cache or padding."""
    ids = list(prompt)
    for _ in range(new_tokens):
        token = int(model.module(torch.tensor([ids])).logits[0, -1].argmax())
        if token == model.tokenizer.eos_token_id:
            break
        ids.append(token)
    return model.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)


def with_clear_choices(model):
    """Larger weights, so that the likeliest token is far ahead."""
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.mul_(6 if parameter.ndim == 2 else 1)
    return model


@torch.no_grad()
def test_prompts_of_many_lengths_are_continued_as_each_alone(tiny):
    model = with_clear_choices(tiny)
    prompts = [[1, 2, 3, 4, 5, 6], [7], [8, 9, 10], [11, 12]]
    assert write(model, prompts, 6) == [greedy(model, prompt, 6) for prompt in prompts]


def test_draws_follow_their_seed_and_leave_torchs_generator_alone(tiny):
    before = torch.get_rng_state()
    first, again, other = (write(tiny, [[1, 2], [3]], 8, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("ends", [True, False])
def test_a_blank_line_ends_a_text(tiny, monkeypatch, ends):
    line = tiny.tokenizer("\n")["input_ids"][0]

    def prefer_line(module, arguments, output):
        output.logits[...] = 0
        output.logits[..., line] = 1
        return output

    tiny.module.register_forward_hook(prefer_line)
    assert write(tiny, [[1], [2, 3]], 5, ends_at_blank_line=ends) == ([""] * 2 if ends else ["\n" * 5] * 2)


def test_a_checkpoints_own_settings_do_not_count(tiny):
    expected = write(tiny, [[1, 2]], 4)
    tiny.module.generation_config.repetition_penalty = 50.0
    assert write(tiny, [[1, 2]], 4) == expected
    assert tiny.module.generation_config.repetition_penalty == 50.0
