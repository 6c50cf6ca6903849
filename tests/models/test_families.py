"""Every family on a small random model: its parts are where the table says."""

import pytest
import torch
from family_shapes import BLOCK_LINEARS, DECODERS, ENCODER_DECODERS, ENCODERS, random_model

from slimsweep.errors import ModelError
from slimsweep.linear.base import weight_2d
from slimsweep.models.batches import text_batch
from slimsweep.models.families import families, family_of

CPU = torch.device("cpu")
EVERY = {**DECODERS, **ENCODERS}


@pytest.fixture
def load(tmp_path):
    return lambda name, dtype=torch.float32: random_model(name, str(tmp_path)).load(dtype, CPU)


def token_ids():
    return torch.randint(3, 250, (2, 20), generator=torch.Generator().manual_seed(0))


def test_every_family_has_a_shape_here():
    pairs = {shape["model_type"] for shape in ENCODER_DECODERS.values()}
    assert set(families()) - {"mt5"} == set(EVERY) | pairs  # mT5 is T5 with other tokens


def test_unknown_type_names_the_known_ones():
    with pytest.raises(ModelError, match=r"'mamba'.*llama"):
        family_of("mamba")


@pytest.mark.parametrize("name", DECODERS)
def test_logits_of_hidden_states_are_the_modules_logits(load, name):
    model = load(name)
    with torch.no_grad():
        expected = model.module(token_ids()).logits
    hidden = model.hidden_states(text_batch(token_ids()))
    assert torch.equal(model.logits(hidden), expected)
    torch.testing.assert_close(model.logits(hidden[:, 3:5]), expected[:, 3:5])
    assert expected.std() > 0


@pytest.mark.parametrize("name", DECODERS)
def test_random_weights_are_finite_and_their_predictions_near_uniform(load, name):
    model = load(name, torch.bfloat16)
    probabilities = model.logits(model.hidden_states(text_batch(token_ids()))).float().softmax(dim=-1)
    assert probabilities.isfinite().all()
    assert 0.1 / 260 < probabilities.mean() < 10 / 260


@pytest.mark.parametrize("name", EVERY)
def test_targets_are_the_linear_layers_of_the_blocks_in_order(load, name):
    model = load(name)
    stems = [target.rsplit(".", 1)[1] for target in model.targets()]
    assert stems == BLOCK_LINEARS[name].split() * 2
    for target, layer in model.targets().items():
        assert model.module.get_submodule(target) is layer
    assert [model.module.get_submodule(block) for block in model.block_names] == model.blocks


@pytest.mark.parametrize("name", EVERY)
def test_parts_named_by_the_table_exist(load, name):
    model = load(name)
    family = family_of(name)
    assert model.module.get_submodule(family.embeddings).weight.shape[0] == 260
    assert weight_2d(model.module.get_submodule(family.head)).shape[0] in (260, 2)
    if family.final_norm:
        assert "norm" in type(model.module.get_submodule(family.final_norm)).__name__.lower()
    for path in family.pooled:
        assert model.module.get_submodule(path).weight.shape[1] == 32


@pytest.mark.parametrize("name", DECODERS)
def test_the_last_norms_output_is_what_hidden_states_returns(load, name):
    family = family_of(name)
    model = load(name)
    seen = []
    norm = model.module.get_submodule(family.final_norm)
    norm.register_forward_hook(lambda module, args, output: seen.append(output))
    hidden = model.hidden_states(text_batch(token_ids()))
    if name == "opt":  # this shape has project_out after the norm, as the 350M
        seen = [model.module.model.decoder.project_out(seen[0])]
    assert torch.equal(seen[0], hidden)


@pytest.mark.parametrize("name", EVERY)
def test_matrix_is_a_view_that_maps_inputs_to_outputs(load, name):
    model = load(name)
    for layer in model.targets().values():
        weight = weight_2d(layer)
        inputs = torch.randn(3, weight.shape[1])
        torch.testing.assert_close(
            inputs @ weight.T + layer.bias if layer.bias is not None else inputs @ weight.T, layer(inputs)
        )
        weight[0, 1] = 7.5
        assert (layer.weight == 7.5).sum() == 1


@pytest.mark.parametrize("name", DECODERS)
def test_zeroed_targets_change_the_logits(load, name):
    model = load(name)
    before = model.logits(model.hidden_states(text_batch(token_ids())))
    for layer in model.targets().values():
        weight_2d(layer).zero_()
    assert not torch.equal(before, model.logits(model.hidden_states(text_batch(token_ids()))))


@pytest.mark.parametrize("name", EVERY)
def test_a_copy_is_independent_and_keeps_ties(load, name):
    model = load(name)
    copied = model.copy()
    layer_name, layer = next(iter(model.targets().items()))
    weight_2d(layer).zero_()
    assert weight_2d(copied.targets()[layer_name]).count_nonzero() > 0
    assert len(list(copied.module.parameters())) == len(list(model.module.parameters()))


@pytest.mark.parametrize("name", EVERY)
def test_saved_models_reload_with_equal_weights(load, name, tmp_path):
    from slimsweep.models.sources.local import LocalModel

    model = load(name)
    weight_2d(next(iter(model.targets().values())))[0].zero_()
    folder = tmp_path / "saved"
    model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    task = "causal_lm" if name in DECODERS else "sequence_classification"
    source = LocalModel(path=str(folder), task=task, cache_dir=str(tmp_path))
    assert source.faults() == []
    module = source._module(torch.float32, CPU)
    for (first, saved), (second, read) in zip(model.module.named_parameters(), module.named_parameters(), strict=True):
        assert first == second
        assert torch.equal(saved, read)


def test_only_gemma_wants_a_bos_in_every_window():
    assert {name for name, family in families().items() if family.bos_every_window} == {
        "gemma",
        "gemma2",
        "gemma3_text",
    }
