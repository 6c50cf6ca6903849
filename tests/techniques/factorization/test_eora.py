import dataclasses

import pytest
import torch
from contexts import text_context
from family_shapes import random_model
from restatements import layer_inputs, perplexity
from stages import CACHE, experiment

import slimsweep
from slimsweep.errors import ConfigError, ModelError
from slimsweep.evaluation.cost import Cost
from slimsweep.evaluation.size import Size
from slimsweep.linear.adapter import AdapterLinear
from slimsweep.linear.base import linear_layers, weight_2d
from slimsweep.linear.mask import removed
from slimsweep.models.skeleton import Skeleton
from slimsweep.models.storage.saved_model import save
from slimsweep.models.surgery import remove_blocks
from slimsweep.numerics.hessian import gram
from slimsweep.techniques.external.llmcompressor_quantizer import LLMCompressorQuantizer
from slimsweep.techniques.factorization.eora import EoRA, factors, moment_root
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.awq import AWQ
from slimsweep.techniques.quantization.gptq import GPTQ
from slimsweep.techniques.quantization.nf4 import NF4
from slimsweep.techniques.quantization.rtn import RTN
from slimsweep.techniques.structured.llm_pruner import LLMPruner
from slimsweep.techniques.training.distill import Distill
from slimsweep.techniques.training.distill_reasoning import DistillReasoning
from slimsweep.techniques.training.finetune import Finetune
from slimsweep.techniques.training.lora import LoRA
from slimsweep.techniques.training.lora_prune import LoRAPrune
from slimsweep.techniques.training.minillm import MiniLLM
from slimsweep.techniques.training.qat import QAT
from slimsweep.techniques.training.qlora import QLoRA

CPU = torch.device("cpu")
IDS = torch.randint(3, 250, (4, 24), generator=torch.Generator().manual_seed(2))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def restore(model, base, **fields):
    """Apply EoRA to a compressed model."""
    context = dataclasses.replace(text_context(IDS), teacher=lambda: base)
    return EoRA(**fields).apply(model, context)


def error(product: torch.Tensor, lost: torch.Tensor, inputs: torch.Tensor) -> float:
    """Squared error of the outputs."""
    return float(((product - lost).double() @ inputs.double().T).square().sum())


def test_two_inputs_by_hand():
    lost = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    moments = torch.tensor([[1.0, 0.0], [0.0, 16.0]])  # roots 1 and 4: the terms weigh 3 and 8
    down, up, left = factors(lost, moment_root(moments), 1)
    assert torch.allclose(up @ down, torch.tensor([[0.0, 0.0], [0.0, 2.0]]), atol=1e-6)
    assert left == pytest.approx(9 / (9 + 64))


def test_the_product_is_that_of_the_papers_factors():
    lost, inputs = randn(12, 9), randn(40, 9, seed=1) @ randn(9, 9, seed=2)
    values, vectors = torch.linalg.eigh((inputs.T @ inputs).double())
    left, singular, right = torch.linalg.svd(lost.double() @ vectors * values.sqrt(), full_matrices=False)
    b = left[:, :4] * singular[:4]
    a = right[:4] / values.sqrt() @ vectors.T
    down, up, _ = factors(lost, moment_root(gram(inputs)), 4)
    assert torch.allclose((up @ down).double(), b @ a, atol=1e-4)


def test_no_other_product_of_this_rank_is_nearer_on_the_inputs():
    lost, inputs = randn(12, 9), randn(40, 9, seed=1) @ randn(9, 9, seed=2)
    down, up, left = factors(lost, moment_root(gram(inputs)), 3)
    found = error(up @ down, lost, inputs)
    u, s, v = torch.linalg.svd(lost)
    plain = error(u[:, :3] * s[:3] @ v[:3], lost, inputs)
    assert found < plain
    assert left == pytest.approx(found / error(torch.zeros_like(lost), lost, inputs), rel=1e-4)
    for seed in range(50):
        nearby = (up + 0.1 * randn(12, 3, seed=seed)) @ (down + 0.1 * randn(3, 9, seed=seed + 50))
        # the best B for a random A
        low = inputs @ randn(3, 9, seed=seed).T
        best = torch.linalg.lstsq(low, inputs @ lost.T).solution.T @ randn(3, 9, seed=seed)
        assert found < error(nearby, lost, inputs) and found < error(best, lost, inputs)


