from dataclasses import replace

import pytest
import torch
from conftest import meta_model
from contexts import text_context
from family_shapes import DECODERS, ENCODERS, GATED
from planning import apply_or_plan
from reductions import loud
from removed import agree, first_blocks, ids, masked, noted, text_ids
from restatements import layer_inputs, perplexity

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.base import weight_2d
from slimsweep.models import anatomy
from slimsweep.models.language_model import parameter_count
from slimsweep.techniques.structured.glu import IMPORTANCES, Glu
from slimsweep.techniques.structured.llm_pruner import LLMPruner

CPU = torch.device("cpu")


def widths(model) -> list[int]:
    return [block.neurons for block in anatomy.shape_of(model).blocks]


def lowest(scores: list[float], count: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda unit: scores[unit])[:count])


def by_hand(model, index: int, importance: str) -> list[float]:
    """Scores of the neurons of an unfused MLP, one after the other."""
    mlp = model.blocks[index].mlp
    (inputs,) = layer_inputs(model.module, [f"model.layers.{index}.mlp.down_proj"], ids()).values()
    scores = []
    for unit in range(mlp.down_proj.in_features):
        gate, up, down = mlp.gate_proj.weight[unit], mlp.up_proj.weight[unit], mlp.down_proj.weight[:, unit]
        if importance == "peak_to_peak":
            scores.append(float(gate.max() - gate.min() + up.max() - up.min()))
        elif importance == "l2":
            scores.append(float(gate.norm() ** 2 + up.norm() ** 2) ** 0.5)
        else:
            adds = inputs[:, unit, None] * down
            scores.append(float(adds.square().sum(dim=1).mean()))
    return scores


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_the_neurons_of_lowest_score_go(importance, tmp_path, monkeypatch):
    model, gone = loud("llama", str(tmp_path)), noted(monkeypatch)
    expected = lowest(by_hand(model, 0, importance), 20)
    Glu(ratio=0.4, importance=importance, blocks=[0, 0]).apply(model, text_context(ids()))
    assert gone == {(0, "neurons"): expected}
    assert widths(model) == [28, 48]


def test_activations_are_those_of_the_reduced_blocks_before(tmp_path, monkeypatch):
    dense, gone = loud("llama", str(tmp_path)), noted(monkeypatch)
    half_way = dense.copy()
    Glu(ratio=0.5, importance="activation", blocks=[0, 0]).apply(half_way, text_context(ids()))
    Glu(ratio=0.5, importance="activation").apply(dense.copy(), text_context(ids()))
    assert gone[1, "neurons"] == lowest(by_hand(half_way, 1, "activation"), 24)
    assert gone[1, "neurons"] != lowest(by_hand(dense, 1, "activation"), 24)


def test_peak_to_peak_by_hand(tiny, monkeypatch):
    gone = noted(monkeypatch)
    mlp = tiny.blocks[0].mlp
    mlp.gate_proj.weight[:] = 5.0  # the same everywhere: no distance
    mlp.up_proj.weight[:] = torch.arange(48.0)[:, None]
    mlp.gate_proj.weight[[1, 2], 0] = torch.tensor([-95.0, 6.0])  # 100 and 1 from the lowest to the highest
    mlp.up_proj.weight[3, 5] = 5.0  # 2
    Glu(ratio=0.5, blocks=[0, 0]).apply(tiny, StageContext())
    assert gone[0, "neurons"] == [0, *range(4, 27)]  # of the 45 without any distance the first 24
    Glu(ratio=0.95, blocks=[0, 0]).apply(tiny, StageContext())
    assert tiny.blocks[0].mlp.gate_proj.weight[0, 0] == -95  # neuron 1 is the one that stays
    assert widths(tiny) == [1, 48]


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("importance", IMPORTANCES)
def test_what_went_could_as_well_have_been_masked(name, importance, tmp_path, monkeypatch):
    model = loud(name, str(tmp_path))
    dense, gone = model.copy(), noted(monkeypatch)
    technique = Glu(ratio=0.5, importance=importance)
    assert technique.faults(model) == []
    technique.apply(model, text_context(ids()))
    assert widths(model) == [24, 24]
    assert agree(model, masked(dense, gone), ids()) and not agree(model, dense, ids())


