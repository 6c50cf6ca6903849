from slimsweep.techniques.layer_names import format_layer_names


def test_layers_that_differ_in_their_block_only_are_one():
    names = {f"model.layers.{index}.mlp.{part}": 576 for index in range(12) for part in ("up_proj", "gate_proj")}
    assert format_layer_names(names) == "model.layers.0-11.mlp.up_proj (576), model.layers.0-11.mlp.gate_proj (576)"


def test_gaps_other_notes_and_names_without_a_number_stay_apart():
    names = {"h.0.a": 4, "h.2.a": 4, "h.3.a": 4, "h.1.a": 8, "h.7.a": 4, "head": 4}
    assert format_layer_names(names) == "h.0,2-3,7.a (4), h.1.a (8), head (4)"


def test_only_the_first_number_is_the_block():
    assert format_layer_names({"layers.0.experts.1.up": 3, "layers.1.experts.1.up": 3, "layers.0.experts.2.up": 3}) == (
        "layers.0-1.experts.1.up (3), layers.0.experts.2.up (3)"
    )
