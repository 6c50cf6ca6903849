import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_SHAPE
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer

from slimsweep.errors import ModelError
from slimsweep.models.sources import gguf_file
from slimsweep.models.sources.gguf_file import SENTENCE
from slimsweep.models.sources.local import LocalModel
from slimsweep.models.sources.random import RandomModel

CPU = torch.device("cpu")
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
BYTES = [f"<0x{value:02X}>" for value in range(256)]
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
SMALL = ["evaluation.tasks=[]", "evaluation.context_tokens=64", "evaluation.prompt_tokens=8", "dtype=float32"]
SMALL += ["evaluation.memory_tokens=64", "calibration.tokens=32", "calibration.sequences=2", "tracker=none"]


@pytest.fixture
def gguf(tmp_path):
    """Write a random Llama of two blocks as a GGUF file, its matrices as Q8_0."""
    shape = TINY_SHAPE | {"intermediate_size": 64, "vocab_size": 3 + 256 + 1 + 26}
    model = RandomModel(name="tiny", shape=shape, cache_dir=str(tmp_path)).load(torch.float32, CPU)

    def write(name="small.gguf", kind="Q8_0", byte_tokens=BYTES, architecture="llama", file_type=None) -> Path:
        writer = GGUFWriter(tmp_path / name, architecture)
        writer.add_context_length(128)
        writer.add_embedding_length(32)
        writer.add_block_count(2)
        writer.add_feed_forward_length(64)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_rope_dimension_count(8)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_vocab_size(shape["vocab_size"])
        if file_type is not None:
            writer.add_file_type(file_type)
        tokens = ["<unk>", "<s>", "</s>", *byte_tokens, "\u2581", *LETTERS]
        types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
        types += [TokenType.BYTE] * 256 + [TokenType.NORMAL] * 27
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([-float(index) for index in range(len(tokens))])
        writer.add_token_types(types)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        for filed, weight in gguf_weights(model.module).items():
            is_matrix = weight.ndim == 2 and kind != "F32"
            stored = quantize(weight, GGMLQuantizationType[kind]) if is_matrix else weight
            writer.add_tensor(filed, stored, raw_dtype=GGMLQuantizationType[kind] if is_matrix else None)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / name

    return write


def gguf_weights(module) -> dict[str, np.ndarray]:
    """Weights by their names in a GGUF file; the rows of queries and keys are interleaved there, as llama.cpp does."""
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    for block in range(2):
        names |= {f"model.layers.{block}.{own}": f"blk.{block}.{filed}" for own, filed in GGUF_NAMES.items()}
    weights = {}
    for own, filed in names.items():
        weight = module.get_submodule(own).weight
        for layer, heads in (("q_proj", 4), ("k_proj", 2)):
            if own.endswith(layer):
                weight = weight.view(heads, 2, 4, 32).transpose(1, 2).reshape(-1, 32)
        weights[f"{filed}.weight"] = weight.detach().numpy().copy()
    return weights


def record_of(answer) -> dict:
    assert answer.status == 0, answer.err
    return json.loads(Path(answer.out.splitlines()[-1]).read_text())


def test_a_gguf_file_has_the_logits_and_tokens_that_transformers_reads_from_it(gguf, tmp_path):
    file = gguf()
    source = LocalModel(path=str(file), cache_dir=str(tmp_path / "cache"))
    assert source.name == "small"
    assert source.faults() == []
    model = source.load(torch.float32, CPU)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="small.gguf", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file="small.gguf")
    token_ids = tokenizer(SENTENCE, return_tensors="pt").input_ids
    assert model.tokenizer(SENTENCE).input_ids == token_ids[0].tolist()
    assert model.tokenizer.eos_token == "</s>"
    with torch.no_grad():
        assert torch.equal(model.module(input_ids=token_ids).logits, theirs(input_ids=token_ids).logits)


@pytest.mark.parametrize(
    ("kind", "file_type", "baseline"),
    [
        ("Q8_0", None, "dequantised Q8_0"),
        ("Q4_0", LlamaFileType.MOSTLY_Q4_0, "dequantised Q4_0"),
        ("Q4_1", LlamaFileType.MOSTLY_Q8_0, "dequantised Q4_1"),  # the weights know better than the header
        ("F32", None, "F32 of a GGUF file"),
    ],
)
def test_a_job_on_a_gguf_file_names_its_quantization(kind, file_type, baseline, slimsweep, gguf, tmp_path):
    file = gguf(kind=kind, file_type=file_type)
    words = ["technique=wanda", f"cache_dir={tmp_path}/cache", "evaluation=cost"]
    record = record_of(slimsweep("model=local", f"model.path={file}", "tracker=none", "calibration.tokens=32", *words))
    assert (record["model"], record["baseline"]) == ("small", baseline)


