import copy
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from conftest import meta_model
from contexts import text_context
from family_shapes import FIXED_HEADS
from planning import apply_or_plan
from reductions import WITHOUT_HEADS, loud
from removed import agree, first_blocks, ids, masked, noted, text_ids
from restatements import layer_inputs, perplexity

from slimsweep.linear.base import weight_2d
from slimsweep.models import anatomy
from slimsweep.models.batches import text_batch
from slimsweep.models.language_model import parameter_count
from slimsweep.models.surgery import remove
from slimsweep.techniques.structured.heads import IMPORTANCES, RANKINGS, Heads, confidences, gate_gradients

CPU = torch.device("cpu")
SEVERAL = ["llama", "gpt2", "gpt_neox", "phi3", "opt", "phi", "gptj", "falcon", "olmo2"]
SEVERAL += ["bert", "roberta", "distilbert"]


def heads_of(model) -> dict[tuple[int, str], anatomy.Units]:
    return {(index, "heads"): anatomy.heads(model, index) for index in range(len(model.blocks))}


def implementations(model) -> list[str]:
    return [part.config._attn_implementation for part in model.module.modules() if hasattr(part, "config")]


def gates_by_autograd(model, token_ids) -> dict[tuple[int, str], list[float]]:
    """A factor of 1 on each head's output, and by how much the loss of each sequence would feel it change."""
    gates = {index: torch.ones(len(units), requires_grad=True) for index, units in heads_of(model).items()}
    handles = []
    for index, units in heads_of(model).items():
        owner = torch.empty(units.reader.index.numel(), dtype=torch.long)
        for unit, inputs in enumerate(units.reader.index):
            owner[inputs] = unit

        def scaled(_layer, args, index=index, owner=owner):
            return (args[0] * gates[index][owner],)

        handles.append(units.reader.module.register_forward_pre_hook(scaled))
    sums = {index: torch.zeros(len(gate)) for index, gate in gates.items()}
    for row in token_ids:
        logits = model.module(input_ids=row[None]).logits[0]
        if logits.dim() == 1:
            loss = -logits.log_softmax(dim=0).max()
        else:
            loss = -logits[:-1].log_softmax(dim=1).gather(1, row[1:, None]).mean()
        for index, slope in zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True):
            sums[index] += slope.abs()
    for handle in handles:
        handle.remove()
    return {index: (one / one.square().sum().sqrt()).tolist() for index, one in sums.items()}


def eager_confidences(model, token_ids) -> dict[tuple[int, str], list[float]]:
    """The mean of the highest attention weight, head by head, from a model that was always eager."""
    module = copy.deepcopy(model.module)
    module.set_attn_implementation("eager")
    module.config._attn_implementation = "eager"  # Falcon lets nobody set it by the line above
    with torch.no_grad():
        attentions = module(input_ids=token_ids, output_attentions=True).attentions
    found = {}
    for (index, kind), units in heads_of(model).items():
        heads = [
            float(attentions[index][:, head].max(dim=-1).values.mean()) for head in range(len(units) * units.members)
        ]
        found[index, kind] = [
            sum(heads[unit * units.members : (unit + 1) * units.members]) / units.members for unit in range(len(units))
        ]
    return found


@pytest.mark.parametrize("name", SEVERAL)
def test_taylor_is_the_slope_of_the_loss_in_a_gate_on_each_head(name, tmp_path):
    model = loud(name, str(tmp_path))
    expected = gates_by_autograd(model, ids())
    found = gate_gradients(model, heads_of(model), text_batch(ids()))
    assert {index: scores.tolist() for index, scores in found.items()} == {
        index: pytest.approx(scores, rel=1e-3) for index, scores in expected.items()
    }
    assert all(float(scores.norm()) == pytest.approx(1) for scores in found.values())


@pytest.mark.parametrize("name", SEVERAL)
def test_confidence_is_the_mean_of_the_highest_attention(name, tmp_path):
    model = loud(name, str(tmp_path))
    expected = eager_confidences(model, ids())
    found = confidences(model, heads_of(model), text_batch(ids()))
    assert {index: scores.tolist() for index, scores in found.items()} == {
        index: pytest.approx(scores, rel=1e-4) for index, scores in expected.items()
    }
    assert all(0 < score < 1 for scores in expected.values() for score in scores)


