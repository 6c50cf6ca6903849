import json

import peft
import torch
from family_shapes import random_model

from slimsweep.linear.adapter import AdapterLinear
from slimsweep.linear.base import install
from slimsweep.models.storage import saved_model
from slimsweep.models.storage.peft_adapter import FOLDER, adapters_of, write_adapters
from slimsweep.techniques.quantization.rtn import RTN

IDS = torch.arange(12)[None] % 32


def adapted(folder, rank=2, scale=0.5):
    """A Llama with drawn adapters beside the layers of its MLPs, and the same one without them."""
    source = random_model("llama", str(folder))
    model, base = (source.load(torch.float32, torch.device("cpu")) for _ in range(2))
    chance = torch.Generator().manual_seed(0)
    for name, layer in model.targets().items():
        if "mlp" in name:
            rows, columns = layer.weight.shape
            factors = torch.randn(rank, columns, generator=chance), torch.randn(rows, rank, generator=chance)
            install(model.module, name, AdapterLinear.beside(layer, *factors, scale))
    return model, base


@torch.no_grad()
def logits(module):
    return module(IDS, use_cache=False).logits


def test_peft_reads_the_adapters_and_computes_the_same(tmp_path):
    model, base = adapted(tmp_path)
    saved_model.save(model, tmp_path / "saved")
    read = peft.PeftModel.from_pretrained(base.module, tmp_path / "saved" / FOLDER)
    torch.testing.assert_close(logits(read), logits(model.module), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(
        logits(model.module),
        logits(random_model("llama", str(tmp_path)).load(torch.float32, torch.device("cpu")).module),
        atol=1e-2,
    )


def test_ranks_and_scales_of_their_own_stand_in_the_patterns(tmp_path):
    model, _ = adapted(tmp_path)
    first = next(iter(adapters_of(model.module)))
    layer = model.module.get_submodule(first)
    rows, columns = layer.out_features, layer.in_features
    install(model.module, first, AdapterLinear.beside(layer.base, torch.ones(3, columns), torch.ones(rows, 3), 2.0))
    config = json.loads((write_adapters(model.module, tmp_path) / "adapter_config.json").read_text())
    assert config["r"] == 3 and config["lora_alpha"] == 6.0
    assert set(config["rank_pattern"].values()) == {2} and set(config["alpha_pattern"].values()) == {1.0}
    assert len(config["target_modules"]) == 6


def test_packed_bases_and_models_without_adapters_write_nothing(tmp_path):
    _, base = adapted(tmp_path)
    assert write_adapters(base.module, tmp_path) is None
    layer = base.targets()["model.layers.0.mlp.up_proj"]
    packed = RTN(bits=4, group_size=None).compress_layer(layer.weight.detach())
    factors = torch.ones(2, packed.in_features), torch.ones(packed.out_features, 2)
    install(base.module, "model.layers.0.mlp.up_proj", AdapterLinear.beside(packed, *factors))
    assert adapters_of(base.module) == {} and write_adapters(base.module, tmp_path) is None