def test_an_input_that_is_never_active_has_no_say_in_the_choice():
    lost, inputs, dead = randn(12, 9), randn(40, 9, seed=1), [2, 5]
    inputs[:, dead] = 0
    alive = [index for index in range(9) if index not in dead]
    down, up, left = factors(lost, moment_root(gram(inputs)), 3)
    apart = factors(lost[:, alive], moment_root(gram(inputs[:, alive])), 3)
    assert torch.allclose((up @ down)[:, alive], apart[1] @ apart[0], atol=1e-4)
    assert bool((up @ down).isfinite().all()) and left == pytest.approx(apart[2], rel=1e-6)
    down, up, left = factors(lost, moment_root(gram(inputs)), 9)
    assert error(up @ down, lost, inputs) < 1e-8 and left < 1e-12


def test_without_any_active_input_the_product_is_nearest_to_the_weight_and_no_error_is_left():
    lost = randn(12, 9)
    down, up, left = factors(lost, moment_root(torch.zeros(9, 9)), 3)
    u, s, v = torch.linalg.svd(lost)
    assert torch.allclose(up @ down, u[:, :3] * s[:3] @ v[:3], atol=1e-5) and left == 0


def test_nothing_lost_is_nothing_added():
    down, up, left = factors(torch.zeros(6, 4), torch.eye(4).double(), 2)
    assert not bool((up @ down).any()) and left == 0


@pytest.mark.parametrize("stage", [Magnitude(ratio=0.5), NF4(), GPTQ(bits=2, group_size=16)])
def test_full_rank_restores_the_dense_model_beside_what_is_stored(tiny_source, tiny, stage):
    base = tiny_source.load(torch.float32, CPU)
    expected = base.module(input_ids=IDS).logits
    stage.apply(tiny, text_context(IDS))
    stored = {name: weight_2d(layer).clone() for name, layer in tiny.targets().items()}
    assert not torch.allclose(tiny.module(input_ids=IDS).logits, expected, atol=1e-4)
    report = restore(tiny, base, rank=16, include=["*k_proj", "*v_proj"])
    restore(tiny, base, rank=32, exclude=["*k_proj", "*v_proj"])
    assert torch.allclose(tiny.module(input_ids=IDS).logits, expected, atol=1e-4)
    for name, layer in tiny.targets().items():
        assert isinstance(layer, AdapterLinear) and torch.equal(weight_2d(layer.base), stored[name])
        assert torch.allclose(layer.weight, base.targets()[name].weight, atol=1e-4)
    assert max(report.notes["output_error_left"].values()) < 1e-6
    assert report.notes["packing_error"]["largest"] < 1e-4


def test_inputs_are_those_of_the_blocks_with_their_pairs_or_without(tiny_source, tiny):
    base = tiny_source.load(torch.float32, CPU)
    Magnitude(ratio=0.5).apply(tiny, text_context())
    last = "model.layers.1.mlp.up_proj"
    found = {}
    for propagation in ("compressed", "dense"):
        model = tiny.copy()
        restore(model, base, rank=4, inputs=propagation, include=["*layers.0*", "*layers.1.mlp.up_proj"])
        found[propagation] = model.targets()[last].product
        before = model if propagation == "compressed" else tiny
        inputs = layer_inputs(before.module, [last], IDS)[last]
        lost = weight_2d(base.targets()[last]) - weight_2d(tiny.targets()[last])
        down, up, _ = factors(lost, moment_root(gram(inputs)), 4)
        assert torch.allclose(found[propagation], up @ down, atol=1e-4)
    assert not torch.allclose(found["compressed"], found["dense"], atol=1e-4)


def test_bias_counts_once_beside_a_packed_layer(tmp_path):
    source = random_model("phi", str(tmp_path))
    base, model = (source.load(torch.float32, CPU) for _ in range(2))
    with torch.no_grad():
        for layer in (*base.targets().values(), *model.targets().values()):
            layer.bias.fill_(0.5)
    RTN(bits=8, group_size=None).apply(model, text_context())
    expected = model.module(input_ids=IDS).logits
    restore(model, base, rank=1)
    assert torch.allclose(model.module(input_ids=IDS).logits, expected, atol=0.01)


