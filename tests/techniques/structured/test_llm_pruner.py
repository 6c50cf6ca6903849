import json
import math
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest
import torch
from conftest import meta_model
from contexts import text_context
from family_shapes import DECODERS, ENCODERS, FIXED_HEADS
from planning import apply_or_plan
from reductions import WITHOUT_HEADS, loud
from removed import agree, first_blocks, ids, masked, noted, text_ids
from restatements import perplexity

from slimsweep.models import anatomy
from slimsweep.models.batches import text_batch
from slimsweep.models.language_model import parameter_count
from slimsweep.models.storage.saved_model import save
from slimsweep.models.surgery import remove, remove_blocks
from slimsweep.techniques.structured import importance
from slimsweep.techniques.structured.llm_pruner import IMPORTANCES, RANKINGS, LLMPruner

CPU = torch.device("cpu")
BOTH_BLOCKS = [0, 1]
CHOICES = {
    **{f"importance={name}": {"importance": name} for name in IMPORTANCES},
    **{
        f"{order}, {taylor}": {"order": order, "taylor": taylor}
        for order, taylor in product(importance.ORDERS, importance.TAYLOR)
    },
    **{f"aggregate={name}": {"aggregate": name} for name in importance.AGGREGATES},
    **{f"l2, aggregate={name}": {"importance": "l2", "aggregate": name} for name in importance.AGGREGATES},
    **{f"ranking={name}": {"ranking": name} for name in RANKINGS},
    **{f"steps={steps}": {"steps": steps} for steps in (1, 2, 3)},
    "more steps than units": {"importance": "l1", "steps": 100},
    "global in steps": {"ranking": "global", "steps": 3},
    "random in steps": {"importance": "random", "steps": 2},
}
every_choice = pytest.mark.parametrize("fields", CHOICES.values(), ids=CHOICES)


def kept(ratio: str, width: int) -> int:
    return math.floor(width * (1 - Fraction(ratio)))


def llama_2_7b(ratio: str, level: str) -> int:
    """Parameters that the rounding rules leave, from the published widths alone."""
    width, inner, vocabulary, blocks, head = 4096, 11008, 32000, 32, 128
    if level == "channel":
        channels = kept(ratio, width)
        block = 4 * width * channels + 3 * inner * channels + 2 * channels
        return 2 * vocabulary * channels + blocks * block + channels
    heads_gone = (width - kept(ratio, width)) // head
    gone = 4 * width * heads_gone * head + 3 * width * (inner - kept(ratio, inner))
    whole = 2 * vocabulary * width + width + blocks * (4 * width * width + 3 * width * inner + 2 * width)
    return whole - (blocks - 4 - 2) * gone


@pytest.mark.parametrize(
    ("level", "ratio", "parameters"),
    [
        ("block", "0", 6_738_415_616),
        ("block", "0.25", 5_422_977_024),
        ("block", "0.4", 4_677_079_040),
        ("block", "0.5", 4_107_538_432),
        ("block", "0.6", 3_592_204_288),
        ("channel", "0.2", 5_389_416_396),
        ("channel", "0.3", 4_716_561_907),
        ("channel", "0.4", 4_042_062_297),
        ("channel", "0.5", 3_369_207_808),
    ],
)
def test_llama_2_7b_has_the_counts_of_the_rounding_rules(level, ratio, parameters):
    assert llama_2_7b(ratio, level) == parameters
    model, technique = meta_model("llama_2_7b"), LLMPruner(ratio=float(ratio), level=level)
    assert technique.faults(model) == []
    technique.plan(model)
    assert parameter_count(model.module) == parameters


def test_the_default_range_is_4_to_29_of_32():
    assert LLMPruner(ratio=0.25).block_range(meta_model("llama_2_7b")) == list(range(4, 30))


def test_bad_knobs_are_named_together():
    with pytest.raises(ValueError) as error:
        LLMPruner(ratio=0.5, level="row", order="third", taylor="row", aggregate="min", ranking="any", steps=0)
    assert str(error.value).split("; ") == [
        "level='row': give block or channel",
        "order='third': give first, second or mixed",
        "taylor='row': give vector or element",
        "aggregate='min': give sum, mean, max or first",
        "ranking='any': give local or global",
        "steps=0: give a whole number of at least 1",
    ]
    with pytest.raises(ValueError, match="importance='l3': give taylor, l1, l2 or random"):
        LLMPruner(ratio=0.5, importance="l3")