def test_a_gguf_file_works_under_a_memory_budget_and_its_bytes_decide_the_key(slimsweep, gguf, tmp_path):
    words = ["technique=magnitude", f"cache_dir={tmp_path}/cache", *SMALL]
    files = [gguf("one.gguf"), gguf("same.gguf"), gguf("other.gguf", kind="Q4_0")]
    records = [record_of(slimsweep("model=local", f"model.path={file}", "model.name=m", *words)) for file in files]
    assert records[0]["key"] == records[1]["key"] != records[2]["key"]
    Path(tmp_path / "outputs" / "records" / records[0]["key"][:16] / "record.json").unlink()
    mapped = record_of(slimsweep("model=local", f"model.path={files[0]}", "memory_budget=3GiB", *words))
    assert mapped["key"] == records[0]["key"]
    assert mapped["perplexity_movie_reviews"] == records[0]["perplexity_movie_reviews"]


def test_a_tokenizer_that_comes_out_broken_is_refused_and_can_be_replaced(slimsweep, gguf, tiny, tmp_path):
    file = gguf(byte_tokens=[f"byte {value}" for value in range(256)])  # nothing to spell a capital or a comma with
    words = ["technique=[]", f"cache_dir={tmp_path}/cache", *SMALL]
    answer = slimsweep("model=local", f"model.path={file}", *words)
    assert answer.status == 1
    assert "is broken: it turns 'The quick brown fox" in answer.err
    assert "model.tokenizer_path=FOLDER" in answer.err
    tiny.tokenizer.save_pretrained(tmp_path / "tokenizer")
    fixed = [f"model.tokenizer_path={tmp_path}/tokenizer"]
    assert record_of(slimsweep("model=local", f"model.path={file}", *fixed, *words))["perplexity_movie_reviews"] > 1


def test_what_is_no_gguf_file_is_told_apart(gguf, tmp_path):
    def fault(path: Path) -> str:
        (found,) = LocalModel(path=str(path), cache_dir=str(tmp_path / "cache")).faults()
        return found

    (tmp_path / "pointer.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\n")
    (tmp_path / "zip.gguf").write_bytes(b"PK\x03\x04")
    assert "does not exist" in fault(tmp_path / "absent.gguf")
    assert "git-lfs pointer" in fault(tmp_path / "pointer.gguf")
    assert "begins with b'PK" in fault(tmp_path / "zip.gguf")
    whole = gguf("whole.gguf").read_bytes()
    (tmp_path / "short.gguf").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read by transformers" in fault(tmp_path / "short.gguf")
    assert "cannot be read by transformers" in fault(gguf("alien.gguf", architecture="alien"))
    assert not list((tmp_path / "cache" / "models").glob("*.partial"))
    with pytest.raises(ModelError, match="does not exist"):
        LocalModel(path=str(tmp_path / "absent.gguf"), cache_dir=str(tmp_path)).folder()


def test_a_dry_run_reads_the_same_config_and_tokenizer_and_converts_nothing(slimsweep, gguf, tmp_path, monkeypatch):
    words = ["model=local", f"model.path={gguf()}", "technique=wanda", f"cache_dir={tmp_path}/cache", *SMALL]
    with monkeypatch.context() as patched:
        patched.setattr(gguf_file, "convert", lambda file, folder: pytest.fail("a dry run converted weights"))
        first = slimsweep(*words, "dry_run=true")
    assert first.status == 0 and not (tmp_path / "cache").exists(), first.err
    record = record_of(slimsweep(*words))
    assert f"{record['key'][:16]}  missing  small wanda" in first.out
    monkeypatch.setattr(gguf_file, "describe", lambda file, folder: pytest.fail("the file is converted already"))
    assert f"{record['key'][:16]}  done     small wanda" in slimsweep(*words, "dry_run=true").out


def test_a_description_is_what_a_conversion_writes_beside_the_weights(gguf, tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "described").mkdir()
    file = gguf()
    gguf_file.convert(file, tmp_path / "whole")
    gguf_file.describe(file, tmp_path / "described")
    names = {path.name for path in (tmp_path / "described").iterdir()}
    assert names == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    for name in names:
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "described" / name).read_text()


def test_a_dry_run_tells_what_is_no_gguf_file(slimsweep, gguf, tmp_path):
    words = ["technique=wanda", f"cache_dir={tmp_path}/cache", *SMALL, "dry_run=true"]
    whole = gguf("whole.gguf").read_bytes()
    (tmp_path / "short.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "zip.gguf").write_bytes(b"PK\x03\x04")
    cases = {"short": "cannot be read by transformers", "zip": "begins with b'PK", "absent": "does not exist"}
    for name, message in cases.items():
        answer = slimsweep("model=local", f"model.path={tmp_path}/{name}.gguf", *words)
        assert answer.status == 1 and message in answer.err


def test_a_folder_that_holds_a_gguf_file_says_how_to_read_it(gguf, tmp_path):
    gguf("inside.gguf")
    faults = LocalModel(path=str(tmp_path), cache_dir=str(tmp_path / "cache")).faults()
    assert any(f"set model.path={tmp_path}/inside.gguf" in fault for fault in faults)
