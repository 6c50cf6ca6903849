"""Every technique on a GPU beside the same job on the CPU: the same weights but for rounding."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import slimsweep.cli.app  # registers the resolvers of conf/config.yaml
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.base import PackedLinear, weight_2d
from slimsweep.models.batches import split
from slimsweep.paths import config_root
from slimsweep.pipeline.experiment import Experiment

assert slimsweep.cli.app
pytestmark = pytest.mark.gpu

SHAPE = "{model_type: llama, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 4, num_attention_heads: 4, "
SHAPE += "num_key_value_heads: 2, vocab_size: 258, tie_word_embeddings: true}"
JOBS = {
    "awq": ["technique=awq"],
    "chain": ["technique=[sparsegpt,gptq]"],
    "dynamic_int8": ["technique=dynamic_int8"],
    "fisher": ["technique=selective", "technique.selective.group_size=64"],
    "glu": ["technique=glu", "technique.glu.importance=activation", "technique.glu.repair=true"],
    "gptq": ["technique=gptq"],
    "gptq by group": ["technique=gptq", "technique.gptq.static_groups=false", "technique.gptq.act_order=false"],
    "half": ["technique=half"],
    "heads": ["technique=heads"],
    "int8": ["technique=int8"],
    "joint": ["technique=sparsegpt", "technique.sparsegpt.bits=4", "technique.sparsegpt.group_size=64"],
    "blocks": ["technique=layers"],
    "llm_pruner": ["technique=llm_pruner", "technique.llm_pruner.blocks=[0,1]"],
    "magnitude": ["technique=magnitude"],
    "nf4": ["technique=nf4"],
    "random": ["technique=random"],
    "rtn": ["technique=rtn"],
    "sequential": ["technique=sparsegpt", "technique.sparsegpt.inputs=sequential"],
    "smoothquant": ["technique=smoothquant"],
    "sparsegpt": ["technique=sparsegpt"],
    "sparsegpt 2:4": ["technique=sparsegpt", "technique.sparsegpt.pattern=2:4"],
    "sparsegpt dense inputs": ["technique=sparsegpt", "technique.sparsegpt.inputs=dense"],
    "squeezellm": ["technique=squeezellm"],
    "wanda": ["technique=wanda"],
    "wanda 2:4": ["technique=wanda", "technique.wanda.pattern=2:4"],
}


def weights_and_logits(words: list[str], device: str, folder: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights of a model after a job, and what it says of some ids, both on the CPU."""
    settings = [f"device={device}", "dtype=float32", "cache=off", "tracker=none", f"cache_dir={folder}"]
    settings += ["model=random", f"model.shape={SHAPE}", "calibration.tokens=64", "calibration.sequences=4", *words]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_root() / "conf"), version_base="1.3"):
        experiment = Experiment.of(compose("config", settings), settings)
    experiment.check()
    batch = experiment.calibration.sample(experiment.model, experiment.corpora, 0)
    model = experiment.model.load(torch.float32, torch.device(experiment.resolved_device))
    for stage in experiment.stages:
        stage.technique.apply(model, StageContext(batch))
    layers = [model.module.get_submodule(name) for name in model.targets()]
    weights = [layer.dequantized() if isinstance(layer, PackedLinear) else weight_2d(layer) for layer in layers]
    with torch.no_grad():
        said = model.logits(model.hidden_states(next(split(batch, 2))))
        return torch.cat([weight.float().cpu().flatten() for weight in weights]), said.float().cpu()


@pytest.mark.parametrize("words", JOBS.values(), ids=JOBS)
def test_a_job_gives_what_it_gives_on_the_cpu(words, tmp_path):
    found, expected = (weights_and_logits(words, device, str(tmp_path)) for device in ("cuda:0", "cpu"))
    for values, others in zip(found, expected, strict=True):
        assert float((values - others).norm() / others.norm()) < 0.01