@pytest.mark.parametrize("steps", [0, -1, True])
def test_steps_are_a_whole_number(steps):
    with pytest.raises(ValueError, match=f"steps={steps}: give a whole number of at least 1"):
        LLMPruner(ratio=0.5, steps=steps)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"level": "channel", "repair": True}, "repair=true has nothing to fit at level=channel"),
        ({"level": "channel", "blocks": [0, 1]}, "blocks has no meaning at level=channel"),
        ({"level": "channel", "ranking": "global"}, "ranking means nothing at level=channel"),
        ({"importance": "l1", "order": "second"}, "order and taylor mean nothing to importance=l1"),
        ({"importance": "random", "taylor": "vector"}, "order and taylor mean nothing to importance=random"),
        ({"importance": "random", "aggregate": "max"}, "aggregate means nothing to importance=random"),
    ],
)
def test_knobs_that_would_do_nothing_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LLMPruner(ratio=0.5, **fields)


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, ("text", "gradients")),
        ({"importance": "l1"}, ()),
        ({"importance": "random"}, ("seed",)),
        ({"importance": "l2", "repair": True}, ("text",)),
        ({"level": "channel"}, ("text", "gradients")),
    ],
)
def test_it_asks_for_no_more_than_it_needs(fields, needs):
    technique = LLMPruner(ratio=0.5, **fields)
    asked = {
        "text": technique.requirements.calibration,
        "gradients": technique.requirements.gradients,
        "seed": technique.requirements.seed,
    }
    assert tuple(name for name, is_asked in asked.items() if is_asked) == needs


@every_choice
@pytest.mark.parametrize("ratio", [0.3, 0.7])
def test_every_choice_leaves_the_same_widths(fields, ratio, tiny):
    report = LLMPruner(ratio=ratio, blocks=BOTH_BLOCKS, **fields).apply(tiny, text_context(ids()))
    shapes = anatomy.shape_of(tiny).blocks
    neurons = kept(str(ratio), 48)
    groups = 2 - (32 - kept(str(ratio), 32)) // 8 // 2
    if fields.get("ranking") == "global":
        assert sum(shape.neurons for shape in shapes) == 2 * neurons
        assert sum(shape.key_value_heads for shape in shapes) == 2 * groups
    else:
        assert {(shape.key_value_heads, shape.neurons) for shape in shapes} == {(groups, neurons)}
    per_kind = {
        kind: sum(e["removed"] for e in report.notes["details"] if e["kind"] == kind) for kind in ("heads", "neurons")
    }
    assert per_kind == {"heads": 2 * (2 - groups), "neurons": 2 * (48 - neurons)}
    assert torch.isfinite(tiny.module(input_ids=ids()).logits).all()


@pytest.mark.parametrize("name", [name for name, fields in CHOICES.items() if "ranking" not in fields])
def test_every_choice_leaves_the_same_channels(name, tiny):
    fields = CHOICES[name]
    (entry,) = LLMPruner(ratio=0.3, level="channel", **fields).apply(tiny, text_context(ids())).notes["details"]
    assert entry == {"kind": "channels", "before": 32, "removed": 10}
    assert anatomy.shape_of(tiny).channels == 22
    assert torch.isfinite(tiny.module(input_ids=ids()).logits).all()
    assert tiny.module.lm_head.weight is tiny.module.model.embed_tokens.weight


@pytest.mark.parametrize(
    "fields",
    [
        {"blocks": [1, 1]},
        {"blocks": [0, 1], "ranking": "global"},
        {"blocks": [0, 1], "steps": 3},
        {"level": "channel"},
        {"level": "channel", "importance": "l2", "steps": 2},
    ],
)
@pytest.mark.parametrize("ratio", [0, 0.3, 0.5, 0.9])
def test_shapes_alone_have_the_counts_of_weights(ratio, fields, tiny_source):
    technique = LLMPruner(ratio=ratio, **fields)
    counts = []
    for weights in ("random", "meta"):
        model = replace(tiny_source, weights=weights).load(torch.float32, CPU)
        apply_or_plan(technique, model, ids())
        counts.append(parameter_count(model.module))
    assert counts[0] == counts[1]