def test_uniform_attention_has_a_confidence_known_by_hand(tmp_path):
    decoder, encoder = loud("llama", str(tmp_path)), loud("bert", str(tmp_path))
    for model, layer in ((decoder, "self_attn.q_proj"), (encoder, "attention.self.query")):
        for block in model.blocks:
            block.get_submodule(layer).weight.zero_()
            if block.get_submodule(layer).bias is not None:
                block.get_submodule(layer).bias.zero_()
    tokens = ids().shape[1]
    of_decoder = sum(1 / (place + 1) for place in range(tokens)) / tokens  # the first token sees itself alone
    for model, expected in ((decoder, of_decoder), (encoder, 1 / tokens)):
        for scores in confidences(model, heads_of(model), text_batch(ids())).values():
            assert scores.tolist() == pytest.approx([expected] * len(scores), rel=1e-5)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_attention_implementation_is_restored(implementation, tiny):
    tiny.module.set_attn_implementation(implementation)
    Heads(ratio=0.5, importance="confidence").apply(tiny, text_context(ids()))
    assert set(implementations(tiny)) == {implementation}


def test_the_attention_implementation_is_restored_after_a_failure(tiny):
    before = implementations(tiny)
    with pytest.raises(IndexError):
        confidences(tiny, heads_of(tiny), text_batch(ids() + 1000))
    assert implementations(tiny) == before


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_nothing_of_the_measurement_is_left_in_the_model(importance, tiny):
    before = {name: value.clone() for name, value in tiny.module.state_dict().items()}
    Heads(ratio=0, importance=importance).apply(tiny, text_context(ids()))
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in tiny.module.parameters())
    if importance == "taylor":  # transformers itself leaves hooks where attentions were asked for once
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in tiny.module.modules())
    assert all(torch.equal(value, before[name]) for name, value in tiny.module.state_dict().items())


def test_a_distilbert_less_half_its_heads_has_its_known_count():
    model = meta_model("distilbert")
    width, head, blocks, heads = 768, 64, 6, 12
    gone = blocks * heads // 2 * (4 * width * head + 3 * head)  # three biases of its own; that of the output stays
    Heads(ratio=0.5).plan(model)
    assert parameter_count(model.module) == 66_955_010 - gone == 59_870_210


@pytest.mark.parametrize("name", FIXED_HEADS)
def test_heads_that_share_a_table_of_slopes_are_refused(name, tmp_path):
    model = loud(name, str(tmp_path))
    (fault,) = Heads(ratio=0.5).faults(model)
    assert fault.startswith("heads cannot be removed from this model: each has a position slope of its own (ALiBi)")
    assert Heads(ratio=0).faults(model) == []


@pytest.mark.parametrize("name", WITHOUT_HEADS)
@pytest.mark.parametrize("importance", IMPORTANCES)
def test_what_went_could_as_well_have_been_masked(name, importance, tmp_path, monkeypatch):
    model = loud(name, str(tmp_path))
    dense, gone = model.copy(), noted(monkeypatch)
    technique = Heads(ratio=0.5, importance=importance)
    assert technique.faults(model) == []
    details = technique.apply(model, text_context(ids())).notes["details"]
    assert agree(model, masked(dense, gone), ids()) and not agree(model, dense, ids())
    units = heads_of(dense)
    everything = sum(len(one) * one.members for one in units.values())
    assert sum(entry["removed"] for entry in details) == everything // 2 // units[0, "heads"].members


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("ratio", [0, 0.1, 0.25, 0.3, 0.5, 0.6])
def test_every_choice_removes_as_many(ratio, ranking, importance, tmp_path):
    model = loud("bert", str(tmp_path))
    details = (
        Heads(ratio=ratio, ranking=ranking, importance=importance).apply(model, text_context(ids())).notes["details"]
    )
    removed = [entry["removed"] for entry in details]
    if ranking == "local":
        assert removed == [int(Fraction(str(ratio)) * 4)] * 2
    else:
        assert sum(removed) == int(Fraction(str(ratio)) * 8)
    assert [block.heads for block in anatomy.shape_of(model).blocks] == [4 - count for count in removed]


@pytest.mark.parametrize("ranking", RANKINGS)
def test_the_heads_of_lowest_score_go(ranking, tmp_path, monkeypatch):
    model, gone = loud("distilbert", str(tmp_path)), noted(monkeypatch)
    scores = {index: gates for (index, _), gates in gates_by_autograd(model, ids()).items()}
    details = Heads(ratio=0.5, ranking=ranking).apply(model, text_context(ids())).notes["details"]
    for index in (0, 1):
        order = sorted(range(4), key=lambda unit: scores[index][unit])
        assert gone[index, "heads"] == sorted(order[: len(gone[index, "heads"])])
        assert details[index]["scores"] == pytest.approx(scores[index], abs=1e-4)
    removed = [scores[index][unit] for index in (0, 1) for unit in gone[index, "heads"]]
    kept = [scores[index][unit] for index in (0, 1) for unit in range(4) if unit not in gone[index, "heads"]]
    if ranking == "global":
        best = [max(scores[index]) for index in (0, 1)]
        assert max(removed) < min(score for score in kept if score not in best)
    assert len(removed) == 4


