import pytest
import torch
from family_shapes import DECODERS, ENCODERS, random_model

from slimsweep.linear.base import layer_shape, weight_2d
from slimsweep.models.scale_folding import fold, query_key_rows, survey
from slimsweep.models.sources.random import RandomModel

CPU = torch.device("cpu")
FAMILIES = [*DECODERS, *ENCODERS]
POST_NORM_OPT = DECODERS["opt"] | {"do_layer_norm_before": False}
PLACES = {  # by block: what a norm, the values and the neurons make
    "olmo2": 2,  # no norm before attention and MLP
    "starcoder2": 3,
    "phi": 2,
    "gptj": 2,
    "falcon": 3,
    "bloom": 3,
    "gpt2": 3,
    "gpt_neox": 3,
    "bert": 1,
    "roberta": 1,
    "distilbert": 1,
}


def loaded(source, dtype=torch.float32):
    """With weights, norms and biases among them, all moved from where they were initialised."""
    model = source.load(dtype, CPU)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.module.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def logits(model):
    return model.module(input_ids=torch.arange(4, 44).view(2, 20)).logits


def scales(place, seed=0):
    return torch.randn(len(place.makes), generator=torch.Generator().manual_seed(seed)).exp()


@pytest.mark.parametrize("family", FAMILIES)
def test_folding_at_every_place_leaves_the_model_what_it_was(family, tmp_path):
    source = random_model(family, str(tmp_path))
    model = loaded(source)
    before, weights = logits(model), [weight_2d(layer).clone() for layer in model.targets().values()]
    surveyed = survey(model)
    assert torch.equal(logits(model), before)  # nothing of the survey stays behind
    assert len(surveyed.places) == 2 * PLACES.get(family, 4)
    readers = [name for place in surveyed.places for name in place.balance_layers]
    assert sorted([*readers, *surveyed.reasons]) == sorted(model.targets())
    for place in surveyed.places:
        fold(model, place, scales(place), {})
    assert (logits(model) - before).abs().max() < 1e-4 * before.abs().max()
    changed = [not torch.equal(old, weight_2d(new)) for old, new in zip(weights, model.targets().values(), strict=True)]
    assert sum(changed) >= len(set(readers))
    planned = survey(source.skeleton())
    assert [(one.smooth_layer, one.balance_layers, one.offset) for one in planned.places] == [
        (one.smooth_layer, one.balance_layers, one.offset) for one in surveyed.places
    ]
    assert planned.reasons == surveyed.reasons


def test_each_place_folded_only_half_changes_the_model(tiny):
    # What shows that the test above can fail.
    for place in survey(tiny).places:
        before = logits(tiny)
        old = {name: weight_2d(tiny.module.get_submodule(name)).clone() for name in place.balance_layers}
        fold(tiny, place, scales(place), {name: weight.clone() for name, weight in old.items()})
        assert (logits(tiny) - before).abs().max() > 1e-4 * before.abs().max(), place.smooth_layer


def test_what_the_residual_reads_too_is_no_place(tmp_path):
    reasons = survey(random_model("bert", str(tmp_path)).skeleton()).reasons
    assert reasons["bert.encoder.layer.0.intermediate.dense"] == (
        "more than these layers read the output of bert.encoder.layer.0.attention.output.LayerNorm"
    )
    assert reasons["bert.encoder.layer.0.attention.self.query"] == "its inputs are made by no norm"
    assert "no ReLU" in reasons["bert.encoder.layer.0.output.dense"]


def test_opt_350m_has_its_norms_in_the_residual(tmp_path):
    model = loaded(RandomModel(name="opt", shape=POST_NORM_OPT, cache_dir=str(tmp_path)))
    surveyed, before = survey(model), logits(model)
    assert not any(place.is_norm for place in surveyed.places)
    assert len(surveyed.places) == 4  # values and ReLU's neurons of two blocks
    for place in surveyed.places:
        fold(model, place, scales(place), {})
    assert (logits(model) - before).abs().max() < 1e-4 * before.abs().max()