def test_ratio_zero_changes_no_bit(tiny):
    before = {name: value.clone() for name, value in tiny.module.state_dict().items()}
    for level, blocks in (("block", BOTH_BLOCKS), ("channel", None)):
        LLMPruner(ratio=0, level=level, blocks=blocks).apply(tiny, text_context(ids()))
    assert all(torch.equal(value, before[name]) for name, value in tiny.module.state_dict().items())


@pytest.mark.parametrize("name", FIXED_HEADS)
def test_blocks_with_fixed_heads_are_refused_and_their_channels_are_not(name, tmp_path):
    model = loud(name, str(tmp_path))
    (fault,) = LLMPruner(ratio=0.5, blocks=BOTH_BLOCKS).faults(model)
    assert "(ALiBi)" in fault and "llm_pruner with level=channel" in fault
    assert LLMPruner(ratio=0.5, level="channel").faults(model) == []


@pytest.mark.parametrize("name", WITHOUT_HEADS)
@pytest.mark.parametrize("fields", [{}, {"importance": "l1", "ranking": "global"}], ids=["taylor", "l1"])
def test_what_went_could_as_well_have_been_masked(name, fields, tmp_path, monkeypatch):
    model = loud(name, str(tmp_path))
    dense, gone = model.copy(), noted(monkeypatch)
    technique = LLMPruner(ratio=0.5, blocks=BOTH_BLOCKS, **fields)
    assert technique.faults(model) == []
    technique.apply(model, text_context(ids()))
    assert all(gone[index, "neurons"] for index in BOTH_BLOCKS) and sum(len(gone[i, "heads"]) for i in BOTH_BLOCKS) > 1
    assert agree(model, masked(dense, gone), ids())
    assert not agree(model, dense, ids())


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_channels_go_from_every_family(name, tmp_path):
    model = loud(name, str(tmp_path))
    LLMPruner(ratio=0.25, level="channel").apply(model, text_context(ids()))
    assert anatomy.shape_of(model).channels == 24
    assert torch.isfinite(model.module(input_ids=ids()).logits).all()


