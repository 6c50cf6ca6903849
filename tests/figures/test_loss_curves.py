import pytest
from made_up import record

from slimsweep.figures.loss_curves import draw
from slimsweep.figures.style import paper_style


@pytest.fixture(autouse=True)
def style():
    with paper_style():
        yield


def trained(technique, losses, stopped=None, seed=0):
    made = record(technique, seed=seed, fields={"losses": losses} if losses else {})
    curve = [{"step": 0, "loss": None, "validation_loss": 4.0}, {"step": 8, "loss": 3.5, "validation_loss": 3.0}]
    made["stages"][0]["notes"] = {
        "training": {"curve": [*curve, {"step": 9, "validation_loss": None}], "stopped": stopped}
    }
    return made


def test_each_record_is_a_line_and_kinds_of_loss_have_their_own_file():
    figures = draw([trained("lora", None), trained("lora", None, seed=1), trained("distill", {"soft": 1})])
    assert set(figures) == {"loss_curves_tiny-lora-lora", "loss_curves_tiny-distill-distill-soft-1"}
    lines = figures["loss_curves_tiny-lora-lora"].axes[0].get_lines()
    assert [list(line.get_ydata()) for line in lines] == [[4.0, 3.0], [4.0, 3.0]]
    assert [line.get_label() for line in lines] == ["seed 0", "seed 1"]


def test_an_early_end_is_marked():
    figure = draw([trained("lora", None, "the loss is not finite at step 9")])["loss_curves_tiny-lora-lora"]
    assert figure.axes[0].get_lines()[-1].get_marker() == "x"


def test_records_without_training_draw_nothing():
    assert draw([record(), record("wanda", 0.5)]) == {}