def test_neurons_of_another_activation_are_no_place(tmp_path):
    shape = DECODERS["opt"] | {"activation_function": "gelu"}
    reasons = survey(RandomModel(name="opt", shape=shape, cache_dir=str(tmp_path)).skeleton()).reasons
    assert "no ReLU" in reasons["model.decoder.layers.1.fc2"]


def test_query_heads_share_the_channels_of_their_value_head(tiny):
    # 4 query heads of width 8 on 2 value heads: inputs 0..7 and 8..15 of o_proj are the value channels 0..7.
    place = next(one for one in survey(tiny).places if one.balance_layers[0].endswith("o_proj"))
    first, second = list(range(8)), list(range(8, 16))
    assert place.reads.tolist() == first + first + second + second
    assert place.makes.tolist() == first + second


def test_a_norm_in_bf16_is_divided_by_what_its_readers_are_multiplied_by(tmp_path):
    for family in ("llama", "gemma2"):
        model = loaded(random_model(family, str(tmp_path)), torch.bfloat16)
        place = survey(model).places[0]
        norm = model.module.get_submodule(place.smooth_layer)
        before = norm.weight.float() + place.offset
        weights = {name: weight_2d(model.module.get_submodule(name)).float() for name in place.balance_layers}
        old = {name: weight.clone() for name, weight in weights.items()}
        columns = fold(model, place, scales(place), weights)
        now = norm.weight.float() + place.offset
        assert torch.allclose(now * columns, before, rtol=1e-6)
        assert not torch.allclose(before / scales(place), now, rtol=1e-4)  # rounding did move it
        for name, weight in weights.items():
            assert torch.equal(weight, old[name] * columns)
            assert torch.equal(weight_2d(model.module.get_submodule(name)).float(), old[name])  # yet to be rounded


def test_a_channel_the_norm_switches_off_stays_off(tmp_path):
    model = loaded(random_model("gemma2", str(tmp_path)))
    place = survey(model).places[0]
    norm = model.module.get_submodule(place.smooth_layer)
    norm.weight[3] = -1.0
    before = logits(model)
    fold(model, place, scales(place), {})
    assert norm.weight[3] == -1
    assert (logits(model) - before).abs().max() < 1e-4 * before.abs().max()


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "gpt_neox", "bert"])
def test_rows_of_queries_and_keys(family, tmp_path):
    model = random_model(family, str(tmp_path)).skeleton()
    rows = query_key_rows(model, 1)
    inputs = [f"{model.block_names[1]}.{name}" for name in model.family.attention_inputs]
    assert list(rows) == (inputs[:2] if len(inputs) == 3 else inputs)
    values = 16 if family in ("llama", "phi3") else 32  # 2 or 4 heads of width 8
    total = sum(layer_shape(model.module.get_submodule(name))[0] for name in inputs)
    assert sum(int(one.sum()) for one in rows.values()) == total - values
    if family == "gpt_neox":  # head after head: 8 rows of queries, 8 of keys, 8 of values
        assert rows[inputs[0]].view(4, 3, 8)[:, 2].any() == False  # noqa: E712


def test_a_norm_that_squares_its_weight_is_refused(monkeypatch, tmp_path):
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    own = LlamaRMSNorm.forward
    monkeypatch.setattr(LlamaRMSNorm, "forward", lambda self, hidden: own(self, hidden) * self.weight)
    surveyed = survey(random_model("llama", str(tmp_path)).skeleton())
    assert not any(place.is_norm for place in surveyed.places)
    assert "not a multiple of its weight" in surveyed.reasons["model.layers.0.mlp.up_proj"]


def test_what_another_function_reads_is_no_place(monkeypatch, tmp_path):
    from transformers.models.llama.modeling_llama import LlamaMLP

    own = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, hidden: own(self, hidden) + hidden)
    surveyed = survey(random_model("llama", str(tmp_path)).skeleton())
    makers = [place.smooth_layer for place in surveyed.places if place.is_norm]
    assert makers == [f"model.layers.{index}.input_layernorm" for index in (0, 1)]
    assert "more than these layers read" in surveyed.reasons["model.layers.1.mlp.gate_proj"]