def test_a_job_removes_channels_from_a_model_whose_norms_have_no_weights(slimsweep, tmp_path):
    shape = {"layer_norm_elementwise_affine": False, "enable_bias": False, "word_embed_proj_dim": 32}
    save(loud("opt", str(tmp_path), **shape), tmp_path / "opt")
    knobs = ["technique=llm_pruner", "ratio=0.3", "technique.llm_pruner.level=channel", "calibration.tokens=32"]
    small = ["evaluation.tasks=[]", "evaluation.context_tokens=64", "evaluation.prompt_tokens=8"]
    small += ["evaluation.memory_tokens=16", "tracker=none", "dtype=float32"]
    answer = slimsweep("model=local", f"model.path={tmp_path}/opt", *knobs, *small)
    assert answer.status == 0, answer.err
    record = json.loads(Path(answer.out.splitlines()[-1]).read_text())
    assert record["stages"][0]["notes"]["after"]["channels"] == 22  # floor(32 x 0.7)
    assert record["perplexity_movie_reviews"] > 1


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"order": "second", "taylor": "vector", "aggregate": "max"},
        {"order": "mixed", "aggregate": "first"},
        {"importance": "l1"},
        {"importance": "l2", "aggregate": "mean"},
    ],
)
def test_the_lowest_scores_go(fields, tmp_path, monkeypatch):
    model, gone = loud("llama", str(tmp_path)), noted(monkeypatch)
    units = {
        (index, kind): getattr(anatomy, kind)(model, index) for index in BOTH_BLOCKS for kind in ("heads", "neurons")
    }
    knobs = {"importance": "taylor", "order": "first", "taylor": "element", "aggregate": "sum"} | fields
    if knobs["importance"] == "taylor":
        how = knobs["order"], knobs["taylor"], knobs["aggregate"]
        scores = importance.taylor_scores(model, list(units.values()), text_batch(ids()), *how)
    else:
        power = int(knobs["importance"][1])
        scores = [importance.norm_scores(one, power, knobs["aggregate"]) for one in units.values()]
    LLMPruner(ratio=0.5, blocks=BOTH_BLOCKS, **fields).apply(model, text_context(ids()))
    for place, values in zip(units, scores, strict=True):
        assert gone[place] == sorted(values.argsort(stable=True)[: len(values) // 2].tolist())


def test_a_global_ranking_takes_from_the_block_that_matters_least(tiny_source, monkeypatch):
    gone = noted(monkeypatch)
    for ranking, removed in (("local", {0: 24, 1: 24}), ("global", {0: 47, 1: 1})):
        model = tiny_source.load(torch.float32, CPU)
        for layer in (model.blocks[0].mlp.gate_proj, model.blocks[0].mlp.up_proj, model.blocks[0].mlp.down_proj):
            layer.weight *= 0.01
        LLMPruner(ratio=0.5, importance="l2", ranking=ranking, blocks=BOTH_BLOCKS).apply(model, text_context())
        assert {index: len(gone[index, "neurons"]) for index in BOTH_BLOCKS} == removed


def test_steps_measure_the_importance_anew(tiny):
    stepwise, by_hand = tiny, tiny.copy()
    LLMPruner(ratio=0.5, blocks=BOTH_BLOCKS, steps=3).apply(stepwise, text_context(ids()))
    totals = {"heads": 1, "neurons": 24}
    for step in (1, 2, 3):
        units = {(i, kind): getattr(anatomy, kind)(by_hand, i) for i in BOTH_BLOCKS for kind in totals}
        scores = importance.taylor_scores(by_hand, list(units.values()), text_batch(ids()), "first", "element", "sum")
        for (place, owned), values in zip(units.items(), scores, strict=True):
            total = totals[place[1]]
            count = total * step // 3 - total * (step - 1) // 3
            remove(by_hand, owned, values.argsort(stable=True)[:count].tolist())
    assert all(
        torch.equal(value, by_hand.module.state_dict()[name]) for name, value in stepwise.module.state_dict().items()
    )


def test_random_depends_on_the_seed_and_on_nothing_else(tiny_source, monkeypatch):
    gone, found = noted(monkeypatch), []
    technique = LLMPruner(ratio=0.5, importance="random", blocks=BOTH_BLOCKS)
    for weights_seed, token_ids, seed in ((0, None, 7), (1, None, 7), (0, ids(), 7), (0, None, 8), (0, None, 7)):
        torch.manual_seed(len(found))
        model = replace(tiny_source, seed=weights_seed).load(torch.float32, CPU)
        technique.apply(model, text_context(token_ids, seed))
        found.append(dict(gone))
    assert found[0] == found[1] == found[2] == found[4] != found[3]
    assert found[0][0, "neurons"] != found[0][1, "neurons"]


def test_a_ratio_that_leaves_no_channel_says_which_leaves_one(tiny):
    (fault,) = LLMPruner(ratio=0.99, level="channel").faults(tiny)
    assert fault.startswith("ratio=0.99 leaves no channel of 32: give at most 0.96")


@pytest.mark.parametrize("name", ["smollm2_135m", "llama_2_7b"])
def test_the_ratio_that_is_said_to_leave_a_channel_leaves_one(name):
    model = meta_model(name)
    (fault,) = LLMPruner(ratio=0.99999, level="channel").faults(model)
    most = float(fault.split("give at most ")[1].split(",")[0])
    assert LLMPruner(ratio=most, level="channel").faults(model) == []


def test_golden_output_of_version_2(tiny, monkeypatch):
    assert LLMPruner.version == 2
    gone = noted(monkeypatch)
    for layer in tiny.targets().values():
        rows, columns = layer.weight.shape
        layer.weight.copy_(
            torch.tensor([[((7 * column + 3 * row) % 11 - 5) / 4 for column in range(columns)] for row in range(rows)])
        )
    LLMPruner(ratio=0.9, importance="l1", blocks=[1, 1]).apply(tiny, text_context())
    every = set(range(48))
    assert every - set(gone[1, "neurons"]) == {4, 15, 26, 37} and gone[1, "heads"] == [1]


def test_a_chain_with_wanda_prunes_what_is_left(slimsweep):
    answer = slimsweep(
        *("model=random", "technique=[llm_pruner,wanda]", "ratio=0.5", "technique.llm_pruner.blocks=[0,1]"),
        *("calibration.sequences=2", "calibration.tokens=32", "evaluation.context_tokens=64", "tracker=none"),
        *("evaluation.max_windows=2", "evaluation.tasks=[]", "dtype=float32"),
    )
    assert answer.status == 0, answer.err
    record = json.loads(Path(answer.out.strip().splitlines()[-1]).read_text())
    assert record["technique"] == "llm_pruner+wanda" and record["sparsity"] == 0.5
    first, second = record["stages"]
    dense = 258 * 64 + 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64 + 2 * 64)
    gone = 2 * (2 * 32 * 64 + 2 * 16 * 64 + 3 * 64 * 64)
    assert record["parameters"] == dense - gone and first["notes"]["removed_parameters"] == gone
    assert second["weights"] == 2 * (2 * 32 * 64 + 2 * 16 * 64 + 3 * 64 * 64) == 2 * second["zeros"]
    assert record["perplexity_movie_reviews"] > 1


@pytest.fixture
def stories(shared, stories260k):
    """Token windows of real stories: 4 to calibrate, 8 others to judge."""
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:40_000]
    token_ids = torch.tensor(stories260k.tokenizer(text)["input_ids"][: 12 * 256]).view(12, 256)
    return token_ids[:4], token_ids[4:]


