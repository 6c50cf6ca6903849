import pytest
import torch
from conftest import meta_model
from family_shapes import DECODERS, ENCODERS, FIXED_HEADS
from reductions import EVERY, WITHOUT_HEADS, logits, loud, remove_units, token_ids, uneven
from torch import nn

from slimsweep.models import anatomy, surgery
from slimsweep.models.anatomy import BlockShape, Shape
from slimsweep.models.language_model import parameter_count
from slimsweep.models.skeleton import Skeleton

TIED = ["qwen2", "smollm3", "starcoder2", "falcon", "bloom", "gemma", "gemma2", "gemma3_text", "opt", "gpt2"]


@pytest.fixture
def load(tmp_path):
    return lambda name, **shape: loud(name, str(tmp_path), **shape)


def on_meta(model):
    return Skeleton(module=model.module.to("meta"), family=model.family, task=model.task)


def parameters(model):
    return dict(model.module.named_parameters(remove_duplicate=False))


@pytest.mark.parametrize("name", EVERY)
def test_a_model_without_units_equals_one_with_the_units_masked(load, name):
    model, masked = load(name), load(name)
    dense = logits(model)
    gone = {"heads": [[0], [1]], "neurons": [[0, 3, 47], [11]]}
    for index in (0, 1):
        if name not in FIXED_HEADS:
            surgery.mask(anatomy.heads(masked, index), gone["heads"][index])
        surgery.mask(anatomy.neurons(masked, index), gone["neurons"][index])
    remove_units(model, **gone)
    assert parameter_count(model.module) < parameter_count(masked.module)
    torch.testing.assert_close(logits(model), logits(masked), atol=1e-5, rtol=0)
    assert (logits(model) - dense).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "heads") for name in WITHOUT_HEADS), *((name, "neurons") for name in EVERY)]
)
def test_one_unit_that_goes_leaves_what_masking_it_leaves(load, name, kind):
    model, masked = load(name), load(name)
    surgery.mask(getattr(anatomy, kind)(masked, 1), [1])
    surgery.remove(model, getattr(anatomy, kind)(model, 1), [1])
    torch.testing.assert_close(logits(model), logits(masked), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["heads", "neurons"])
@pytest.mark.parametrize("name", EVERY)
def test_what_stays_keeps_its_order_and_bits(load, name, kind):
    model = load(name)
    before = parameters(load(name))
    units = getattr(anatomy, kind)(model, 1)
    reader, width = units.reader.name, units.reader.index.shape[1]
    surgery.remove(model, units, [1])
    after = parameters(model)
    old, new = (part[f"{reader}.weight"] if name == "gpt2" else part[f"{reader}.weight"].T for part in (before, after))
    assert torch.equal(new, torch.cat([old[:width], old[2 * width :]]))
    reduced = {slot.name for slot in (*units.slots, *units.norms)}
    untouched = [parameter for parameter in before if parameter.rpartition(".")[0] not in reduced]
    assert len(untouched) > len(before) / 2
    for parameter in [*untouched, *({f"{reader}.bias"} & before.keys())]:
        assert torch.equal(after[parameter], before[parameter])


@pytest.mark.parametrize("name", EVERY)
def test_removing_nothing_changes_nothing(load, name):
    model = load(name)
    before = {parameter: (value, value.clone()) for parameter, value in parameters(model).items()}
    for units in (anatomy.heads(model, 0), anatomy.neurons(model, 1), anatomy.channels(model)):
        surgery.remove(model, units, [])
    for parameter, value in parameters(model).items():
        assert value is before[parameter][0]
        assert torch.equal(value, before[parameter][1])


@pytest.mark.parametrize("gone", [[1, 1, 0], (0, 1), {1, 0}])
def test_units_may_come_in_any_order_and_twice(load, gone):
    model, expected = load("llama"), load("llama")
    surgery.remove(model, anatomy.neurons(model, 0), gone)
    surgery.remove(expected, anatomy.neurons(expected, 0), range(2))
    assert torch.equal(logits(model), logits(expected))


@pytest.mark.parametrize("name", TIED)
def test_tied_weights_stay_tied(load, name):
    model = load(name, **({"word_embed_proj_dim": 32} if name == "opt" else {}))
    embeddings = model.module.get_submodule(model.family.embeddings)
    surgery.remove(model, anatomy.channels(model), [0, 5])
    assert model.module.get_submodule(model.family.head).weight is embeddings.weight
    assert embeddings.weight.shape == (260, 30)
    names = dict(model.module.named_parameters())
    assert parameter_count(model.module) == sum(value.numel() for value in names.values())
    assert len(parameters(model)) == len(names) + 1


