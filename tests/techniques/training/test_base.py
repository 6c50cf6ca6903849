import torch
from tiny_training import tiny_llama

from slimsweep.techniques.training.base import set_layer
from slimsweep.techniques.training.lora import LoRA


def test_the_scale_is_alpha_over_rank_or_two():
    assert LoRA(rank=8).scale == 2 and LoRA(rank=8, alpha=4).scale == 0.5


def test_a_layer_takes_the_place_of_another(tmp_path):
    model = tiny_llama(tmp_path)
    layer = torch.nn.Linear(2, 2)
    set_layer(model.module, "model.layers.0.mlp.up_proj", layer)
    assert model.blocks[0].mlp.up_proj is layer