@pytest.mark.parametrize(
    ("level", "fields"),
    [
        ("block", {}),
        ("block", {"order": "second"}),
        ("block", {"order": "mixed", "taylor": "vector", "steps": 2}),
        ("channel", {}),
    ],
)
def test_taylor_beats_chance_on_trained_weights(level, fields, stories260k_source, stories):
    calibration, judged = stories
    ratio, blocks = (0.4, [0, 4]) if level == "block" else (0.2, None)

    def pruned(seed: int = 0, **fields) -> float:
        model = stories260k_source.load(torch.float32, CPU)
        LLMPruner(ratio=ratio, level=level, blocks=blocks, **fields).apply(model, text_context(calibration, seed))
        return perplexity(model.module, judged)

    assert pruned(**fields) < min(pruned(seed, importance="random") for seed in (0, 1))


@pytest.mark.parametrize("fields", [{}, {"importance": "random"}, {"ranking": "global", "steps": 2}])
def test_repair_lowers_perplexity_on_trained_weights(fields, stories260k_source, stories):
    calibration, judged = stories
    found = {}
    for repair in (False, True):
        model = stories260k_source.load(torch.float32, CPU)
        report = LLMPruner(ratio=0.4, blocks=[0, 4], repair=repair, **fields).apply(model, text_context(calibration))
        found[repair] = perplexity(model.module, judged)
    assert found[True] < found[False]
    repaired = [entry for entry in report.notes["details"] if entry["removed"]]
    assert repaired and all(entry["error_after_repair"] < entry["error_before_repair"] for entry in repaired)


def test_the_first_blocks_of_smollm2(smollm2, monkeypatch):
    model = first_blocks(smollm2)
    token_ids, dense, gone = text_ids(model, 2, 64), model.copy(), noted(monkeypatch)
    LLMPruner(ratio=0.4, blocks=[0, 1]).apply(model, text_context(token_ids))
    shapes = [(block.heads, block.key_value_heads, block.neurons) for block in anatomy.shape_of(model).blocks]
    assert shapes == [(6, 2, 921), (6, 2, 921), (9, 3, 1536)]
    assert agree(model, masked(dense, gone), token_ids)
    for index in (0, 1):
        neurons = anatomy.neurons(dense, index)
        (scores,) = importance.taylor_scores(dense, [neurons], text_batch(token_ids), "first", "element", "sum")
        stay = sorted(set(range(1536)) - set(gone[index, "neurons"]))
        assert scores[gone[index, "neurons"]].max() <= scores[stay].min()


def test_removed_blocks_before_it_are_counted(tiny):
    remove_blocks(tiny, [0])
    assert LLMPruner(ratio=0.5, blocks=[0, 1]).faults(tiny) == [
        "blocks=[0, 1] lie outside the model, whose blocks are 0 to 0"
    ]