def test_an_opt_whose_residual_comes_to_its_embeddings_width_shrinks_on(load):
    model = load("opt", word_embed_proj_dim=16)
    surgery.remove(model, anatomy.channels(model), range(16))
    surgery.remove(model, anatomy.channels(model), [0])
    assert logits(model).isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_modules_say_the_size_they_have(load, name):
    model = uneven(load(name))
    surgery.remove(model, anatomy.channels(model), [0, 5, 9])
    for module in model.module.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        elif type(module).__name__ == "Conv1D":
            assert module.weight.shape == (module.nx, module.nf)
        elif isinstance(module, nn.LayerNorm):
            assert module.weight.shape == module.normalized_shape
        elif isinstance(module, nn.Embedding):
            assert module.weight.shape[1] == module.embedding_dim
        if getattr(module, "bias", None) is not None and not isinstance(module, nn.Embedding):
            assert len(module.bias) == module.weight.shape[1 if type(module).__name__ == "Conv1D" else 0]


@pytest.mark.parametrize("name", EVERY)
def test_parameters_stay_frozen_and_in_their_dtype(tmp_path, name):
    model = uneven(loud(name, str(tmp_path), torch.bfloat16))
    surgery.remove(model, anatomy.channels(model), [4])
    for value in model.module.parameters():
        assert value.dtype == torch.bfloat16
        assert not value.requires_grad
    assert logits(model).isfinite().all()