def test_each_block_keeps_a_head_in_a_global_ranking(tmp_path, monkeypatch):
    model, gone = loud("bert", str(tmp_path)), noted(monkeypatch)
    for (index, _), units in heads_of(model).items():  # one block's heads attend far less surely than the other's
        units.slots[0].module.weight *= (0.0, 4.0)[index]
        units.slots[0].module.bias *= (0.0, 4.0)[index]
    Heads(ratio=0.5, importance="confidence").apply(model, text_context(ids()))
    assert [len(gone[index, "heads"]) for index in (0, 1)] == [3, 1]


def test_under_grouped_queries_whole_groups_go(tiny):
    for ratio, groups in ((0.24, [2, 2]), (0.25, [1, 2]), (0.49, [1, 2]), (0.5, [1, 1])):
        model = tiny.copy()
        assert Heads(ratio=ratio).faults(model) == []
        Heads(ratio=ratio).apply(model, text_context(ids()))
        shapes = anatomy.shape_of(model).blocks
        assert sorted(block.key_value_heads for block in shapes) == groups
        assert all(block.heads == 2 * block.key_value_heads for block in shapes)


def test_more_than_each_block_can_spare_is_a_fault_that_says_how_much_is_allowed(tiny):
    assert Heads(ratio=0.9).faults(tiny) == [
        "ratio=0.9 would remove 3 of 4 heads or groups, and each of 2 attentions keeps one: give at most 0.5"
    ]
    assert Heads(ratio=0.5).faults(tiny) == []


@pytest.mark.parametrize("technique", ["heads", "heads ranking=local", "qap parts=[heads]"])
def test_where_each_block_has_one_key_value_head_nothing_can_be_removed(technique, slimsweep):
    name, *knobs = technique.split()
    words = [f"technique={name}", *(f"technique.{name}.{knob}" for knob in knobs), "ratio=0.3", "tracker=none"]
    shape = ["model=random", "model.shape.num_key_value_heads=1", "model.shape.vocab_size=258"]
    answer = slimsweep(*shape, *words, "evaluation=cost", "calibration.tokens=32", "dry_run=true")
    assert answer.status == 1
    assert "nothing can be removed there, since each of" in answer.err
    assert "has one key/value head that all its query heads read" in answer.err
    assert "give at most" not in answer.err


def test_one_head_a_block_stays_and_a_ratio_of_0_is_no_fault(tiny_source):
    shape = tiny_source.shape | {"num_attention_heads": 1, "num_key_value_heads": 1}
    skeleton = replace(tiny_source, shape=shape).skeleton()
    (fault,) = Heads(ratio=0.1).faults(skeleton)
    assert "each of 2 blocks has one attention head, and it must stay" in fault
    assert Heads(ratio=0).faults(skeleton) == []


@pytest.mark.parametrize("name", ["smollm2_135m", "llama_2_7b", "distilbert", "bert_base", "pythia_160m"])
def test_the_ratio_a_fault_allows_is_allowed_and_removes_all_it_can(name):
    model = meta_model(name)
    (fault,) = Heads(ratio=0.999).faults(model)
    most = Heads(ratio=float(fault.split("give at most ")[1]))
    assert most.faults(model) == []
    most.plan(model)
    assert {block.key_value_heads for block in anatomy.shape_of(model).blocks} == {1}


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("blocks", [None, [1, 1]])
@pytest.mark.parametrize("ratio", [0, 0.25, 0.5])
def test_shapes_alone_have_the_counts_of_weights(ratio, blocks, ranking, tiny_source):
    counts = []
    for weights in ("random", "meta"):
        model = replace(tiny_source, weights=weights).load(torch.float32, CPU)
        apply_or_plan(Heads(ratio=ratio, ranking=ranking, blocks=blocks), model, ids())
        counts.append(parameter_count(model.module))
    assert counts[0] == counts[1]


def test_heads_go_twice_from_blocks_that_differ(tmp_path):
    model = loud("bert", str(tmp_path))
    remove(model, anatomy.heads(model, 0), [2])
    for importance in IMPORTANCES:
        Heads(ratio=0.3, importance=importance).apply(model, text_context(ids()))
    assert sum(block.heads for block in anatomy.shape_of(model).blocks) == 7 - 2 - 1


