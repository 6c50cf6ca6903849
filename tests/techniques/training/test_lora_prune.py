import pytest
import torch
from contexts import text_context
from restatements import perplexity
from tiny_training import FAST, counting_data
from tiny_training import training_context as counting
from token_sets import training_context

from slimsweep.errors import TrainingPaused
from slimsweep.evaluation.size import Size
from slimsweep.linear.adapter import AdapterLinear
from slimsweep.linear.base import install, is_plain, weight_2d
from slimsweep.models.anatomy import HEADS, NEURONS, Units, shape_of, units_of
from slimsweep.models.batches import to_device
from slimsweep.models.surgery import mask, remove
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.nf4 import NF4
from slimsweep.techniques.structured.llm_pruner import LLMPruner
from slimsweep.techniques.training.lora_prune import (
    LoRAPrune,
    cut,
    estimated_gradient,
    line_scores,
    share,
    unit_scores,
    weight_scores,
)

CPU = torch.device("cpu")
ALL = {"blocks": [0, 1], "rank": 4, **FAST}


def test_the_score_of_a_layer_of_two_by_two_by_hand():
    """B = (1, 2), A = (1, -1), dB = (0.5, -1), dA = (2, 1).

    dB A = [0.5 -0.5; -1 1], B dA = [2 1; 4 2], dB dA = [1 0.5; -2 -1], so the gradient is [1.5 0; 5 4].
    W + B A = [2 0; 0 2] + [1 -1; 2 -2] = [3 -1; 2 0]. The products are [4.5 0; 10 0].
    """
    up, down = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, -1.0]])
    up_gradient, down_gradient = torch.tensor([[0.5], [-1.0]]), torch.tensor([[2.0, 1.0]])
    gradient = estimated_gradient(down, up, down_gradient, up_gradient)
    assert gradient.tolist() == [[1.5, 0], [5, 4]]
    assert weight_scores(torch.tensor([[3.0, -1.0], [2.0, 0.0]]), gradient).tolist() == [[20.25, 0], [100, 0]]
    layer = torch.nn.Linear(2, 2, bias=False).requires_grad_(False)
    layer.weight.copy_(2 * torch.eye(2))
    form = AdapterLinear.beside(layer, down, up)
    lines = line_scores(form, {id(form.down): down_gradient, id(form.up): up_gradient})
    assert lines["out"].tolist() == [20.25, 100] and lines["in"].tolist() == [120.25, 0]


def test_the_estimated_gradient_is_the_step_of_gradient_descent():
    chance = torch.Generator().manual_seed(0)
    shapes = ((2, 5), (4, 2), (2, 5), (4, 2))
    down, up, down_gradient, up_gradient = (torch.randn(shape, generator=chance) for shape in shapes)
    step = up @ down - (up - up_gradient) @ (down - down_gradient)
    assert torch.allclose(estimated_gradient(down, up, down_gradient, up_gradient), step, atol=1e-5)


def test_removals_follow_the_cubic_schedule_and_sum_to_the_ratio():
    assert [share(64, step, 4) for step in (1, 2, 3, 4)] == [37, 19, 7, 1]  # 64 x (37, 56, 63, 64) / 64
    for total in (0, 1, 7, 1000):
        parts = [share(total, step, 3) for step in (1, 2, 3)]
        assert sum(parts) == total and min(parts) >= 0
    assert share(10, 1, 1) == 10


def adapted(model, rank: int = 3) -> dict[str, AdapterLinear]:
    """Adapters with drawn factors in the places of all layers."""
    forms = {}
    for seed, (name, layer) in enumerate(model.targets().items()):
        chance = torch.Generator().manual_seed(seed)
        rows, columns = weight_2d(layer).shape
        pair = 0.1 * torch.randn(rank, columns, generator=chance), 0.1 * torch.randn(rows, rank, generator=chance)
        forms[name] = AdapterLinear.beside(layer, *pair, 0.5)
    for name, form in forms.items():
        install(model.module, name, form)
    return forms


@pytest.mark.parametrize("kind", [HEADS, NEURONS])
def test_the_score_of_a_unit_is_that_of_autograd_over_all_it_owns(tiny, kind):
    forms, data = adapted(tiny), counting_data(tiny)
    batch = to_device(data.collate(data.training[:4]), CPU)
    for form in forms.values():
        form.down.requires_grad_(True)
        form.up.requires_grad_(True)
    tiny.task.loss(tiny.module, batch).backward()
    found = {id(factor): factor.grad for form in forms.values() for factor in (form.down, form.up)}
    units = units_of(tiny, kind, 1)
    scores = unit_scores(units, {name: line_scores(form, found) for name, form in forms.items()})
    expected = torch.zeros(len(units))
    for slot in units.slots:
        form = forms[slot.name]
        change = form.up @ form.down - (form.up - form.up.grad) @ (form.down - form.down.grad)
        values = (change * form.weight).square()
        for unit, lines in enumerate(slot.index):
            part = values[lines] if slot.side == "out" else values[:, lines]
            expected[unit] += part.sum()
    assert torch.allclose(scores, expected.detach(), rtol=1e-3, atol=0)