@pytest.mark.parametrize("name", DECODERS)
def test_generation_with_a_cache_equals_that_without(load, name):
    model = uneven(load(name))
    prompt = token_ids(12)
    fixed = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    told = {"return_dict_in_generate": True, "output_logits": True}
    cached, plain = (model.module.generate(prompt, use_cache=use, **fixed, **told) for use in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(plain.logits), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", DECODERS)
def test_a_removed_block_passes_its_input_on(load, name):
    layers = {"n_layer" if "n_layer" in DECODERS[name] else "num_hidden_layers": 3}
    if name == "smollm3":
        layers["no_rope_layers"] = [1, 0, 1]
    if name == "gemma3_text":
        layers["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    model, bypassed = load(name, **layers), load(name, **layers)

    def skip(_block, args, kwargs, output):
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    bypassed.blocks[0].register_forward_hook(skip, with_kwargs=True)
    surgery.remove_blocks(model, [0])
    assert len(model.blocks) == 2
    torch.testing.assert_close(logits(model), logits(bypassed), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_lose_blocks_too(load, name):
    model = load(name)
    kept = model.blocks[1]
    surgery.remove_blocks(model, [0])
    assert model.blocks == [kept]
    assert model.config.num_hidden_layers == 1
    assert logits(model).isfinite().all()


@pytest.mark.parametrize("name", DECODERS)
def test_generation_with_a_cache_goes_on_without_a_block(load, name):
    model = load(name)
    surgery.remove_blocks(model, [0])
    prompt = token_ids(12)
    fixed = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    cached, plain = (model.module.generate(prompt, use_cache=use, **fixed) for use in (True, False))
    assert torch.equal(cached, plain)


def test_blocks_that_stay_are_numbered_anew(load):
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    model = load("gemma3_text", num_hidden_layers=3, layer_types=types)
    kept = [model.blocks[1], model.blocks[2]]
    surgery.remove_blocks(model, {0})
    assert model.blocks == kept
    assert model.block_names == ["model.layers.0", "model.layers.1"]
    assert [block.self_attn.layer_idx for block in model.blocks] == [0, 1]
    assert model.config.num_hidden_layers == 2
    assert model.config.layer_types == types[1:]


def test_planned_zeros_move_with_their_blocks(load):
    model = on_meta(load("llama", num_hidden_layers=12))
    model.zeros = {f"model.layers.{index}.mlp.up_proj": index for index in (0, 1, 2, 10, 11)}
    surgery.remove_blocks(model, [2, 3])
    assert model.zeros == {
        "model.layers.0.mlp.up_proj": 0,
        "model.layers.1.mlp.up_proj": 1,
        "model.layers.8.mlp.up_proj": 10,
        "model.layers.9.mlp.up_proj": 11,
    }


def test_planned_zeros_shrink_in_proportion(load):
    model = on_meta(load("llama"))
    up, down, other = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.up_proj"
    model.zeros = {up: 480, down: 96, other: 7, "model.layers.0.self_attn.q_proj": 64}
    surgery.remove(model, anatomy.neurons(model, 0), range(12))  # 36 of 48 stay
    assert model.zeros == {up: 360, down: 72, other: 7, "model.layers.0.self_attn.q_proj": 64}
    surgery.remove(model, anatomy.channels(model), range(8))  # 24 of 32 stay
    assert model.zeros == {up: 270, down: 54, other: 5, "model.layers.0.self_attn.q_proj": 48}


@pytest.mark.parametrize("name", EVERY)
def test_shapes_alone_shrink_as_weights_do(load, name):
    model, meta = uneven(load(name)), uneven(on_meta(load(name)))
    for one in (model, meta):
        surgery.remove(one, anatomy.channels(one), [0, 1])
    assert meta.is_meta
    assert anatomy.shape_of(meta) == anatomy.shape_of(model)
    shapes = {parameter: value.shape for parameter, value in parameters(model).items()}
    assert {parameter: value.shape for parameter, value in parameters(meta).items()} == shapes


@pytest.mark.parametrize("name", EVERY)
def test_resizing_gives_the_shape_that_was_asked_for(load, name):
    model = on_meta(load(name))
    members = anatomy.heads(model, 0).members
    shape = Shape(29, (BlockShape(members, 1, 40), BlockShape(members * 2, 2, 37)))
    surgery.resize(model, shape)
    assert anatomy.shape_of(model) == shape


def test_resizing_to_what_is_there_changes_nothing(load):
    model = load("llama")
    before = logits(model)
    surgery.resize(model, anatomy.shape_of(model))
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("shape", [{}, {"word_embed_proj_dim": 32}], ids=["projected", "tied"])
def test_norms_without_weights_follow_the_residual_width(load, shape, monkeypatch):
    """The masked model's norms take mean and variance over the channels that stay, as the formula has it."""
    shape |= {"layer_norm_elementwise_affine": False, "enable_bias": False}
    model, masked = load("opt", **shape), load("opt", **shape)
    gone = [0, 5, 6, 30]
    kept = [channel for channel in range(32) if channel not in gone]
    surgery.remove(model, anatomy.channels(model), gone)
    surgery.mask(anatomy.channels(masked), gone)
    found = logits(model)

    def over_the_kept(self, inputs):
        values = inputs[..., kept]
        centred = values - values.mean(dim=-1, keepdim=True)
        outputs = torch.zeros_like(inputs)
        outputs[..., kept] = centred / (centred.square().mean(dim=-1, keepdim=True) + self.eps).sqrt()
        return outputs

    monkeypatch.setattr(nn.LayerNorm, "forward", over_the_kept)
    torch.testing.assert_close(found, logits(masked), atol=1e-5, rtol=0)
    norms = [module for module in model.module.modules() if isinstance(module, nn.LayerNorm)]
    assert norms and all(norm.weight is None and norm.normalized_shape == (28,) for norm in norms)


def test_norms_without_weights_are_saved_and_read_at_their_width(load, tmp_path):
    from slimsweep.models.storage.saved_model import load as read
    from slimsweep.models.storage.saved_model import save

    model = load("opt", layer_norm_elementwise_affine=False, enable_bias=False)
    surgery.remove(model, anatomy.channels(model), [1, 2, 3])
    save(model, tmp_path / "saved")
    assert torch.equal(logits(read(tmp_path / "saved")), logits(model))


WHOLE = BlockShape(4, 2, 48)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape(33, (WHOLE, WHOLE)), "residual width: 33 asked for, the model has 32"),
        (Shape(0, (WHOLE, WHOLE)), "residual width: 0 asked for"),
        (Shape(32, (WHOLE, BlockShape(6, 3, 48))), "key/value heads of block 1: 3 asked for, the model has 2"),
        (Shape(32, (BlockShape(4, 2, 49), WHOLE)), "neurons of block 0: 49 asked for, the model has 48"),
        (Shape(32, (BlockShape(4, 2, -1), WHOLE)), "neurons of block 0: -1 asked for"),
        (Shape(32, (BlockShape(3, 2, 48), WHOLE)), "query heads"),
        (Shape(32, (WHOLE,)), "1 blocks are described, the model has 2"),
        (Shape(32, (WHOLE,) * 3), "3 blocks are described, the model has 2"),
    ],
)
def test_resizing_to_what_cannot_be_is_refused(load, shape, message):
    with pytest.raises(ValueError, match=message):
        surgery.resize(load("llama"), shape)


def test_a_distilbert_of_half_its_heads_has_its_known_count():
    model = meta_model("distilbert")
    assert parameter_count(model.module) == 66_955_010
    for index in range(6):
        surgery.remove(model, anatomy.heads(model, index), range(0, 12, 2))
    assert parameter_count(model.module) == 59_870_210


def test_a_llama_pruned_within_blocks_has_its_known_count():
    model = meta_model("llama_2_7b")
    for index in range(4, 30):
        surgery.remove(model, anatomy.heads(model, index), range(8))
        surgery.remove(model, anatomy.neurons(model, index), range(2752))
    assert parameter_count(model.module) == 5_422_977_024


def test_a_llama_of_fewer_channels_has_its_known_count():
    model = meta_model("llama_2_7b")
    surgery.remove(model, anatomy.channels(model), range(820))
    assert anatomy.channel_count(model) == 3276
    assert parameter_count(model.module) == 5_389_416_396
