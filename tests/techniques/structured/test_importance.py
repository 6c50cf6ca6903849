import copy
import math

import pytest
import torch
from conftest import TINY_SHAPE
from reductions import loud
from torch.nn.functional import cross_entropy

from slimsweep.blockwise import gradients as gradients_module
from slimsweep.models import anatomy
from slimsweep.models.batches import text_batch
from slimsweep.techniques.structured import importance
from slimsweep.techniques.structured.importance import combine, distinct, norm_scores, taylor_scores

KINDS = ("heads", "neurons", "channels")
WIDTH, INNER, GROUPS, MEMBERS, HEAD = 32, 48, 2, 2, 8  # of the tiny model


def ids(sequences: int = 3, tokens: int = 10) -> torch.Tensor:
    return torch.randint(1, 250, (sequences, tokens), generator=torch.Generator().manual_seed(0))


def units_of(model, kind: str):
    return anatomy.channels(model) if kind == "channels" else getattr(anatomy, kind)(model, 1)


def ranges(units: int, width: int) -> list[list[int]]:
    return [list(range(unit * width, (unit + 1) * width)) for unit in range(units)]


def parts_of_tiny(kind: str) -> list[tuple[str, int, list[list[int]]]]:
    """By hand: parameters of the tiny model that a unit of block 1 has parts in, the axis, and which lines."""
    block = "model.layers.1."
    if kind == "heads":
        query, key = ranges(GROUPS, MEMBERS * HEAD), ranges(GROUPS, HEAD)
        names = ("q_proj", 0, query), ("k_proj", 0, key), ("v_proj", 0, key), ("o_proj", 1, query)
        return [(f"{block}self_attn.{name}.weight", axis, lines) for name, axis, lines in names]
    if kind == "neurons":
        names = ("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)
        return [(f"{block}mlp.{name}.weight", axis, ranges(INNER, 1)) for name, axis in names]
    lines = ranges(WIDTH, 1)
    parts = [("model.embed_tokens.weight", 1, lines), ("model.norm.weight", 0, lines)]  # the head is the embedding
    for index in range(TINY_SHAPE["num_hidden_layers"]):
        names = {f"self_attn.{name}": 1 for name in ("q_proj", "k_proj", "v_proj")}
        names |= {"mlp.gate_proj": 1, "mlp.up_proj": 1, "self_attn.o_proj": 0, "mlp.down_proj": 0}
        names |= {"input_layernorm": 0, "post_attention_layernorm": 0}
        parts += [(f"model.layers.{index}.{name}.weight", axis, lines) for name, axis in names.items()]
    return parts


def changes(model, token_ids: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """Gradient times weight of every parameter, for each sequence on its own, by autograd on the whole model."""
    module = copy.deepcopy(model.module).requires_grad_(True)
    parameters = dict(module.named_parameters())
    found = []
    for row in token_ids:
        logits = module(input_ids=row[None]).logits[0]
        if logits.dim() == 1:
            loss = -logits.log_softmax(dim=0).max()
        else:
            loss = -logits[:-1].log_softmax(dim=1).gather(1, row[1:, None]).mean()
        gradient = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        found.append(
            {
                name: (torch.zeros_like(value) if slope is None else slope * value).detach().double()
                for (name, value), slope in zip(parameters.items(), gradient, strict=True)
            }
        )
    return found


def by_hand(found: list[dict], part: tuple, order: str, taylor: str) -> list[float]:
    """Scores of one part of all units, line by line."""
    name, axis, lines = part
    terms = [one[name] for one in found]
    if order != "first":
        terms = [term**2 if order == "second" else term - term**2 / 2 for term in terms]
    mean = sum(terms) / len(terms)
    of_line = [mean.select(axis, line) for line in range(mean.shape[axis])]
    scores = [float(line.abs().sum() if taylor == "element" else line.sum().abs()) for line in of_line]
    return [sum(scores[line] for line in owned) for owned in lines]


def aggregated(scores: list[list[float]], aggregate: str) -> list[float]:
    of_unit = zip(*scores, strict=True)
    ways = {"sum": sum, "mean": lambda one: sum(one) / len(one), "max": max, "first": lambda one: one[0]}
    return [ways[aggregate](one) for one in of_unit]


@pytest.mark.parametrize("order", importance.ORDERS)
@pytest.mark.parametrize("taylor", importance.TAYLOR)
@pytest.mark.parametrize("kind", KINDS)
def test_taylor_scores_equal_autograd_on_the_whole_model(kind, taylor, order, tiny):
    found, units = changes(tiny, ids()), units_of(tiny, kind)
    first = f"{units.slots[0].name}.weight"
    in_order = sorted(parts_of_tiny(kind), key=lambda part: part[0] != first)
    parts = [by_hand(found, part, order, taylor) for part in in_order]
    for aggregate in importance.AGGREGATES:
        (scores,) = taylor_scores(tiny, [units], text_batch(ids()), order, taylor, aggregate)
        expected = aggregated(parts, aggregate)
        assert scores.tolist() == pytest.approx(expected, rel=1e-4)
        assert len(set(expected)) == len(expected)


@pytest.mark.parametrize("name", ["gpt2", "phi3", "gpt_neox", "bert", "distilbert"])
@pytest.mark.parametrize("taylor", importance.TAYLOR)
def test_fused_and_transposed_layers_are_scored_by_what_their_units_own(name, taylor, tmp_path):
    model = loud(name, str(tmp_path))
    found = changes(model, ids())
    for kind in ("heads", "neurons"):
        units = units_of(model, kind)
        is_conv1d = name == "gpt2"
        parts = [
            (f"{slot.name}.weight", int((slot.side == "in") != is_conv1d), slot.index.tolist()) for slot in units.slots
        ]
        expected = aggregated([by_hand(found, part, "mixed", taylor) for part in parts], "sum")
        (scores,) = taylor_scores(model, [units], text_batch(ids()), "mixed", taylor, "sum")
        assert scores.tolist() == pytest.approx(expected, rel=1e-3)
        assert min(expected) > 0


def test_all_units_are_scored_in_one_pass_as_each_alone(tiny):
    every = [anatomy.heads(tiny, 0), anatomy.neurons(tiny, 0), anatomy.neurons(tiny, 1), anatomy.channels(tiny)]
    together = taylor_scores(tiny, every, text_batch(ids()), "first", "element", "sum")
    for units, scores in zip(every, together, strict=True):
        assert torch.equal(scores, taylor_scores(tiny, [units], text_batch(ids()), "first", "element", "sum")[0])


@pytest.mark.parametrize("order", importance.ORDERS)
def test_scores_are_of_single_sequences_and_do_not_grow_with_their_number(order, tiny):
    units = [anatomy.neurons(tiny, 0)]
    (scores,) = taylor_scores(tiny, units, text_batch(ids()), order, "element", "sum")
    (twice,) = taylor_scores(tiny, units, text_batch(ids().repeat(2, 1)), order, "element", "sum")
    assert twice.tolist() == pytest.approx(scores.tolist(), rel=1e-5)
    if order == "second":  # squares of single sequences are summed: singles add up to the whole
        singles = [taylor_scores(tiny, units, text_batch(row[None]), order, "element", "sum")[0] for row in ids()]
        assert scores.tolist() == pytest.approx((sum(singles) / 3).tolist(), rel=1e-5)


def test_a_tied_head_and_embedding_count_once(tmp_path):
    tied, untied = (loud("llama", str(tmp_path), tie_word_embeddings=tied) for tied in (True, False))
    slots = anatomy.channels(tied).slots, anatomy.channels(untied).slots
    assert len(slots[0]) == len(slots[1])
    assert [len(distinct(one)) for one in slots] == [len(slots[0]) - 1, len(slots[0])]
    fused = anatomy.heads(loud("phi3", str(tmp_path)), 0).slots
    assert len(distinct(fused)) == len(fused) == 4  # one layer, other rows


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [("sum", [9.0, 6.0]), ("mean", [3.0, 2.0]), ("max", [5.0, 4.0]), ("first", [1.0, 4.0])],
)
def test_parts_become_one_score(aggregate, expected):
    parts = [torch.tensor([1.0, 4.0]), torch.tensor([5.0, 0.0]), torch.tensor([3.0, 2.0])]
    assert combine(parts, aggregate).tolist() == expected


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kind", ["heads", "neurons"])
def test_norm_scores_equal_the_formula_by_hand(kind, power, tiny):
    state = tiny.module.state_dict()
    parts = []
    for name, axis, lines in parts_of_tiny(kind):
        rows = (state[name].T if axis else state[name]).tolist()
        norms = [sum(abs(value) ** power for value in row) ** (1 / power) for row in rows]
        parts.append([sum(norms[line] for line in owned) for owned in lines])
    for aggregate in importance.AGGREGATES:
        found = norm_scores(units_of(tiny, kind), power, aggregate)
        assert found.tolist() == pytest.approx(aggregated(parts, aggregate), rel=1e-5)


@pytest.mark.parametrize("power", [1, 2])
def test_norm_scores_of_channels_equal_the_formula_by_hand(power, tmp_path):
    model = loud("llama", str(tmp_path))
    expected = torch.zeros(WIDTH, dtype=torch.double)
    for value in model.module.parameters():
        rows = value if value.dim() == 1 else value.T if value.shape[1] == WIDTH else value
        if value.shape == (WIDTH, WIDTH):  # q_proj reads the residual, o_proj writes it
            is_output = any(value is block.self_attn.o_proj.weight for block in model.blocks)
            rows = value if is_output else value.T
        expected += torch.linalg.vector_norm(rows.double().reshape(WIDTH, -1), ord=power, dim=1)
    assert norm_scores(anatomy.channels(model), power, "sum").tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_norm_scores_count_a_tied_embedding_once(tiny):
    channels = anatomy.channels(tiny)
    expected = sum(
        torch.linalg.vector_norm(
            tiny.module.state_dict()[name].T if axis else tiny.module.state_dict()[name].view(WIDTH, -1), ord=1, dim=1
        )
        for name, axis, _ in parts_of_tiny("channels")
    )
    assert norm_scores(channels, 1, "sum").tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_the_first_order_is_the_slope_of_the_loss_when_a_unit_shrinks(tmp_path):
    model = loud("llama", str(tmp_path), torch.float64)
    neurons = anatomy.neurons(model, 1)
    (gate,) = taylor_scores(model, [neurons], text_batch(ids()), "first", "vector", "first")
    (whole,) = taylor_scores(model, [neurons], text_batch(ids()), "first", "vector", "sum")

    def text_loss() -> float:
        with torch.no_grad():
            logits = model.module(input_ids=ids()).logits[:, :-1]
        return float(cross_entropy(logits.flatten(0, 1), ids()[:, 1:].flatten()))

    def slope(layers: list, unit: int) -> float:
        lines = [layer.weight[:, unit] if layer is down else layer.weight[unit] for layer in layers]
        losses, kept = [], [line.clone() for line in lines]
        for factor in (1.01, 0.99):
            for line, before in zip(lines, kept, strict=True):
                line.copy_(before * factor)
            losses.append(text_loss())
        for line, before in zip(lines, kept, strict=True):
            line.copy_(before)
        return abs(losses[0] - losses[1]) / 0.02

    mlp, down = model.blocks[1].mlp, model.blocks[1].mlp.down_proj
    for unit in range(0, INNER, 7):
        assert slope([mlp.gate_proj], unit) == pytest.approx(float(gate[unit]), rel=0.01)
        assert slope([mlp.gate_proj, mlp.up_proj, down], unit) <= float(whole[unit]) * 1.01
    assert float(gate.min()) > 0


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_the_loss_of_a_classifier_is_that_of_its_own_answer(name, tmp_path):
    model = loud(name, str(tmp_path))
    with torch.no_grad():
        probabilities = model.module(input_ids=ids()).logits.softmax(dim=-1)
    expected = -probabilities.amax(dim=1).log().mean()
    assert float(gradients_module.loss(model, text_batch(ids()))) == pytest.approx(float(expected), rel=1e-5)
    assert float(expected) < math.log(2)
    (scores,) = taylor_scores(model, [anatomy.heads(model, 0)], text_batch(ids()), "first", "element", "sum")
    assert float(scores.min()) > 0


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_left_as_it_was(kind, tiny):
    before = {name: value.clone() for name, value in tiny.module.state_dict().items()}
    taylor_scores(tiny, [units_of(tiny, kind)], text_batch(ids()), "mixed", "element", "sum")
    assert not any(parameter.requires_grad for parameter in tiny.module.parameters())
    assert all(parameter.grad is None for parameter in tiny.module.parameters())
    assert all(not parameter._post_accumulate_grad_hooks for parameter in tiny.module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in tiny.module.state_dict().items())
    assert not torch.is_grad_enabled()