@pytest.mark.parametrize("stage", [Magnitude(ratio=0.5), NF4()])
def test_the_plan_has_the_numbers_of_real_weights_which_are_counted_by_hand(tiny_source, tiny, stage):
    base, plan = tiny_source.load(torch.float32, CPU), tiny_source.skeleton().copy()
    dense = Size().measure(base, None).values["parameters"]
    for model in (tiny, plan):
        stage.plan(model) if isinstance(model, Skeleton) else stage.apply(model, text_context())
    before = Size().measure(tiny, None).values
    technique = EoRA(rank=4, exclude="*k_proj")
    planned, real = technique.plan(plan), restore(tiny, base, rank=4, exclude="*k_proj")
    added = 2 * 4 * (3 * (32 + 32) - (32 - 16) + 3 * (32 + 48))  # q, v and o; gate, up and down of two blocks
    sizes = [Size().measure(model, None).values for model in (plan, tiny)]
    assert sizes[0]["parameters"] == sizes[1]["parameters"] == dense + added
    assert sizes[1]["weight_bytes"] == before["weight_bytes"] + 4 * added
    names = ("weight_bytes", "checkpoint_bytes", "bits_per_weight")
    assert all(sizes[0][name] == sizes[1][name] for name in names)
    assert [(layer.name, layer.weights) for layer in planned.layers] == [
        (layer.name, layer.weights) for layer in real.layers
    ]
    if not isinstance(stage, NF4):  # whose zeros by rounding nobody plans
        assert [layer.zeros for layer in planned.layers] == [layer.zeros for layer in real.layers]
    costs = [Cost().measure(model, None).values for model in (plan, tiny)]
    assert costs[0]["gmacs"] == costs[1]["gmacs"] > Cost().measure(base, None).values["gmacs"]


@pytest.mark.parametrize("stage", [Magnitude(ratio=0.5), NF4(), GPTQ(bits=3, group_size=16)])
def test_a_saved_model_loads_in_a_new_process_with_equal_logits_and_masks(
    tiny_source, tiny, stage, tmp_path, new_processes
):
    stage.apply(tiny, text_context(IDS))
    restore(tiny, tiny_source.load(torch.float32, CPU), rank=4)
    ids = torch.arange(24)[None]
    expected = tiny.module(input_ids=ids).logits
    assert not save(tiny, tmp_path / "model")  # by its manifest only
    code = (
        "import sys, torch, slimsweep; model = slimsweep.load(sys.argv[1] + '/model');"
        "torch.save(model(input_ids=torch.arange(24)[None]).logits, sys.argv[1] + '/logits.pt')"
    )
    new_processes.run(code, tmp_path)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), expected)
    loaded = linear_layers(slimsweep.load(tmp_path / "model"))
    for name, layer in tiny.targets().items():
        mask = removed(layer.base)
        assert (mask is None) == (removed(loaded[name].base) is None) == (not isinstance(stage, Magnitude))
        assert mask is None or torch.equal(mask, removed(loaded[name].base))


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="rank=0") as found:
        EoRA(rank=0, inputs="sequential")
    assert "inputs='sequential'" in str(found.value)


def test_changed_shapes_are_refused_on_shapes_alone(tiny_source):
    narrow, short = tiny_source.skeleton().copy(), tiny_source.skeleton().copy()
    Magnitude(ratio=0.5).plan(narrow)
    assert EoRA(rank=4).faults(narrow) == []
    LLMPruner(ratio=0.5, blocks=[0, 1]).plan(narrow)
    (fault,) = EoRA(rank=4).faults(narrow)
    assert "changed the widths of" in fault and "model.layers.0-1.mlp.up_proj ((48, 32) to (24, 32))" in fault
    remove_blocks(short, [0])
    (fault,) = EoRA(rank=4).faults(short)
    assert "removed blocks: 7 layers are left of 14" in fault


def test_a_rank_above_a_width_and_pairs_beside_pairs_are_refused(tiny_source):
    skeleton = tiny_source.skeleton().copy()
    (fault,) = EoRA(rank=20).faults(skeleton)
    assert "rank=20" in fault and "k_proj (16)" in fault and "at most 16" in fault
    Magnitude(ratio=0.5).plan(skeleton)
    EoRA(rank=4, include="*q_proj").plan(skeleton)
    (fault,) = EoRA(rank=4).faults(skeleton)
    assert "model.layers.0-1.self_attn.q_proj (adapter)" in fault
    assert EoRA(rank=4, exclude="*q_proj").faults(skeleton) == []


