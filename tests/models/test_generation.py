import itertools

import pytest
import torch
from family_shapes import ENCODER_DECODERS
from small_pairs import seq2seq

from slimsweep.models.generation import TOKENS, Decoding, _batches, end_ids, generate

CPU = torch.device("cpu")
PROMPTS = [[1, 2, 3, 4, 5, 6], [7], [8, 9, 10], [11, 12]]


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


def prefer(model, *tokens):
    """Let a model find one token after another the likeliest, the last one for ever, whatever it reads."""
    steps = iter(tokens)
    state = {"token": None}

    def replace(module, arguments, output):
        state["token"] = next(steps, state["token"])
        output.logits[...] = 0
        output.logits[..., state["token"]] = 1
        return output

    model.module.register_forward_hook(replace)


@torch.no_grad()
def test_prompts_of_many_lengths_are_continued_as_each_alone(tiny):
    model = with_clear_choices(tiny)
    found = generate(model, PROMPTS, Decoding(max_new_tokens=6))
    assert found.texts == [greedy(model, prompt, 6) for prompt in PROMPTS]


@pytest.mark.parametrize("settings", [{}, {"beams": 3}, {"beams": 2, "length_penalty": 2.0, "min_new_tokens": 4}])
def test_equals_transformers_own_generate_for_a_decoder(tiny, settings):
    words = {"beams": "num_beams"}
    theirs = {words.get(name, name): value for name, value in settings.items()}
    found = generate(tiny, PROMPTS, Decoding(max_new_tokens=5, **settings))
    for prompt, ours in zip(PROMPTS, found.token_ids, strict=True):
        made = tiny.module.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False, **theirs)[0]
        expected = [token for token in made[len(prompt) :].tolist() if token != tiny.tokenizer.eos_token_id]
        assert ours == expected


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_equals_transformers_own_generate_for_an_encoder_decoder(family, beams, tmp_path):
    model = seq2seq(family, tmp_path).load(torch.float32, CPU)
    model.module.generation_config.forced_eos_token_id = None  # it would make a text that is cut look ended
    sources = [model.tokenizer(text)["input_ids"] for text in ("abcabcabc", "b", "cab")]
    found = generate(model, sources, Decoding(max_new_tokens=6, beams=beams))
    start, ends = model.config.decoder_start_token_id, end_ids(model)
    for source, ours in zip(sources, found.token_ids, strict=True):
        made = model.module.generate(
            torch.tensor([source]),
            max_new_tokens=6,
            do_sample=False,
            num_beams=beams,
            decoder_start_token_id=start,
            eos_token_id=ends,
        )[0, 1:].tolist()
        assert ours == list(itertools.takewhile(lambda token: token not in ends, made))


def test_draws_follow_their_seed_and_leave_torchs_generator_alone(tiny):
    before = torch.get_rng_state()
    first, again, other = (
        generate(tiny, [[1, 2], [3]], Decoding(max_new_tokens=8, temperature=1.0, sampling_seed=seed)).texts
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("stops", [("\n\n",), ()])
def test_a_stop_ends_a_text(tiny, stops):
    prefer(tiny, tiny.tokenizer("\n", add_special_tokens=False)["input_ids"][0])
    found = generate(tiny, [[1], [2, 3]], Decoding(max_new_tokens=5, stops=stops))
    assert found.texts == ([""] * 2 if stops else ["\n" * 5] * 2)
    assert found.cut == [not stops] * 2
    assert all(len(row) == (2 if stops else 5) for row in found.token_ids)  # nothing is written after the stop


def test_the_first_of_several_stops_counts(tiny):
    ids = tiny.tokenizer("abcd", add_special_tokens=False)["input_ids"]
    prefer(tiny, *ids)
    assert generate(tiny, [[1]], Decoding(max_new_tokens=4, stops=("d", "bc"))).texts == ["a"]


def test_a_text_that_never_ends_is_cut_and_counted_and_one_that_ends_in_time_is_not(tiny):
    letter, end = tiny.tokenizer("a", add_special_tokens=False)["input_ids"][0], tiny.tokenizer.eos_token_id
    prefer(tiny, letter, letter, end)
    ended = generate(tiny, [[1]], Decoding(max_new_tokens=3))
    assert (ended.texts, ended.cut, ended.new_tokens) == (["aa"], [False], 2)
    prefer(tiny, letter)
    assert generate(tiny, [[1]], Decoding(max_new_tokens=3)).cut == [True]


def test_a_checkpoints_own_settings_do_not_count(tiny):
    expected = generate(tiny, [[1, 2]], Decoding(max_new_tokens=4))
    tiny.module.generation_config.repetition_penalty = 50.0
    assert generate(tiny, [[1, 2]], Decoding(max_new_tokens=4)) == expected
    assert tiny.module.generation_config.repetition_penalty == 50.0


def test_a_checkpoints_first_token_counts(tmp_path):
    model = seq2seq("bart", tmp_path).load(torch.float32, CPU)
    model.module.generation_config.forced_bos_token_id = 77
    found = generate(model, [model.tokenizer("abc")["input_ids"]], Decoding(max_new_tokens=3))
    assert found.token_ids[0][0] == 77


def test_batches_hold_no_more_than_the_cache_has_room_for():
    decoding = Decoding(max_new_tokens=100, beams=4)
    lengths = [TOKENS // 16, TOKENS // 16, TOKENS // 8, TOKENS]
    assert _batches(range(4), lengths, decoding) == [[0, 1], [2], [3]]
    assert [len(batch) for batch in _batches(range(70), [1] * 70, Decoding(max_new_tokens=1))] == [64, 6]


def test_no_prompt_writes_no_text(tiny):
    assert generate(tiny, [], Decoding()).texts == []


def test_every_wrong_value_is_told_at_once():
    wrong = Decoding(max_new_tokens=0, beams=0, temperature=-1, top_p=0, stops=[""])
    faults = wrong.decoding_faults("metric.")
    assert len(faults) == 5 and all("metric." in fault for fault in faults)
    assert "set one of them" in Decoding(beams=2, temperature=1.0).decoding_faults()[0]
    assert "is more than" in Decoding(min_new_tokens=200).decoding_faults()[0]


def test_the_protocol_names_what_decides_the_texts():
    assert Decoding().decoding_protocol == "greedy:new<=128"
    assert Decoding(beams=4, stops=("\n",)).decoding_protocol == "beams=4:length_penalty=1:new<=128:stops=['\\n']"
    assert Decoding(temperature=0.7).decoding_protocol == "drawn:temperature=0.7:top_p=1:seed=0:new<=128"


def test_an_end_token_that_only_the_generation_settings_name_ends_a_text(tiny):
    first, end = (tiny.tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "ab")
    tiny.module.generation_config.eos_token_id = [end]
    prefer(tiny, first, end, first)
    found = generate(tiny, [[1]], Decoding(max_new_tokens=6))
    assert (found.texts, found.cut) == (["a"], [False])
    seen = []
    tiny.module.register_forward_hook(lambda module, arguments, output: seen.append(1))
    prefer(tiny, first, end, first)
    generate(tiny, [[1]], Decoding(max_new_tokens=6))
    assert len(seen) == 2  # nothing is written after the end
