import pytest
import torch
from family_shapes import FIXED_HEADS, FOUR_TIMES, GATED, GROUPED, HEAD_WIDTHS
from reductions import EVERY, logits, loud

from slimsweep.models import anatomy
from slimsweep.models.anatomy import IN, OUT, BlockShape
from slimsweep.models.surgery import remove

NOT_RESIDUAL = {  # as wide as the residual, and not part of it: parameter, axis
    "bert": {("bert.pooler.dense.weight", 0), ("bert.pooler.dense.bias", 0), ("classifier.weight", 1)},
    "roberta": {("classifier.dense.weight", 0), ("classifier.dense.bias", 0), ("classifier.out_proj.weight", 1)},
    "distilbert": {("pre_classifier.weight", 0), ("pre_classifier.bias", 0), ("classifier.weight", 1)},
    "falcon": {  # two query heads of width 8, their key, their value
        (f"transformer.h.{index}.self_attention.query_key_value.{part}", 0)
        for index in (0, 1)
        for part in ("weight", "bias")
    },
    "bloom": {(f"transformer.h.{index}.self_attention.dense.weight", 1) for index in (0, 1)},  # four heads of 8
}


@pytest.fixture
def load(tmp_path):
    return lambda name, **shape: loud(name, str(tmp_path), **shape)


def units_of(model):
    return [units for index in (0, 1) for units in (anatomy.heads(model, index), anatomy.neurons(model, index))]


def reader_inputs(model, units):
    seen = []
    handle = units.reader.module.register_forward_pre_hook(lambda _layer, args: seen.append(args[0].clone()))
    logits(model)
    handle.remove()
    return seen[0]


def changed_columns(before, after):
    return set((before != after).flatten(0, -2).any(dim=0).nonzero().flatten().tolist())


@pytest.mark.parametrize("name", EVERY)
def test_the_shape_is_that_of_the_config(load, name):
    neurons = 128 if name in FOUR_TIMES else 48
    block = BlockShape(heads=4, key_value_heads=2 if name in GROUPED else 4, neurons=neurons)
    shape = anatomy.shape_of(load(name))
    assert shape.channels == 32
    assert shape.blocks == (block, block)


@pytest.mark.parametrize("name", EVERY)
def test_the_width_of_a_head_is_that_of_the_config(load, name):
    model = load(name)
    expected = EVERY[name].get("head_dim", 8)
    assert [anatomy.head_width(model, index) for index in (0, 1)] == [expected, expected]


@pytest.mark.parametrize("name", EVERY)
def test_units_own_every_row_and_column_of_their_layers_once(load, name):
    model = load(name)
    for units in units_of(model):
        owned = {}
        for slot in units.slots:
            assert len(slot.index) == len(units)
            assert model.module.get_submodule(slot.name) is slot.module
            owned.setdefault((slot.name, slot.side), []).extend(slot.index.flatten().tolist())
        for (layer, side), index in owned.items():
            assert sorted(index) == list(range(anatomy.size(model.module.get_submodule(layer), side)))


@pytest.mark.parametrize("name", EVERY)
def test_heads_and_neurons_together_have_parts_in_every_linear_layer_of_the_blocks(load, name):
    model = load(name)
    assert {slot.name for units in units_of(model) for slot in units.slots} == set(model.targets())


@pytest.mark.parametrize("name", EVERY)
def test_a_unit_reaches_its_own_columns_of_the_reader_and_no_others(load, name):
    model = load(name)
    for units in units_of(model):
        clean = reader_inputs(model, units)
        assert units.reader.side == IN
        for slot in units.slots[:-1]:
            assert slot.side == OUT
            weight = slot.module.weight
            before = weight.clone()
            rows = weight if isinstance(slot.module, torch.nn.Linear) else weight.T
            rows[slot.index[1]] += torch.linspace(-1, 1, rows.shape[1])
            expected = units.reader.index[1]
            if units.norms and slot is not units.slots[2]:  # a norm spreads what changes in one query or key
                expected = units.reader.index
            assert changed_columns(clean, reader_inputs(model, units)) == set(expected.flatten().tolist())
            weight.copy_(before)


@pytest.mark.parametrize("name", EVERY)
def test_a_head_goes_with_the_queries_that_read_its_keys(load, name):
    units = anatomy.heads(load(name), 1)
    width = EVERY[name].get("head_dim", 8)
    members = 2 if name in GROUPED else 1
    assert units.members == members
    assert len(units) == 4 // members
    queries, keys, values, reader = (slot.index.shape[1] for slot in four_slots(units))
    assert (queries, keys, values, reader) == (members * width, width, width, members * width)