@pytest.mark.parametrize("name", sorted({*DECODERS, *ENCODERS} - set(GATED)))
def test_a_model_without_a_gate_is_refused(name, tmp_path):
    model = loud(name, str(tmp_path))
    for technique in (Glu(ratio=0.5), Glu(ratio=None, expansion_ratio=1)):
        assert technique.faults(model) == ["this model's MLP has no gate; use llm_pruner or qap, which need none"]


@pytest.mark.parametrize(("expansion", "neurons"), [(1.5, 48), (1.49, 47), (1, 32), (0.5, 16), (0.1, 3), (1 / 32, 1)])
def test_the_expansion_ratio_decides_the_inner_width(expansion, neurons, tiny):
    technique = Glu(ratio=0.5, expansion_ratio=expansion)
    assert technique.ratio is None
    assert technique.faults(tiny) == []
    technique.apply(tiny, StageContext())
    assert widths(tiny) == [neurons, neurons]


def test_the_expansion_ratio_is_of_the_width_the_model_has_now(tiny):
    LLMPruner(ratio=0.5, level="channel", importance="l2").apply(tiny, StageContext())
    Glu(ratio=None, expansion_ratio=1).apply(tiny, StageContext())
    assert widths(tiny) == [16, 16]


def test_a_block_that_is_narrower_already_is_left_alone(tiny):
    Glu(ratio=0.75, blocks=[0, 0]).apply(tiny, StageContext())
    Glu(ratio=None, expansion_ratio=1).apply(tiny, StageContext())
    assert widths(tiny) == [12, 32]


@pytest.mark.parametrize("expansion", [1.6, 4, 1 / 33])
def test_an_expansion_ratio_the_model_cannot_have_is_a_fault(expansion, tiny):
    (fault,) = Glu(ratio=None, expansion_ratio=expansion).faults(tiny)
    assert fault == f"expansion_ratio={expansion:g}: give at most the 1.50 this model has, above 0"


def test_published_shapes_end_with_the_expansion_ratio_that_was_asked_for():
    model = meta_model("llama_3_2_1b")  # 2,048 wide, 8,192 inside
    Glu(ratio=None, expansion_ratio=2.5).plan(model)
    assert set(widths(model)) == {5120}
    assert parameter_count(model.module) == 1_235_814_400 - 16 * 3 * 2048 * (8192 - 5120)


def test_the_expansion_ratio_is_taken_as_written():  # in binary 2.05 x 960 is 1967.9999999999998
    model = meta_model("smollm2_135m")
    units = anatomy.neurons(model, 0)
    reader = replace(units.reader, module=torch.nn.Linear(2560, 960, device="meta"))  # as in SmolLM2-360M
    wide = anatomy.Units("neurons", (*units.slots[:2], reader))
    table = torch.arange(2560)[:, None]
    wide = anatomy.Units("neurons", tuple(replace(slot, index=table) for slot in wide.slots))
    assert 2560 - Glu(ratio=None, expansion_ratio=2.05).removed_count(wide) == 1968


def test_the_expansion_ratio_that_is_said_to_be_allowed_is():
    model = meta_model("smollm2_135m")
    (fault,) = Glu(ratio=None, expansion_ratio=3).faults(model)
    most = float(fault.split("at most the ")[1].split()[0])
    assert Glu(ratio=None, expansion_ratio=most).faults(model) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": 0.5, "importance": "l1"}, r"importance='l1': give peak_to_peak, l2 or activation"),
        ({"ratio": None}, r"ratio=None: give a number in \[0, 1\)"),
        ({"ratio": 0.5, "expansion_ratio": 0}, "expansion_ratio=0: give a number above 0"),
        ({"ratio": 0.5, "expansion_ratio": -1.0}, "expansion_ratio=-1.0: give a number above 0"),
        ({"ratio": 0.5, "expansion_ratio": float("nan")}, "expansion_ratio=nan: give a number above 0"),
        ({"ratio": 0.5, "expansion_ratio": True}, "expansion_ratio=True: give a number above 0"),
        ({"ratio": 2, "importance": "x", "blocks": [2, 1]}, "ratio=2.*; blocks=.*; importance='x'"),
    ],
)
def test_bad_knobs_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Glu(**fields)