def test_the_importance_is_nine_tenths_of_the_first_batch_and_one_tenth_of_the_second(tiny, monkeypatch):
    forms, data = adapted(tiny), counting_data(tiny)
    technique, context = LoRAPrune(ratio=0.5, **ALL), counting(tiny)
    batches = [to_device(data.collate(data.training[start : start + 4]), CPU) for start in (0, 4)]

    def scores(*given):
        monkeypatch.setattr(LoRAPrune, "_batches", lambda *_: iter([[batch] for batch in given]))
        return technique._scores(tiny, forms, context)

    (first, second), together = (scores(batch) for batch in batches), scores(*batches)
    assert set(together) == {(index, kind) for index in (0, 1) for kind in (HEADS, NEURONS)}
    for place, values in together.items():
        assert not torch.allclose(first[place], second[place], rtol=0.01, atol=0)
        assert torch.allclose(values, 0.9 * first[place] + 0.1 * second[place], rtol=1e-4, atol=0)


def test_the_units_of_lowest_importance_are_removed(tiny, monkeypatch):
    before = {name: weight_2d(layer).clone() for name, layer in tiny.targets().items()}
    orders = {}

    def scores(self, model, adapters, context):
        for seed, (place, units) in enumerate(self._places(model).items()):
            orders[place] = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed))
        return {place: order.float() for place, order in orders.items()}

    monkeypatch.setattr(LoRAPrune, "_scores", scores)
    LoRAPrune(ratio=0.5, removals=1, **ALL | {"learning_rate": 1e-12}).apply(tiny, counting(tiny))
    for index in (0, 1):
        order = orders[index, NEURONS]
        keep = (order >= 24).nonzero().flatten()  # 24 of 48 neurons
        name = f"model.layers.{index}.mlp.up_proj"
        assert torch.allclose(weight_2d(tiny.targets()[name]), before[name][keep], atol=1e-6)


def test_each_phase_is_evaluated_twice_so_that_patience_can_end_it(tiny):
    fields = {"ratio": 0.5, "removals": 2, "score_batches": 1, "patience": 1, **ALL, "learning_rate": 1e-12}
    assert [LoRAPrune(**fields | {"evaluations": count})._phase(0.0).evaluations for count in (1, 3, 8, 9)] == [
        2,
        2,
        2,
        3,
    ]
    training = LoRAPrune(**fields | {"decay": "constant"}).apply(tiny, counting(tiny)).notes["training"]
    assert training["steps"] < training["planned_steps"] and "stood still" in training["stopped"]


@pytest.mark.parametrize("kind", [HEADS, NEURONS])
def test_cutting_layers_and_factors_is_masking_what_the_units_own(tiny_source, tiny, kind):
    """One model is cut with adapters beside it; of the other, adapters are merged and the units set to zero."""
    ids, gone = torch.arange(24)[None] + 5, [1]
    layers = tiny.targets()
    forms = adapted(tiny)
    masked = tiny_source.load(torch.float32, CPU)
    for name, layer in masked.targets().items():
        layer.weight.data = forms[name].weight
    mask(units_of(masked, kind, 0), gone)
    pairs = {name: (form.down.data, form.up.data) for name, form in forms.items()}
    for name, layer in layers.items():
        holder, _, last = name.rpartition(".")
        setattr(tiny.module.get_submodule(holder), last, layer)
    units: Units = units_of(tiny, kind, 0)
    cut(pairs, units, gone)
    remove(tiny, units, gone)
    for name, layer in tiny.targets().items():
        install(tiny.module, name, AdapterLinear.beside(layer, *pairs[name], 0.5))
    assert torch.allclose(tiny.module(input_ids=ids).logits, masked.module(input_ids=ids).logits, atol=1e-4)


