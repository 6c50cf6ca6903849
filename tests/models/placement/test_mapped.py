import json

import pytest
import torch
from contexts import text_context
from safetensors.torch import load_file, save_file

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.errors import ModelError
from slimsweep.evaluation.size import Size
from slimsweep.linear.mask import MASKS_FILE
from slimsweep.models.batches import text_batch
from slimsweep.models.language_model import weights_digest
from slimsweep.models.sources.local import LocalModel
from slimsweep.models.storage.saved_model import save
from slimsweep.techniques.pruning.sparsegpt import SparseGPT
from slimsweep.techniques.pruning.wanda import Wanda
from slimsweep.techniques.quantization.gptq import GPTQ
from slimsweep.techniques.quantization.rtn import RTN

CPU = torch.device("cpu")


@pytest.fixture
def folder(tiny, tmp_path):
    save(tiny, tmp_path / "saved")
    return tmp_path / "saved"


def pair(folder, tmp_path, dtype=torch.float32):
    source = LocalModel(path=str(folder), cache_dir=str(tmp_path))
    return source.load(dtype, CPU), source.load_mapped(dtype, tmp_path / "scratch")


def token_ids():
    return torch.randint(258, (6, 32), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_model_that_is_held_in_memory(folder, tmp_path, dtype):
    held, mapped = pair(folder, tmp_path, dtype)
    assert weights_digest(held) == weights_digest(mapped)
    assert torch.equal(
        held.logits(held.hidden_states(text_batch(token_ids()))),
        mapped.logits(mapped.hidden_states(text_batch(token_ids()))),
    )
    head, embeddings = mapped.module.lm_head.weight, mapped.module.model.embed_tokens.weight
    assert head is embeddings
    assert Size().measure(held, None) == Size().measure(mapped, None)


@pytest.mark.parametrize("technique", [SparseGPT(ratio=0.5), Wanda(ratio=0.5), GPTQ(bits=4, group_size=8)])
@pytest.mark.parametrize("activation_bytes", [None, 1000])
def test_it_compresses_to_the_same_bits(folder, tmp_path, technique, activation_bytes):
    held, mapped = pair(folder, tmp_path)
    mapped.activation_bytes = activation_bytes
    for model in (held, mapped):
        technique.apply(model, text_context(token_ids()))
    assert weights_digest(held) == weights_digest(mapped)


def test_every_forward_and_walk_gives_memory_back(folder, tmp_path, monkeypatch):
    _, mapped = pair(folder, tmp_path)
    count = []
    monkeypatch.setattr(mapped.scratch, "release", lambda: count.append(1))
    mapped.hidden_states(text_batch(token_ids()))
    assert len(count) == len(mapped.blocks)
    with mapped.resident(mapped.blocks[0]):
        pass
    assert len(count) == len(mapped.blocks) + 1


def test_odd_weights_are_named(folder, tmp_path):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, file)
    with pytest.raises(ModelError, match=f"{name}.*without memory_budget"):
        pair_mapped(folder, tmp_path)
    for odd in (tensors[name][:3], tensors[name].repeat(9, 1)):
        save_file(tensors | {name: odd.contiguous()}, file)
        with pytest.raises(ModelError, match=name):
            pair_mapped(folder, tmp_path)
    beyond = name.replace(".1.", ".2.")
    save_file(tensors | {beyond: tensors[name].clone()}, file)
    with pytest.raises(ModelError, match=beyond):
        pair_mapped(folder, tmp_path)
    save_file(tensors | {name: tensors[name] * float("nan")}, file)
    with pytest.raises(ModelError, match=f"NaN or inf.*{name}"):
        pair_mapped(folder, tmp_path)


def pair_mapped(folder, tmp_path):
    return LocalModel(path=str(folder), cache_dir=str(tmp_path)).load_mapped(torch.float32, tmp_path / "scratch")


def test_what_other_readers_pass_over_is_passed_over(folder, tmp_path, tiny):
    """Buffers that older versions saved, and names without the prefix of the base model."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(tensors | extra, file)
    assert weights_digest(pair_mapped(folder, tmp_path)) == weights_digest(tiny)
    save_file({name.removeprefix("model."): tensor for name, tensor in tensors.items()}, file)
    assert weights_digest(pair_mapped(folder, tmp_path)) == weights_digest(tiny)


def test_it_is_saved_in_shards_that_plain_transformers_reads(folder, tmp_path):
    from transformers import AutoModelForCausalLM

    (folder / "generation_config.json").write_text(json.dumps({"top_k": 7}))
    mapped = pair_mapped(folder, tmp_path)
    SparseGPT(ratio=0.5).apply(mapped, text_context(token_ids()))
    assert save(mapped, tmp_path / "again")
    shards = {path.name for path in (tmp_path / "again").glob("*.safetensors")} - {MASKS_FILE}
    assert len(shards) == len(mapped.blocks) + 1
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32)
    assert torch.equal(read(token_ids()).logits, mapped.module(token_ids()).logits)
    assert read.generation_config.top_k == 7


def test_a_manifest_is_refused(folder, tmp_path):
    (folder / "slimsweep.json").write_text(json.dumps({}))
    with pytest.raises(ModelError, match="has a manifest"):
        pair_mapped(folder, tmp_path)


def test_a_trained_model_too(shared, stories260k_source, stories260k, tmp_path):
    mapped = stories260k_source.load_mapped(torch.float32, tmp_path)
    assert weights_digest(mapped) == weights_digest(stories260k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kept", ["own head", "equal head", "head alone"])
def test_tied_weights_in_the_file_are_read_as_transformers_reads_them(folder, tmp_path, dtype, kept):
    from transformers import AutoModelForCausalLM

    tensors = load_file(folder / "model.safetensors")
    embeddings = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = embeddings * (0.5 if kept == "own head" else 1.0)
    if kept == "head alone":
        del tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    held, mapped = pair(folder, tmp_path, dtype)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    with torch.no_grad():
        expected = plain(token_ids()).logits
    for model in (held, mapped):
        assert torch.equal(model.module(token_ids()).logits, expected)
        is_tied = model.module.lm_head.weight is model.module.model.embed_tokens.weight
        assert is_tied == (kept != "own head")
    assert weights_digest(held) == weights_digest(mapped)
    assert Size().measure(held, None) == Size().measure(mapped, None)


def test_an_own_head_survives_compressing_saving_and_reading(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    own = {"lm_head.weight": tensors["model.embed_tokens.weight"] * 0.5}
    save_file(tensors | own, folder / "model.safetensors", {"format": "pt"})
    for name, model in zip(("held", "mapped"), pair(folder, tmp_path), strict=True):
        SparseGPT(ratio=0.5).apply(model, text_context(token_ids()))
        assert save(model, tmp_path / name)
        assert weights_digest(
            LocalModel(path=str(tmp_path / name), cache_dir=str(tmp_path)).load(torch.float32, CPU)
        ) == (weights_digest(model))
    held, _ = pair(folder, tmp_path)
    RTN(bits=4, group_size=8).apply(held, StageContext())
    save(held, tmp_path / "packed")
    assert weights_digest(
        LocalModel(path=str(tmp_path / "packed"), cache_dir=str(tmp_path)).load(torch.float32, CPU)
    ) == (weights_digest(held))
