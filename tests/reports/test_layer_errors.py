import pytest
from made_up import record

from slimsweep.reports.layer_errors import Block, Measure, measures, split


def layer(block: int, part: str, **values):
    return {"name": f"model.layers.{block}.{part}", "weights": 100, "zeros": 0, "error": None} | values


def stage(*layers):
    return [{"stage": "rtn", "layers": list(layers)}]


def test_a_block_has_the_mean_of_its_layers_and_names_the_worst():
    layers = stage(layer(0, "up_proj", error=0.1), layer(0, "down_proj", error=0.3), layer(1, "up_proj", error=0.2))
    (measure,) = measures(record("rtn"), layers)
    assert [(block.name, block.value) for block in measure.blocks] == [
        ("model.layers.0", pytest.approx(0.2)),
        ("model.layers.1", 0.2),
    ]
    assert measure.blocks[0].worst == ("down_proj", 0.3)
    assert "stored weights" in measure.words


def test_the_first_bad_block_has_three_times_the_median_of_those_before_it():
    values = [1.0, 1.2, 1.1, 3.4, 9.0]
    measure = Measure("x", "error", tuple(Block(f"b{place}", value, ()) for place, value in enumerate(values)))
    block, times = measure.first_bad
    assert block.name == "b3" and times == pytest.approx(3.4 / 1.1)
    assert measure.sentence().startswith("First bad block: b3, 3.4, 3.09 times the median of the blocks before it.")
    assert "largest: b4 (9)" in measure.sentence()


def test_a_bad_first_block_is_compared_with_all_others():
    measure = Measure("x", "error", (Block("b0", 4.0, (("up", 4.0),)), Block("b1", 1.0, ()), Block("b2", 1.0, ())))
    assert measure.first_bad == (measure.blocks[0], 4.0)
    assert "the median of the other blocks; its worst layer is up (4)" in measure.sentence()


def test_even_errors_have_no_bad_block():
    measure = Measure("x", "error", (Block("b0", 1.0, ()), Block("b1", 2.9, ())))
    assert measure.first_bad is None and measure.sentence().startswith("No block stands out")
    assert (
        Measure("x", "error", (Block("b0", 0.0, ()), Block("b1", 1.0, ()))).first_bad is None
    )  # nothing to compare with


def test_pruned_weights_tell_their_change_and_others_their_zeros():
    changed = stage(layer(0, "up_proj", change=0.4, zeros=50))
    assert measures(record("rtn"), changed)[0].blocks[0].value == 0.4
    plain = stage(layer(0, "up_proj", zeros=50))
    assert measures(record("rtn"), plain)[0].blocks[0].value == 0.5
    assert "zeros" in measures(record("rtn"), plain)[0].words


def test_block_losses_stand_before_the_errors_of_layers():
    made = record("rtn")
    losses = {"model.layers.0": {"before": 2.0, "after": 0.5}, "model.layers.1": {"before": 2.0, "after": None}}
    made["stages"][0]["notes"] = {"block_loss": losses}
    first, second = measures(made, stage(layer(0, "up_proj", error=0.1)))
    assert [(block.name, block.value) for block in first.blocks] == [("model.layers.0", 0.5)]
    assert second.blocks[0].value == 0.1


def test_records_without_layers_have_no_measure():
    assert (
        measures(record(), None) == [] and measures(record("llm_pruner"), [{"stage": "llm_pruner", "layers": []}]) == []
    )


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("model.layers.12.mlp.up_proj", ("model.layers.12", "mlp.up_proj")),
        ("encoder.block.0.layer.1.DenseReluDense.wi", ("encoder.block.0", "layer.1.DenseReluDense.wi")),
        ("model.embed_tokens", ("model.embed_tokens", "embed_tokens")),
    ],
)
def test_a_name_is_split_at_its_first_number(name, parts):
    assert split(name) == parts
