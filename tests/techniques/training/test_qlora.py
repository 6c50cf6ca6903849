import pytest
import torch
from family_shapes import random_model
from restatements import perplexity
from tiny_training import text_batch_of
from token_sets import training_context

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.evaluation.size import Size
from slimsweep.linear.adapter import AdapterLinear
from slimsweep.linear.base import linear_forms, weight_2d
from slimsweep.linear.nf4 import NF4Linear
from slimsweep.models.storage.saved_model import save
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.nf4 import NF4
from slimsweep.techniques.quantization.rtn import RTN
from slimsweep.techniques.training.lora import LoRA
from slimsweep.techniques.training.objective import TaskLoss
from slimsweep.techniques.training.qlora import QLoRA

CPU = torch.device("cpu")
SHORT = {"tokens": 16 * 20, "batch_sequences": 4, "evaluations": 2, "learning_rate": 0.01}
CONTEXT = training_context(torch.arange(16 * 20).view(16, 20) % 7 + 3)  # which can be learnt


def test_gradients_reach_only_the_factors_and_nothing_else_changes(tiny, monkeypatch):
    packed = tiny.copy()
    NF4(exclude="*k_proj").apply(packed, StageContext())
    before = packed.module.state_dict()
    asked, plain = set(), TaskLoss.loss

    def loss(self, model, batch):
        asked.update(name for name, parameter in model.module.named_parameters() if parameter.requires_grad)
        return plain(self, model, batch)

    monkeypatch.setattr(TaskLoss, "loss", loss)
    report = QLoRA(rank=4, exclude="*k_proj", **SHORT).apply(tiny, CONTEXT)
    factors = {
        f"{name}.{part}" for name, layer in tiny.targets().items() if "k_proj" not in name for part in ("down", "up")
    }
    assert asked == factors and report.notes["training"]["trained_parameters"] == 2 * 4 * (176 + 240)
    after = {name.replace(".base.", "."): tensor for name, tensor in tiny.module.state_dict().items()}
    assert after.keys() - before.keys() == factors
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(bool(after[name].any()) for name in factors)  # B begins at zero
    assert report.notes["training"]["loss_best"] < report.notes["training"]["loss_start"]


def test_layers_that_are_packed_already_stay_as_they_are(tiny):
    RTN(bits=4, group_size=16, include="*mlp*").apply(tiny, StageContext())
    before = {name: weight_2d(layer).clone() for name, layer in tiny.targets().items() if "mlp" in name}
    QLoRA(rank=4, **SHORT).apply(tiny, CONTEXT)
    for name, layer in tiny.targets().items():
        assert isinstance(layer, AdapterLinear)
        assert layer.base.kind == ("integer" if name in before else "nf4")
        assert name not in before or torch.equal(weight_2d(layer.base), before[name])


def test_the_plan_on_shapes_has_the_bytes_of_real_weights(tiny_source, tiny):
    plan, technique = tiny_source.skeleton().copy(), QLoRA(rank=4, block_size=32, exclude="*k_proj", **SHORT)
    assert technique.faults(plan) == []
    planned, real = technique.plan(plan), technique.apply(tiny, CONTEXT)
    names = ("parameters", "weight_bytes", "bits_per_weight", "checkpoint_bytes")
    sizes = [Size().measure(model, None).values for model in (plan, tiny)]
    assert [sizes[0][name] for name in names] == [sizes[1][name] for name in names]
    assert planned.notes["bits_per_weight"] == real.notes["bits_per_weight"]
    assert 0 < real.notes["packing_error"]["mean"] < 0.2


def test_a_saved_model_loads_in_a_new_process_with_equal_logits(tiny, tmp_path, new_processes):
    QLoRA(rank=4, **SHORT).apply(tiny, CONTEXT)
    expected = tiny.module(input_ids=torch.arange(24)[None]).logits
    save(tiny, tmp_path / "model")
    code = (
        "import sys, torch, slimsweep; model = slimsweep.load(sys.argv[1] + '/model');"
        "torch.save(model(input_ids=torch.arange(24)[None]).logits, sys.argv[1] + '/logits.pt')"
    )
    new_processes.run(code, tmp_path)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), expected)


def test_a_merge_packs_again_and_keeps_removed_weights(tiny):
    Magnitude(ratio=0.5).apply(tiny, StageContext())
    zeros = {name: weight_2d(layer) == 0 for name, layer in tiny.targets().items()}
    report = QLoRA(rank=4, merge=True, **SHORT).apply(tiny, CONTEXT)
    for name, layer in tiny.targets().items():
        assert isinstance(layer, NF4Linear) and not bool(weight_2d(layer)[zeros[name]].any())
    assert report.notes["packing_error"]["mean"] > 0


def test_bad_values_and_kept_pairs_beside_pruned_weights_are_refused(tiny_source):
    with pytest.raises(ValueError, match="block_size=48"):
        QLoRA(block_size=48)
    with pytest.raises(ValueError, match="rank=None"):
        QLoRA(rank=None)
    skeleton = tiny_source.skeleton().copy()
    Magnitude(ratio=0.5).plan(skeleton)
    (fault,) = QLoRA(rank=4).faults(skeleton)
    assert "set merge=true, or preserve_sparsity=false" in fault


@pytest.mark.slow
def test_it_recovers_at_least_half_of_the_gap_between_four_bits_and_lora(stories260k_source, shared):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:500_000]
    base = stories260k_source.load(torch.float32, CPU)
    ids = torch.tensor(base.tokenizer(text)["input_ids"][: 900 * 128]).view(900, 128)
    settings = {"tokens": 128 * 800, "batch_sequences": 4, "evaluations": 4, "learning_rate": 0.003}
    found = []
    for technique in (NF4(), LoRA(**settings), QLoRA(**settings)):
        model = base.copy()
        technique.apply(model, training_context(ids[32:], validation=16))
        found.append(perplexity(model.module, ids[:32]))
    packed, adapted, both = torch.tensor(found).log().tolist()
    assert adapted < both and packed - both > (packed - adapted) / 2


def test_the_predicted_memory_counts_packed_weights(tmp_path):
    skeleton = random_model("llama", str(tmp_path)).skeleton().copy()
    batch = text_batch_of([torch.zeros(16, dtype=torch.long)] * 2)
    packed = skeleton.copy()
    NF4().plan(packed)
    technique = QLoRA(rank=2)
    dense, stored = (sum(tensor.nbytes for tensor in one.module.parameters()) for one in (skeleton, packed))
    assert dense > stored
    before = {name: layer.kind for name, layer in linear_forms(skeleton.module).items()}
    assert technique.training_bytes(skeleton, batch) == technique.training_bytes(packed, batch)
    assert technique.training_bytes(skeleton, batch) == LoRA(rank=2, merge=False).training_bytes(packed, batch)
    assert {name: layer.kind for name, layer in linear_forms(skeleton.module).items()} == before == {}
