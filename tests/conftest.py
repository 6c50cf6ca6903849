"""What tests share: models small enough to run in seconds, and real text where it is at hand."""

import gc
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import type_checks
from absl.logging import get_absl_handler
from new_process import NewProcesses

type_checks.install()

# absl, which rouge-score imports, closes the stream that stood for standard error when it was imported, once logging is
# configured anew: under pytest that is the capture of another test.
get_absl_handler().python_handler.stream = sys.__stderr__

# A shell that runs the tests in the background lets them, and every program they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

PROJECT = Path(__file__).resolve().parents[1]
CACHE = PROJECT / "outputs" / "cache"

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported; see slimsweep.cli.app
os.environ["WANDB_MODE"] = "offline"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("SLIMSWEEP_DATA", None)
os.environ.pop("SLIMSWEEP_OUTPUTS", None)

TINY_SHAPE = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 258,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module", autouse=True)
def imports_are_no_garbage():
    """What imports leave, a million objects, is looked through once a file: training asks for a collection each run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real texts and small trained models that some checkouts have beside them."""
    folder = PROJECT.parent / "shared"
    if not (folder / "models").is_dir():
        pytest.skip("needs the folder ../shared with real models and texts beside the checkout")
    return folder


@pytest.fixture(scope="session")
def tiny_source():
    """A Llama of two blocks with random weights and one id per byte."""
    from slimsweep.models.sources.random import RandomModel

    return RandomModel(name="tiny", shape=TINY_SHAPE, cache_dir=str(CACHE))


def meta_model(name: str):
    """The shape a YAML of conf/model gives, without weights."""
    import torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.load(PROJECT / "conf" / "model" / f"{name}.yaml")
    config.update(weights="meta", cache_dir=str(CACHE))
    return instantiate(config, _convert_="all").load(torch.bfloat16, torch.device("cpu"))


@pytest.fixture
def tiny(tiny_source):
    """A fresh copy of the tiny model, in fp32."""
    import torch

    return tiny_source.load(torch.float32, torch.device("cpu"))


@pytest.fixture(scope="session")
def stories260k_source(shared):
    """The trained Llama of 260,032 parameters that writes TinyStories."""
    from slimsweep.models.sources.local import LocalModel

    return LocalModel(path=str(shared / "models" / "stories260K"), cache_dir=str(CACHE))


@pytest.fixture
def stories260k(stories260k_source):
    """A fresh copy of the TinyStories model, in fp32."""
    import torch

    return stories260k_source.load(torch.float32, torch.device("cpu"))


@pytest.fixture(scope="session")
def smollm2():
    """Source of the embedded model, as conf/model/smollm2_135m.yaml describes it; converted once into outputs/cache."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.load(PROJECT / "conf" / "model" / "smollm2_135m.yaml")
    config.cache_dir = str(CACHE)
    return instantiate(config, _convert_="all")


@pytest.fixture(scope="session")
def new_processes(tmp_path_factory):
    """New processes that have nothing but files: `new_processes.run(code, ...)` takes a fraction of a second."""
    processes = NewProcesses(tmp_path_factory.mktemp("processes"))
    yield processes
    processes.close()


SPARSEML = '''
"""Sets the smallest half of each targeted layer to zero, after it checked what it was given."""
from pathlib import Path
import shutil, json
from safetensors.torch import load_file, save_file

def oneshot(model, tokenizer, dataset, recipe, output_dir, precision, max_seq_length, num_calibration_samples, **rest):
    modifier = json.loads(recipe)["pruning_stage"]["obcq_modifiers"]["SparseGPTModifier"]
    if modifier["sparsity"] == 0.9:
        raise RuntimeError("the stand-in fails at 0.9")
    assert precision == "float32" and rest["oneshot_device"] == "cpu" and modifier["mask_structure"] == "0:0"
    assert len(dataset) == num_calibration_samples and len(dataset[0]["input_ids"]) == max_seq_length
    shutil.copytree(model, output_dir)
    tensors = load_file(Path(output_dir) / "model.safetensors")
    for name, weight in tensors.items():
        if any(name.startswith(target + ".") for target in modifier["targets"]) and weight.ndim == 2:
            limit = weight.abs().flatten().kthvalue(int(modifier["sparsity"] * weight.numel())).values
            tensors[name] = weight.masked_fill(weight.abs() <= limit, 0)
    save_file(tensors, Path(output_dir) / "model.safetensors")
'''


@pytest.fixture
def sparseml_environment(tmp_path) -> str:
    """Stands in for the environment of sparseml: this interpreter, with a package of that name that prunes by size."""
    package = tmp_path / "packages" / "sparseml"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "transformers.py").write_text(SPARSEML)
    about = tmp_path / "packages" / "sparseml-1.8.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sparseml\nVersion: 1.8.0\n")
    python = tmp_path / "environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "packages"} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python.parents[1])


@dataclass(frozen=True)
class Answer:
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str


def save_a_dot(figure, folder: Path, stem: str) -> list[Path]:
    """Stands in for slimsweep.figures.style.save, which takes a second of a sweep; tests/figures call that one."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}.{suffix}" for suffix in ("pdf", "png")]
    for path in paths:
        Image.new("RGB", (1, 1)).save(path)
    return paths


@pytest.fixture
def figures_are_dots(monkeypatch):
    """Figures are made, and their files hold a dot. A file of tests that look at them has a fixture of this name."""
    monkeypatch.setattr("slimsweep.figures.style.save", save_a_dot)


@pytest.fixture
def slimsweep(tmp_path, monkeypatch, capfd, figures_are_dots):
    """Run the command `slimsweep` in this process, into an output folder of its own, without a stage cache."""
    from slimsweep.cli.app import main
    from slimsweep.cli.console import Console

    def command(*arguments: str) -> Answer:
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        given = {argument.split("=")[0] for argument in arguments}
        own = {"outputs_dir": f"{tmp_path}/outputs", "cache_dir": str(CACHE), "cache": "off"}
        argv = ["slimsweep", *arguments, *(f"{name}={value}" for name, value in own.items() if name not in given)]
        monkeypatch.setattr("sys.argv", argv)
        status, message = 0, ""
        try:
            main()
        except SystemExit as exit:
            status, message = (exit.code, "") if isinstance(exit.code, int) else (1, str(exit.code))
        out, err = capfd.readouterr()
        return Answer(status, out, err + message)

    yield command
    root = logging.getLogger()
    for handler in [one for one in root.handlers if type(one) in (Console, logging.FileHandler)]:
        root.removeHandler(handler)  # their streams are closed with this test
        handler.close()