def test_only_activations_and_repair_look_at_text():
    needs = {name: Glu(ratio=0.5, importance=name).requirements.calibration for name in IMPORTANCES}
    assert needs == {"peak_to_peak": False, "l2": False, "activation": True}
    assert Glu(ratio=0.5, repair=True).requirements.calibration
    assert not Glu(ratio=0.5, importance="activation").requirements.gradients


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("ratio", [0, 0.01, 0.3, 0.7, 0.97])
def test_shapes_alone_have_the_counts_of_weights(ratio, importance, tiny_source):
    counts = []
    for weights in ("random", "meta"):
        model = replace(tiny_source, weights=weights).load(torch.float32, CPU)
        apply_or_plan(Glu(ratio=ratio, importance=importance), model, ids())
        counts.append((parameter_count(model.module), widths(model)))
    assert counts[0] == counts[1]


def test_golden_output_of_version_2(tiny, monkeypatch):
    assert Glu.version == 2
    gone = noted(monkeypatch)
    for layer in tiny.targets().values():
        rows, columns = layer.weight.shape
        row, column = torch.arange(rows)[:, None], torch.arange(columns)
        layer.weight.copy_(((7 * column + row) % 13 - 6) * (row % 5 + 1) / 8)  # 12 (row % 5 + 1) / 8 from end to end
    Glu(ratio=0.75, blocks=[0, 0]).apply(tiny, StageContext())
    kept = sorted(set(range(48)) - set(gone[0, "neurons"]))
    assert kept == [4, 9, 14, 19, 24, 29, 33, 34, 38, 39, 43, 44]  # of the nine that tie at 3 the last three


def test_repair_lowers_the_error_and_perplexity_on_trained_weights(shared, stories260k_source):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:40_000]
    token_ids = torch.tensor(stories260k_source.tokenizer()(text)["input_ids"][: 12 * 256]).view(12, 256)
    found = {}
    for importance in IMPORTANCES:
        for repair in (False, True):
            model = stories260k_source.load(torch.float32, CPU)
            report = Glu(ratio=0.4, importance=importance, repair=repair).apply(model, text_context(token_ids[:4]))
            found[importance, repair] = perplexity(model.module, token_ids[4:])
        details = report.notes["details"]
        assert len(details) == 5
        assert all(entry["error_after_repair"] < entry["error_before_repair"] for entry in details)
        assert found[importance, True] < found[importance, False]
    assert found["activation", False] < min(found["peak_to_peak", False], found["l2", False])


def test_the_first_blocks_of_smollm2(smollm2, monkeypatch):
    model = first_blocks(smollm2)
    token_ids, dense, gone = text_ids(model, 2, 64), model.copy(), noted(monkeypatch)
    Glu(ratio=0.4, importance="activation").apply(model, text_context(token_ids))
    assert widths(model) == [921, 921, 921]
    assert agree(model, masked(dense, gone), token_ids)
    (inputs,) = layer_inputs(dense.module, ["model.layers.0.mlp.down_proj"], token_ids).values()
    adds = inputs.square().mean(dim=0) * weight_2d(dense.blocks[0].mlp.down_proj).square().sum(dim=0)
    stay = sorted(set(range(1536)) - set(gone[0, "neurons"]))
    assert adds[gone[0, "neurons"]].max() <= adds[stay].min() * (1 + 1e-4)
