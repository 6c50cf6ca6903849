import pytest
import torch
from family_shapes import random_model
from tiny_training import text_batch_of, tiny_llama

from slimsweep.linear.base import set_layer
from slimsweep.models.language_model import parameter_count
from slimsweep.techniques.factorization.svd import SVD
from slimsweep.techniques.training.distill import Distill
from slimsweep.techniques.training.distill_reasoning import DistillReasoning
from slimsweep.techniques.training.finetune import Finetune
from slimsweep.techniques.training.lora import LoRA
from slimsweep.techniques.training.lora_prune import LoRAPrune
from slimsweep.techniques.training.minillm import MiniLLM
from slimsweep.techniques.training.qat import QAT
from slimsweep.techniques.training.qlora import QLoRA


def test_the_scale_is_alpha_over_rank_or_two():
    assert LoRA(rank=8).scale == 2 and LoRA(rank=8, alpha=4).scale == 0.5


def test_a_layer_takes_the_place_of_another(tmp_path):
    model = tiny_llama(tmp_path)
    layer = torch.nn.Linear(2, 2)
    set_layer(model.module, "model.layers.0.mlp.up_proj", layer)
    assert model.blocks[0].mlp.up_proj is layer


def test_globs_choose_the_layers_whose_weights_are_trained(tmp_path):
    model = tiny_llama(tmp_path)
    chosen = Finetune(include=["*mlp*"]).trained_parameters(model)
    assert {id(one) for one in chosen} == {id(layer.weight) for name, layer in model.targets().items() if "mlp" in name}
    assert len(Finetune().trained_parameters(model)) == len(list(model.module.parameters()))
    assert "matches none" in Finetune(include=["*nothing*"]).faults(model)[0]


@pytest.mark.parametrize(
    "technique",
    [
        Finetune(),
        Finetune(include=["*mlp*"]),
        LoRA(rank=2),
        LoRA(rank=2, merge=False),
        QLoRA(rank=2),
        LoRAPrune(ratio=0.5, rank=2),
        Distill(),
        Distill(rank=2, blocks="every_second"),
        MiniLLM(),
        DistillReasoning(),
        QAT(bits=4, group_size=None),
    ],
    ids=repr,
)
def test_the_memory_of_each_is_predicted_from_shapes(tmp_path, technique):
    skeleton = random_model("llama", str(tmp_path)).skeleton().copy()
    before = parameter_count(skeleton.module)
    batch = text_batch_of([torch.zeros(16, dtype=torch.long)] * 2)
    weights = sum(one.nbytes for one in skeleton.module.parameters())
    assert technique.training_bytes(skeleton, batch) > 0.5 * weights
    assert parameter_count(skeleton.module) == before


@pytest.mark.parametrize("technique", [LoRA(rank=2), QLoRA(rank=2), Distill(rank=2)], ids=repr)
def test_adapters_beside_factors_are_refused_with_what_trains_them(tmp_path, technique):
    skeleton = random_model("llama", str(tmp_path)).skeleton().copy()
    SVD(ratio=0.5).plan(skeleton)
    (fault,) = technique.faults(skeleton)
    assert fault.startswith("adapters stand beside plain or packed layers only") and "(low_rank)" in fault
    assert "after svd use finetune or distill" in fault
    assert Finetune().faults(skeleton) == Distill().faults(skeleton) == []
