"""Every kind of technique on encoder-decoders: applied, saved, and read back in a new process."""

import json

import pytest
import torch
from family_shapes import ENCODER_DECODERS, random_model
from reductions import loud
from small_stacks import pairs

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.base import weight_2d
from slimsweep.models.families import family_of
from slimsweep.models.language_model import LanguageModel, parameter_count
from slimsweep.models.sources.local import LocalModel
from slimsweep.models.storage import saved_model
from slimsweep.models.task import TASKS
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.pruning.sparsegpt import SparseGPT
from slimsweep.techniques.pruning.wanda import Wanda
from slimsweep.techniques.quantization.awq import AWQ
from slimsweep.techniques.quantization.gptq import GPTQ
from slimsweep.techniques.quantization.int8 import Int8
from slimsweep.techniques.quantization.nf4 import NF4
from slimsweep.techniques.quantization.rtn import RTN
from slimsweep.techniques.structured.heads import Heads
from slimsweep.techniques.structured.layers import Layers
from slimsweep.techniques.structured.llm_pruner import LLMPruner

PRUNERS = {"magnitude": Magnitude(ratio=0.5), "wanda": Wanda(ratio=0.5), "sparsegpt": SparseGPT(ratio=0.5)}
QUANTIZERS = {
    "rtn": RTN(bits=8, group_size=8),
    "gptq": GPTQ(bits=8, group_size=8),
    "awq": AWQ(bits=8, group_size=8),
    "int8": Int8(),
}
REMOVERS = {
    "llm_pruner": LLMPruner(ratio=0.5),
    "heads": Heads(ratio=0.25),
    "heads confidence": Heads(ratio=0.25, importance="confidence", repair=True),
    "layers": Layers(ratio=0.5, protect_first=0, protect_last=0),
}
READ = """
import json, sys, torch, slimsweep
folders, batch = json.loads(sys.argv[1]), torch.load(sys.argv[2], weights_only=True)
found = {}
for folder in folders:
    module = slimsweep.load(folder)
    with torch.no_grad():
        logits = module(**batch, use_cache=False).logits
    found[folder] = [sum(tensor.numel() for tensor in module.parameters()), logits.double().abs().sum().item()]
print(json.dumps(found))
"""
FORWARD = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")


def inputs() -> dict[str, torch.Tensor]:
    batch = pairs()
    return {name: batch[name].clamp(max=62) for name in FORWARD}  # bart-g2p-us has 63 tokens


def labels() -> torch.Tensor:
    return pairs()["labels"].clamp(max=62)


@torch.no_grad()
def logits(model: LanguageModel) -> torch.Tensor:
    return model.module(**inputs(), use_cache=False).logits


def applied(model: LanguageModel, technique) -> LanguageModel:
    model = model.copy()
    assert technique.faults(model) == []
    technique.apply(model, StageContext(inputs() | {"labels": labels()}))
    assert logits(model).isfinite().all()
    return model


@pytest.fixture(params=ENCODER_DECODERS)
def name(request):
    return request.param


@pytest.fixture
def dense(name, tmp_path):
    return loud(name, str(tmp_path))


def test_pruners_remove_half_of_each_layer_of_both_stacks(dense):
    for technique in PRUNERS.values():
        for name, layer in applied(dense, technique).targets().items():
            assert int((weight_2d(layer) == 0).sum()) == weight_2d(layer).numel() // 2, name


def test_include_chooses_one_stack(dense):
    pruned = applied(dense, Magnitude(ratio=0.5, include=["*decoder*"]))
    for name, layer in pruned.targets().items():
        assert bool((weight_2d(layer) == 0).any()) == ("decoder." in name), name


def test_eight_bits_are_near_the_weights_of_both_stacks(name, tmp_path):
    # As initialised: T5 does not scale its scores, so that louder weights would choose one position by a hair.
    dense = random_model(name, str(tmp_path)).load(torch.float32, torch.device("cpu"))
    for word, technique in QUANTIZERS.items():
        packed = applied(dense, technique)
        error = (logits(packed) - logits(dense)).norm() / logits(dense).norm()
        assert 0 < error < 0.05, word


def test_plans_leave_as_many_parameters_as_removal_leaves(name, dense, tmp_path):
    for word, technique in (REMOVERS | {"heads": Heads(ratio=0.5, ranking="local")}).items():
        if word == "heads confidence":  # heads of the stacks have other sizes, and all are ranked together
            continue
        planned = random_model(name, str(tmp_path)).skeleton().copy()
        technique.plan(planned)
        assert parameter_count(applied(dense, technique).module) == parameter_count(planned.module), word


def test_a_plan_that_cannot_know_whose_heads_go_says_so(tmp_path):
    notes = {
        name: Heads(ratio=0.25).plan(random_model(name, str(tmp_path)).skeleton().copy()).notes["details"][0]
        for name in ("bart", "t5")
    }
    assert "heads differ in size" in notes["bart"]["note"] and "note" not in notes["t5"]


def test_everything_is_read_back_in_a_new_process(tmp_path, new_processes):
    expected = {}
    for name in ENCODER_DECODERS:
        (folder := tmp_path / name).mkdir()
        expected |= saved_by_all(loud(name, str(folder)), folder)
    check_reading(expected, tmp_path, new_processes)


def test_the_trained_bart_goes_through_all_of_them(shared, tmp_path, new_processes):
    source = LocalModel(path=str(shared / "models" / "bart-g2p-us"), task="seq2seq_lm", cache_dir=str(tmp_path))
    module = source.skeleton().module
    assert sum(parameter.numel() for parameter in module.parameters()) == 751_488
    bart = wrapped(shared / "models" / "bart-g2p-us")
    assert "each of 2 blocks has one attention head, and it must stay" in " ".join(Heads(ratio=0.5).faults(bart))
    check_reading(saved_by_all(bart, tmp_path, without=("heads", "heads confidence")), tmp_path, new_processes)


def wrapped(folder) -> LanguageModel:
    module = saved_model.load(folder)
    return LanguageModel(module=module, family=family_of(module.config.model_type), task=TASKS["seq2seq_lm"])


def saved_by_all(dense: LanguageModel, folder, without=()) -> dict[str, list]:
    """Apply every technique and save; parameters and a sum of logits by folder."""
    every = PRUNERS | QUANTIZERS | REMOVERS | {"nf4": NF4()}
    techniques = {name: technique for name, technique in every.items() if name not in without}
    expected = {}
    for name, technique in techniques.items():
        model, place = applied(dense, technique), folder / name.replace(" ", "_")
        saved_model.save(model, place)
        parameters = sum(tensor.numel() for tensor in model.module.parameters())
        expected[str(place)] = [parameters, logits(model).double().abs().sum().item()]
    return expected


def check_reading(expected: dict[str, list], folder, new_processes) -> None:
    """Let one new process read all folders."""
    torch.save(inputs(), folder / "batch.pt")
    printed = new_processes.run(READ, json.dumps(list(expected)), folder / "batch.pt")
    answer = json.loads(printed.strip().splitlines()[-1])
    assert answer == {place: pytest.approx(values, rel=1e-6) for place, values in expected.items()}
