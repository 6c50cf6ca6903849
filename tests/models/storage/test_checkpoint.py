import hashlib
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

from slimsweep.errors import ModelError
from slimsweep.models.storage import checkpoint


@pytest.fixture
def folder(tmp_path):
    """A whole checkpoint of two shards, as far as files tell."""
    folder = tmp_path / "model"
    folder.mkdir()
    for number in (1, 2):
        save_file({f"weight{number}": torch.ones(3)}, folder / f"model-0000{number}-of-00002.safetensors")
    weight_map = {f"weight{number}": f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    (folder / checkpoint.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "rope_theta": 1.0}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_whole_folder_has_no_faults(folder):
    assert checkpoint.folder_faults(folder) == []


def test_absent_folder_is_named(tmp_path):
    (fault,) = checkpoint.folder_faults(tmp_path / "nowhere")
    assert "nowhere does not exist" in fault


def test_missing_shard_is_named(folder):
    (folder / "model-00002-of-00002.safetensors").unlink()
    (fault,) = checkpoint.folder_faults(folder)
    assert "misses 1 of the 2 shards" in fault
    assert "model-00002-of-00002.safetensors" in fault


def test_shard_cut_short_is_named(folder):
    shard = folder / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    (fault,) = checkpoint.folder_faults(folder)
    assert "model-00001-of-00002.safetensors cut short" in fault


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0no"])
def test_garbage_is_not_whole(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert not checkpoint.is_whole(tmp_path / "model.safetensors")


def test_pickled_weights_are_refused(folder):
    for file in [*folder.glob("*.safetensors"), folder / checkpoint.INDEX]:
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    (fault,) = checkpoint.folder_faults(folder)
    assert "pytorch_model.bin" in fault
    assert "save_pretrained" in fault


def test_config_and_tokenizer_are_missed_together(folder):
    (folder / "config.json").unlink()
    (folder / "tokenizer.json").unlink()
    assert len(checkpoint.folder_faults(folder)) == 2


def test_unreadable_index_is_a_fault(folder):
    (folder / checkpoint.INDEX).write_text("{")
    (fault,) = checkpoint.folder_faults(folder)
    assert "unreadable" in fault


def test_digest_is_of_contents_not_of_places(folder, tmp_path):
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    assert checkpoint.folder_digest(folder, tmp_path) == checkpoint.folder_digest(elsewhere, tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "changes"),
    [
        ("config.json", {"model_type": "llama", "rope_theta": 2.0}, True),
        ("config.json", {"model_type": "llama", "rope_theta": 1.0, "transformers_version": "9"}, False),
        ("tokenizer.json", {"added": 1}, True),
        ("README.md", {}, False),
    ],
)
def test_digest_follows_what_decides_results(folder, tmp_path, file, content, changes):
    before = checkpoint.folder_digest(folder, tmp_path)
    (folder / file).write_text(json.dumps(content))
    assert (checkpoint.folder_digest(folder, tmp_path) != before) == changes


def test_cache_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "weights").write_bytes(b"abc")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(ModelError, match="cannot be written"):
        checkpoint.file_digest(tmp_path / "weights", tmp_path / "cache")


def test_digest_is_remembered_until_the_file_changes(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    first = checkpoint.file_digest(file, tmp_path / "cache")
    assert first == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (remembered,) = (tmp_path / "cache" / "digests").iterdir()
    remembered.write_text("remembered")
    assert checkpoint.file_digest(file, tmp_path / "cache") == "remembered"
    file.write_bytes(b"abcd")
    assert checkpoint.file_digest(file, tmp_path / "cache") not in (first, "remembered")


def test_equal_size_and_time_do_not_hide_other_contents(tmp_path):
    file, other = tmp_path / "weights", tmp_path / "other"
    file.write_bytes(b"abc")
    first, times = checkpoint.file_digest(file, tmp_path / "cache"), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    other.write_bytes(b"abd")
    os.utime(other, ns=times)
    other.replace(file)  # as rsync does
    second = checkpoint.file_digest(file, tmp_path / "cache")
    file.write_bytes(b"abe")  # as cp -p does
    os.utime(file, ns=times)
    third = checkpoint.file_digest(file, tmp_path / "cache")
    assert [first, second, third] == [hashlib.sha256(text).hexdigest() for text in (b"abc", b"abd", b"abe")]


@pytest.mark.parametrize(
    ("present", "config", "chosen"),
    [
        (["model.safetensors", "index"], {}, ["model.safetensors"]),
        (["index", "left-over.safetensors"], {}, ["a.safetensors", "b.safetensors"]),
        (["model.safetensors", "index"], {"transformers_weights": "mine.safetensors"}, ["mine.safetensors"]),
        (["left-over.safetensors"], {}, []),
    ],
)
def test_the_files_read_are_those_transformers_chooses(tmp_path, present, config, chosen):
    from transformers.modeling_utils import _get_resolved_checkpoint_files

    for name in ("a.safetensors", "b.safetensors", "mine.safetensors"):
        (tmp_path / name).touch()
    for name in present:
        (tmp_path / (checkpoint.INDEX if name == "index" else name)).touch()
    if "index" in present:
        weights = {"metadata": {}, "weight_map": {"x": "b.safetensors", "y": "a.safetensors"}}
        (tmp_path / checkpoint.INDEX).write_text(json.dumps(weights))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert [file.name for file in checkpoint.weight_files(tmp_path)] == chosen
    asked = {"variant": None, "gguf_file": None, "use_safetensors": True, "user_agent": None, "is_remote_code": False}
    asked["transformers_explicit_filename"] = config.get("transformers_weights")
    if chosen:
        files, _ = _get_resolved_checkpoint_files(tmp_path, **asked)
        assert files == [str(tmp_path / name) for name in chosen]


def test_a_file_of_weights_under_another_name_is_told(folder):
    (folder / checkpoint.INDEX).unlink()
    (fault,) = checkpoint.folder_faults(folder)
    assert "model-00001-of-00002.safetensors" in fault and "neither model.safetensors nor" in fault


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "config.json", checkpoint.INDEX, "model-00002-of-00002.safetensors"]
)
def test_a_git_lfs_pointer_is_told_from_a_file(folder, name):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abab\nsize 19473\n"
    (folder / name).write_text(pointer)
    (folder / "left-over.safetensors").write_text(pointer)
    (fault,) = checkpoint.folder_faults(folder)
    assert f"{name} is a git-lfs pointer" in fault and "git lfs pull" in fault and "left-over" not in fault


@pytest.mark.parametrize("weight_map", [[], {"x": 3}, None])
def test_an_index_of_another_form_is_a_fault(folder, weight_map):
    (folder / checkpoint.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (fault,) = checkpoint.folder_faults(folder)
    assert "unreadable" in fault


@pytest.mark.parametrize("header", [[], {"x": {}}, {"x": {"data_offsets": 3}}])
def test_an_odd_header_is_not_whole(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    assert not checkpoint.is_whole(tmp_path / "model.safetensors")