@pytest.mark.parametrize("ratio", [0, 0.5])
def test_as_many_units_go_as_llm_pruner_removes_and_the_plan_says_so(tiny_source, tiny, ratio):
    plan, other = tiny_source.skeleton().copy(), tiny_source.skeleton().copy()
    technique = LoRAPrune(ratio=ratio, removals=2, score_batches=2, **ALL)
    assert technique.faults(plan) == []
    planned, real = technique.plan(plan), technique.apply(tiny, counting(tiny))
    LLMPruner(ratio=ratio, blocks=[0, 1], importance="l1").plan(other)
    assert shape_of(tiny) == shape_of(plan) == shape_of(other)
    assert [(one.name, one.weights) for one in planned.layers] == [(one.name, one.weights) for one in real.layers]
    for name in ("removed_parameters", "before", "after"):
        assert planned.notes[name] == real.notes[name]
    assert all(is_plain(layer) for layer in tiny.targets().values())
    assert Size().measure(plan, None).values["parameters"] == Size().measure(tiny, None).values["parameters"]
    training = real.notes["training"]
    steps = [entry["step"] for entry in training["curve"]]
    assert training["steps"] == 12 and steps == sorted(steps) and steps[-1] == 12
    assert training["loss_end"] < training["loss_start"]
    assert tiny.module(input_ids=torch.arange(9)[None]).logits.isfinite().all()


def test_equal_seeds_give_equal_models_whatever_one_forward_takes(tiny_source):
    found = []
    for micro in (None, None, 2):
        model = tiny_source.load(torch.float32, CPU)
        technique = LoRAPrune(ratio=0.5, removals=1, score_batches=2, micro_sequences=micro, **ALL)
        technique.apply(model, counting(model, seed=3))
        found.append(model.module.state_dict())
    first, same, parts = found
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert all(torch.allclose(first[name], parts[name], atol=1e-4) for name in first)


def test_an_interrupted_stage_goes_on_to_the_same_model(tiny_source, tmp_path, monkeypatch):
    fields = {"ratio": 0.5, "removals": 2, "score_batches": 2, **ALL}
    whole = tiny_source.load(torch.float32, CPU)
    LoRAPrune(**fields).apply(whole, counting(whole))
    paused = 0
    while True:
        model = tiny_source.load(torch.float32, CPU)
        try:
            LoRAPrune(**fields, max_minutes=1e-6 if paused < 2 else None).apply(
                model, counting(model, work_dir=tmp_path)
            )
            break
        except TrainingPaused:
            paused += 1
    assert paused == 2
    assert all(torch.equal(value, model.module.state_dict()[name]) for name, value in whole.module.state_dict().items())


def test_removed_weights_stay_zero(tiny):
    Magnitude(ratio=0.5).apply(tiny, text_context())
    LoRAPrune(ratio=0.5, removals=1, score_batches=1, **ALL).apply(tiny, counting(tiny))
    for name, layer in tiny.targets().items():
        weight = weight_2d(layer)
        assert 0.3 < int((weight == 0).sum()) / weight.numel() < 0.7, name


def test_bad_values_are_named_together():
    with pytest.raises(ValueError, match="merge=false") as found:
        LoRAPrune(ratio=0.5, merge=False, removals=0, decay_factor=1.0, rank=None)
    assert all(word in str(found.value) for word in ("removals=0", "decay_factor=1.0", "rank=None"))
    with pytest.raises(ValueError, match="ratio=1.5"):
        LoRAPrune(ratio=1.5)


def test_what_cannot_be_cut_or_scored_is_refused_on_shapes_alone(tiny_source):
    skeleton = tiny_source.skeleton().copy()
    faults = LoRAPrune(ratio=0.5, blocks=[0, 1], rank=4, include="*self_attn*").faults(skeleton)
    assert len(faults) == 2 and "no layer of the neurons of block 0 has an adapter" in faults[0]
    (fault,) = LoRAPrune(ratio=0.5, blocks=[0, 7], rank=4).faults(skeleton)
    assert "blocks=[0, 7]" in fault
    NF4().plan(skeleton)
    (fault,) = LoRAPrune(ratio=0.5, rank=4).faults(skeleton)
    assert "stored as nf4" in fault


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_a_trained_model_is_better_off_than_after_pruning_alone(stories260k_source, shared, ratio):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:500_000]
    base = stories260k_source.load(torch.float32, CPU)
    ids = torch.tensor(base.tokenizer(text)["input_ids"][: 900 * 128]).view(900, 128)
    pruned, tuned = base.copy(), base.copy()
    LLMPruner(ratio=ratio).apply(pruned, text_context(ids[32:64]))
    technique = LoRAPrune(ratio=ratio, tokens=128 * 800, batch_sequences=4, learning_rate=0.003)
    technique.apply(tuned, training_context(ids[32:], validation=16))
    assert shape_of(pruned) == shape_of(tuned)
    assert perplexity(base.module, ids[:32]) < perplexity(tuned.module, ids[:32]) < perplexity(pruned.module, ids[:32])