TOO_LATE = {
    "magnitude,lora,eora": "lora trains",
    "magnitude,finetune,eora": "finetune trains",
    "qat,eora": "qat trains",
    "finetune,distill,rtn,eora": "distill trains",
    "awq,eora": "awq moves scales between layers",
    "smoothquant,lora,eora": "smoothquant moves scales between layers, lora trains",
}


@pytest.mark.parametrize("chain", TOO_LATE)
def test_stages_that_eora_would_undo_are_refused_before_weights_load(chain):
    # Groups of 16, since widths of the small model are multiples of it.
    groups = [f"technique.{name}.group_size=16" for name in chain.split(",") if name in ("qat", "awq", "rtn")]
    with pytest.raises(ConfigError) as found:
        experiment(CACHE, f"technique=[{chain}]", "technique.eora.rank=4", "data=quick", *groups)
    (fault,) = [fault for fault in found.value.faults if fault.startswith("technique.eora")]
    assert TOO_LATE[chain] in fault and "Put eora before training" in fault


def test_training_that_makes_the_base_comes_before_eora():
    chain = "technique=[finetune,magnitude,eora,lora]"
    knobs = ("technique.eora.rank=4", "technique.lora.rank=4", "technique.finetune.batch_sequences=2")
    assert experiment(CACHE, chain, "ratio=0.5", "data=quick", "technique.lora.batch_sequences=2", *knobs).stages


def test_every_stage_that_trains_says_so():
    for stage in (Finetune(), LoRA(), QLoRA(), QAT(), LoRAPrune(ratio=0.5), Distill(), MiniLLM(), DistillReasoning()):
        assert stage.requirements.data and stage.departure == "trains"
    assert Magnitude(ratio=0.5).departure is GPTQ().departure is LLMCompressorQuantizer().departure is None
    assert LLMCompressorQuantizer(method="awq").departure == AWQ().departure == "moves scales between layers"


def test_pairs_of_layers_that_lost_nothing_are_noted(tiny_source, tiny, caplog):
    Magnitude(ratio=0.5, include="*mlp*").apply(tiny, text_context())
    report = restore(tiny, tiny_source.load(torch.float32, CPU), rank=4, include=["*mlp.up_proj", "*q_proj"])
    untouched = [f"model.layers.{index}.self_attn.q_proj" for index in (0, 1)]
    assert report.notes["nothing_lost"] == untouched
    assert "no earlier stage changed model.layers.0-1.self_attn.q_proj" in caplog.text and "exclude=" in caplog.text
    assert all(not tiny.targets()[name].product.any() for name in untouched)


def test_weights_that_stand_for_other_inputs_are_refused(tiny_source, tiny):
    AWQ(bits=4, group_size=16).apply(tiny, text_context(IDS))
    with pytest.raises(ModelError, match="input_layernorm.weight is not that of the base"):
        restore(tiny, tiny_source.load(torch.float32, CPU), rank=4)


def test_a_base_of_other_widths_is_refused(tiny_source, tiny):
    LLMPruner(ratio=0.5, blocks=[0, 1], importance="l2").apply(tiny, text_context())
    with pytest.raises(ModelError, match="other layers than its base"):
        restore(tiny, tiny_source.load(torch.float32, CPU), rank=4)


def test_perplexity_of_a_trained_model_comes_back(stories260k_source, shared):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:40_000]
    base = stories260k_source.load(torch.float32, CPU)
    ids = torch.tensor(base.tokenizer(text)["input_ids"][: 32 * 256]).view(32, 256)
    model = base.copy()
    Magnitude(ratio=0.5).apply(model, text_context())
    found = [perplexity(base.module, ids[16:]), perplexity(model.module, ids[16:])]
    context = dataclasses.replace(text_context(ids[:16]), teacher=lambda: base)
    for rank in (4, 16):
        one = model.copy()
        EoRA(rank=rank).apply(one, context)
        found.append(perplexity(one.module, ids[16:]))
    dense, pruned, low, high = found
    assert dense < high < low < pruned


def test_a_model_that_lost_nothing_is_refused():
    skeleton = random_model("llama", "nowhere").skeleton().copy()
    assert "nothing was lost: put it behind such a stage" in EoRA(rank=2).faults(skeleton)[0]
    Magnitude(ratio=0.0).plan(skeleton)
    assert EoRA(rank=2).faults(skeleton) == []