def test_bad_knobs_are_named_together():
    with pytest.raises(
        ValueError, match=r"ratio=1: .*; importance='l2': give taylor or confidence; ranking='any': give"
    ):
        Heads(ratio=1, importance="l2", ranking="any")


def test_it_asks_for_no_more_than_it_needs():
    assert [Heads(ratio=0.5, importance=name).requirements.gradients for name in IMPORTANCES] == [True, False]
    assert Heads(ratio=0.5, importance="confidence").requirements.calibration and not Heads(ratio=0.5).requirements.seed


def test_a_plan_notes_no_scores_since_none_are_known(tiny, tiny_source):
    planned, applied = (apply_or_plan(Heads(ratio=0.5), one, ids()) for one in (tiny_source.skeleton().copy(), tiny))
    assert all("scores" in entry for entry in applied.notes["details"])
    known = [{name: value for name, value in entry.items() if name != "scores"} for entry in applied.notes["details"]]
    assert sum(entry["removed"] for entry in planned.notes["details"]) == sum(entry["removed"] for entry in known) > 0
    assert [entry.keys() for entry in planned.notes["details"]] == [entry.keys() for entry in known]


def test_golden_output_of_version_2(tmp_path, monkeypatch):
    assert Heads.version == 2
    model, gone = loud("bert", str(tmp_path)), noted(monkeypatch)
    for block in model.blocks:  # heads 0 to 3 attend 4, 1, 3 and 2 times as strongly as head 1
        for head, factor in enumerate((4, 1, 3, 2)):
            block.attention.self.query.weight[8 * head : 8 * head + 8] = 0.3 * factor * torch.eye(8, 32)
            block.attention.self.key.weight[8 * head : 8 * head + 8] = torch.eye(8, 32)
        block.attention.self.query.bias.zero_()
        block.attention.self.key.bias.zero_()
    Heads(ratio=0.5, importance="confidence", ranking="local").apply(model, text_context(ids()))
    assert gone == {(0, "heads"): [1, 3], (1, "heads"): [1, 3]}


def test_repair_fits_the_data_better_than_masking(tmp_path, monkeypatch):
    model, gone = loud("gpt2", str(tmp_path)), noted(monkeypatch)
    dense = model.copy()
    (entry,) = Heads(ratio=0.5, blocks=[0, 0], repair=True).apply(model, text_context(ids())).notes["details"]
    reader = anatomy.heads(dense, 0).reader
    (inputs,) = layer_inputs(dense.module, [reader.name], ids()).values()
    keep = torch.ones(inputs.shape[1], dtype=torch.bool)
    keep[reader.index[gone[0, "heads"]].flatten()] = False
    output = inputs @ weight_2d(reader.module).T
    for column, weight in (
        ("before", weight_2d(reader.module)[:, keep]),
        ("after", weight_2d(model.blocks[0].attn.c_proj)),
    ):
        error = (output - inputs[:, keep] @ weight.T).square().sum() / output.square().sum()
        assert entry[f"error_{column}_repair"] == pytest.approx(float(error), rel=1e-3)
    assert entry["error_after_repair"] < entry["error_before_repair"]


def test_repair_lowers_perplexity_on_trained_weights(shared, stories260k_source):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:40_000]
    token_ids = torch.tensor(stories260k_source.tokenizer()(text)["input_ids"][: 12 * 256]).view(12, 256)
    for importance in IMPORTANCES:
        found = {}
        for repair in (False, True):
            model = stories260k_source.load(torch.float32, CPU)
            Heads(ratio=0.4, importance=importance, repair=repair).apply(model, text_context(token_ids[:4]))
            assert sum(block.heads for block in anatomy.shape_of(model).blocks) == 24
            found[repair] = perplexity(model.module, token_ids[4:])
        assert found[True] < found[False]


def test_the_first_blocks_of_smollm2(smollm2, monkeypatch):
    model = first_blocks(smollm2)
    token_ids, dense = text_ids(model, 2, 64), model.copy()
    expected = {"taylor": gates_by_autograd(model, token_ids), "confidence": eager_confidences(model, token_ids)}
    for importance in IMPORTANCES:
        model, gone = dense.copy(), noted(monkeypatch)
        details = Heads(ratio=0.5, importance=importance).apply(model, text_context(token_ids)).notes["details"]
        assert sum(block.heads for block in anatomy.shape_of(model).blocks) == 27 - 12  # of 27 heads 13 are 4 groups
        for index, entry in enumerate(details):
            assert entry["scores"] == pytest.approx(expected[importance][index, "heads"], rel=1e-2, abs=1e-4)
        assert agree(model, masked(dense, gone), token_ids)