def four_slots(units):
    """Queries, keys, values and reader; some families have the first three in one table, group after group."""
    if len(units.slots) == 4:
        return units.slots
    fused, reader = units.slots
    width = fused.index.shape[1] // (units.members + 2)
    split = fused.index.split([units.members * width, width, width], dim=1)
    parts = [anatomy.Slot(fused.name, fused.module, OUT, part) for part in split]
    return [*parts, reader]


@pytest.mark.parametrize("name", EVERY)
def test_the_gate_comes_first_where_there_is_one(load, name):
    model = load(name)
    is_gated = name in GATED
    assert anatomy.is_gated(model) == is_gated
    if not is_gated:
        return
    units = anatomy.neurons(model, 0)
    gate, up = units.slots[:2]
    for slot, is_gate in ((gate, True), (up, False)):
        before = slot.module.weight.clone()
        slot.module.weight[slot.index.flatten()] *= -1
        mirrored = reader_inputs(model, units)
        slot.module.weight.copy_(before)
        # Of a product only the factor without an activation passes its sign on.
        assert torch.equal(mirrored, -reader_inputs(model, units)) != is_gate


def residual_axes(name, model):
    """(parameter, axis) of residual width by size alone, in a model where nothing else is 32 wide."""
    axes = {
        (parameter, axis)
        for parameter, values in model.module.named_parameters(remove_duplicate=False)
        for axis, size in enumerate(values.shape)
        if size == 32
    }
    return axes - NOT_RESIDUAL.get(name, set())


@pytest.mark.parametrize("name", EVERY)
def test_channels_are_every_parameter_axis_of_residual_width(load, name):
    model = load(name, **({"head_dim": 12} if name in HEAD_WIDTHS else {}))
    for index in (0, 1) if name not in FIXED_HEADS else ():
        remove(model, anatomy.heads(model, index), [0])  # no inner width is the residual's now
    axes = residual_axes(name, model)
    before = dict(model.copy().module.named_parameters(remove_duplicate=False))
    remove(model, anatomy.channels(model), [0, 7, 31])
    kept = torch.tensor([channel for channel in range(32) if channel not in (0, 7, 31)])
    for parameter, values in model.module.named_parameters(remove_duplicate=False):
        expected = before[parameter]
        for axis in range(expected.ndim):
            if (parameter, axis) in axes:
                expected = expected.index_select(axis, kept)
        assert torch.equal(values, expected), parameter
    assert anatomy.channel_count(model) == 29
    assert logits(model).isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_channels_listed_are_channels_removed(load, name):
    model = load(name)
    units = anatomy.channels(model)
    assert len(units) == 32
    assert len({(slot.name, slot.side) for slot in units.slots}) == len(units.slots)
    for slot in units.slots:
        assert slot.index.tolist() == [[channel] for channel in range(32)]


def test_opt_with_narrow_embeddings_has_its_residual_between_its_projections(load):
    places = {(slot.name, slot.side) for slot in anatomy.channels(load("opt", word_embed_proj_dim=16)).slots}
    decoder = "model.decoder"
    assert not places & {(f"{decoder}.embed_tokens", OUT), ("lm_head", IN), (f"{decoder}.project_in", IN)}
    assert places >= {
        (f"{decoder}.project_in", OUT),
        (f"{decoder}.project_out", IN),
        (f"{decoder}.embed_positions", OUT),
    }


def test_opt_with_wide_embeddings_has_its_residual_from_embedding_to_head(load):
    names = {slot.name for slot in anatomy.channels(load("opt", word_embed_proj_dim=32)).slots}
    assert names >= {"model.decoder.embed_tokens", "model.decoder.final_layer_norm", "lm_head"}


def test_opt_without_a_final_norm_has_none_among_its_channels(load):
    model = load("opt", do_layer_norm_before=False)
    assert "model.decoder.final_layer_norm" not in {slot.name for slot in anatomy.channels(model).slots}
    remove(model, anatomy.channels(model), [3])
    assert logits(model).isfinite().all()


def test_a_model_without_a_part_says_none(load):
    model = load("opt", word_embed_proj_dim=32)
    assert anatomy.find(model.module, "model.decoder.project_in") is None
    assert anatomy.size(None, OUT) == 0
    assert anatomy.size(torch.nn.SiLU(), IN) == 0


@pytest.mark.parametrize("name", EVERY)
def test_shapes_alone_have_the_same_anatomy(load, name):
    model = load(name)
    shape = anatomy.shape_of(model)
    model.module.to("meta")
    assert anatomy.shape_of(model) == shape
