import json
import shutil

import pytest
import torch
import transformers
from conftest import CACHE
from family_shapes import DECODERS
from reductions import CPU, EVERY, logits, loud, remove_units, token_ids, uneven
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import slimsweep
from slimsweep.errors import ModelError
from slimsweep.models import anatomy, surgery
from slimsweep.models.language_model import parameter_count
from slimsweep.models.sources.local import LocalModel
from slimsweep.models.storage import saved_model
from slimsweep.models.storage.checkpoint import MANIFEST
from slimsweep.models.task import TASKS


@pytest.fixture
def load(tmp_path):
    return lambda name, dtype=torch.float32, **shape: loud(name, str(tmp_path), dtype, **shape)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "saved"


@pytest.fixture
def uneven_folder(load, folder):
    """Folder of a Llama whose blocks have other widths; 46 and 44 neurons."""
    assert not saved_model.save(uneven(load("llama")), folder)
    return folder


def from_pretrained(name, folder, dtype=torch.float32):
    auto_class = "AutoModelForCausalLM" if name in DECODERS else "AutoModelForSequenceClassification"
    return getattr(transformers, auto_class).from_pretrained(folder, dtype=dtype)


def local(name, folder, **fields):
    task = "causal_lm" if name in DECODERS else "sequence_classification"
    return LocalModel(path=str(folder), task=task, cache_dir=str(folder.parent / "cache"), **fields)


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def without_channels(model, gone):
    surgery.remove(model, anatomy.channels(model), gone)
    return model


@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"bloom"}))
def test_even_widths_reload_with_plain_transformers(load, folder, name):
    model = remove_units(load(name), [[], []], [[0, 5, 7], [1, 2, 3]])
    assert saved_model.save(model, folder)
    assert not (folder / MANIFEST).exists()
    expected = logits(model)
    assert torch.equal(logits(from_pretrained(name, folder)), expected)
    assert torch.equal(logits(slimsweep.load(folder)), expected)


def test_even_widths_need_the_manifest_where_the_residual_decides_the_neurons(load, folder):
    model = remove_units(load("bloom"), [[], []], [[0, 5, 7], [1, 2, 3]])
    assert not saved_model.save(model, folder)
    assert torch.equal(logits(slimsweep.load(folder)), logits(model))


@pytest.mark.parametrize("name", EVERY)
def test_a_model_as_it_was_is_plain(load, folder, name):
    model = load(name)
    assert saved_model.save(model, folder)
    assert torch.equal(logits(from_pretrained(name, folder)), logits(model))


@pytest.mark.parametrize("name", EVERY)
def test_uneven_widths_reload_with_their_manifest_only(load, folder, name):
    model = uneven(load(name))
    assert not saved_model.save(model, folder)
    assert (folder / MANIFEST).is_file()
    assert torch.equal(logits(slimsweep.load(folder)), logits(model))
    with pytest.raises(RuntimeError, match="mismatch"):
        from_pretrained(name, folder)


@pytest.mark.parametrize("name", EVERY)
def test_a_model_of_fewer_channels_reloads_to_the_same_logits(load, folder, name):
    model = without_channels(load(name), [0, 3, 30])
    is_plain = saved_model.save(model, folder)
    assert is_plain == (not (folder / MANIFEST).exists())
    assert torch.equal(logits(slimsweep.load(folder)), logits(model))
    if is_plain:
        assert torch.equal(logits(from_pretrained(name, folder)), logits(model))
    else:
        with pytest.raises(RuntimeError, match="mismatch"):
            from_pretrained(name, folder)


@pytest.mark.parametrize(
    "name", ["llama", "qwen3", "phi3", "gemma", "gemma2", "smollm3", "granite", "olmo2", "starcoder2"]
)
def test_heads_removed_evenly_are_plain(load, folder, name):
    model = remove_units(load(name), [[0], [1]], [[], []])
    assert saved_model.save(model, folder)
    module = from_pretrained(name, folder)
    assert torch.equal(logits(module), logits(model))
    assert (module.config.num_attention_heads, module.config.num_key_value_heads) == (2, 1)


@pytest.mark.parametrize("name", ["opt", "gpt2", "gpt_neox", "gptj", "distilbert"])
def test_heads_removed_evenly_need_the_manifest_where_residual_and_heads_share_a_width(load, folder, name):
    model = remove_units(load(name), [[0], [3]], [[], []])
    assert not saved_model.save(model, folder)
    assert torch.equal(logits(slimsweep.load(folder)), logits(model))


@pytest.mark.parametrize("name", ["opt", "gpt2", "gpt_neox", "gptj"])
def test_heads_and_channels_that_shrink_alike_are_plain_again(load, folder, name):
    model = without_channels(remove_units(load(name), [[0], [3]], [[], []]), range(8))
    assert saved_model.save(model, folder)
    assert torch.equal(logits(from_pretrained(name, folder)), logits(model))


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "smollm3", "gpt2"])
@pytest.mark.parametrize("is_even", [True, False])
def test_a_model_without_its_first_block_reloads(load, folder, name, is_even):
    shape = {"n_layer": 3} if name == "gpt2" else {"num_hidden_layers": 3}
    if name == "gemma3_text":
        shape["layer_types"] = ["sliding_attention", "full_attention", "full_attention"]
    if name == "smollm3":
        shape["no_rope_layers"] = [1, 0, 1]
    model = load(name, **shape)
    surgery.remove_blocks(model, [0])
    if not is_even:
        uneven(model)
    assert saved_model.save(model, folder) == is_even
    assert torch.equal(logits(slimsweep.load(folder)), logits(model))


def test_saving_leaves_the_model_as_it_was(load, folder):
    model = remove_units(load("llama"), [[0], [0]], [[1], [2]])
    config, expected = model.module.config, logits(model)
    before = config.to_dict()
    assert saved_model.save(model, folder)
    assert model.module.config is config
    assert config.to_dict() == before
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("is_even", [True, False])
def test_bfloat16_keeps_its_bits(load, folder, name, is_even):
    model = load(name, torch.bfloat16)
    model = remove_units(model, [[], []], [[0], [9]]) if is_even else uneven(model)
    saved_model.save(model, folder)
    module = slimsweep.load(folder)
    assert {value.dtype for value in module.parameters()} == {torch.bfloat16}
    for (first, saved), (second, read) in zip(model.module.named_parameters(), module.named_parameters(), strict=True):
        assert first == second
        assert torch.equal(saved, read)
    assert torch.equal(logits(module), logits(model))


@pytest.mark.parametrize("is_even", [True, False])
def test_another_dtype_may_be_asked_for(load, folder, is_even):
    model = load("llama", torch.bfloat16)
    saved_model.save(model if is_even else uneven(model), folder)
    module = slimsweep.load(folder, dtype=torch.float32)
    for saved, read in zip(model.module.parameters(), module.parameters(), strict=True):
        assert read.dtype == torch.float32
        assert torch.equal(saved.float(), read)


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "gemma3_text", "opt"])
def test_tied_weights_are_stored_once_and_tied_when_read(load, folder, name):
    model = uneven(load(name))
    saved_model.save(model, folder)
    stored = sum(tensor.numel() for tensor in load_file(folder / saved_model.WEIGHTS_FILE).values())
    module = slimsweep.load(folder)
    assert stored == parameter_count(model.module) == parameter_count(module)
    embeddings = module.get_submodule(model.family.embeddings)
    assert module.get_submodule(model.family.head).weight is embeddings.weight


@pytest.mark.parametrize("is_even", [True, False])
def test_a_loaded_model_is_ready_for_forwards(load, folder, is_even):
    saved_model.save(load("llama") if is_even else uneven(load("llama")), folder)
    module = slimsweep.load(str(folder))
    assert not module.training
    assert not any(value.requires_grad for value in module.parameters())


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2"])
def test_a_loaded_model_generates_with_a_cache_as_without(load, folder, name):
    saved_model.save(uneven(load(name)), folder)
    module = slimsweep.load(folder)
    fixed = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    cached, plain = (module.generate(token_ids(12), use_cache=use, **fixed) for use in (True, False))
    assert torch.equal(cached, plain)


def test_a_new_process_computes_the_same_logits(load, folder, tmp_path, new_processes):
    model = uneven(load("llama"))
    saved_model.save(model, folder)
    code = (
        "import sys, torch, slimsweep; from safetensors.torch import load_file, save_file;"
        "folder, ids, out = sys.argv[1:];"
        "save_file({'logits': slimsweep.load(folder)(load_file(ids)['ids']).logits}, out)"
    )
    save_file({"ids": token_ids()}, tmp_path / "ids")
    new_processes.run(code, folder, tmp_path / "ids", tmp_path / "logits")
    torch.testing.assert_close(load_file(tmp_path / "logits")["logits"], logits(model), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", EVERY)
def test_a_folder_with_a_manifest_is_a_model_source(load, folder, name):
    model = uneven(load(name))
    saved_model.save(model, folder)
    source = local(name, folder)
    assert source.faults() == []
    skeleton = source.skeleton()
    assert skeleton.is_meta
    assert anatomy.shape_of(skeleton) == anatomy.shape_of(model)
    assert skeleton.original_parameters == parameter_count(model.module)
    read = source.load(torch.float32, CPU)
    assert torch.equal(logits(read), logits(model))
    assert read.original_parameters == parameter_count(model.module)
    assert read.tokenizer("hé").input_ids == model.tokenizer("hé").input_ids


@pytest.mark.parametrize("name", ["llama", "gemma2", "opt", "gpt2", "bert"])
def test_a_reduced_model_can_be_reduced_and_saved_again(load, folder, tmp_path, name):
    saved_model.save(without_channels(uneven(load(name)), [1, 2]), folder)
    model = local(name, folder).load(torch.float32, CPU)
    without_channels(remove_units(model, [[], []], [[0], [1, 2]]), [0])
    assert not saved_model.save(model, tmp_path / "again")
    module = slimsweep.load(tmp_path / "again")
    assert torch.equal(logits(module), logits(model))
    assert parameter_count(module) < parameter_count(slimsweep.load(folder))


def test_shapes_of_a_folder_with_a_manifest_are_the_reduced_ones(uneven_folder):
    trained, meta = (local("llama", uneven_folder, weights=weights) for weights in ("trained", "meta"))
    loaded = meta.load(torch.float32, CPU)
    assert anatomy.shape_of(loaded) == anatomy.shape_of(trained.skeleton())


def test_shapes_of_two_reductions_of_one_config_have_two_digests(load, tmp_path):
    digests = set()
    for count in (1, 2):
        model = load("llama")
        surgery.remove(model, anatomy.neurons(model, 0), range(count))
        saved_model.save(model, tmp_path / str(count))
        digests.add(local("llama", tmp_path / str(count), weights="meta").digest())
    assert len(digests) == 2


def test_the_digest_follows_the_manifest(uneven_folder):
    before = local("llama", uneven_folder).digest()
    copied = shutil.copytree(uneven_folder, uneven_folder.with_name("copy"))
    assert local("llama", copied).digest() == before
    edit(uneven_folder / MANIFEST, lambda manifest: manifest["blocks"][0].update(neurons=45))
    assert local("llama", uneven_folder).digest() != before


def neurons(count):
    return lambda manifest: manifest["blocks"][0].update(neurons=count)


@pytest.mark.parametrize("count", [45, 47])
def test_a_neuron_more_or_less_than_the_weights_have_is_refused(uneven_folder, count):
    edit(uneven_folder / MANIFEST, neurons(count))
    for read in (slimsweep.load, lambda folder: local("llama", folder).load(torch.float32, CPU)):
        with pytest.raises(ModelError, match=r"do not fit their slimsweep\.json.*layers\.0\.mlp\.down_proj"):
            read(uneven_folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(format=3), "format 3, and this version reads up to 2"),
        (lambda manifest: manifest.pop("format"), "'format'"),
        (lambda manifest: manifest.pop("channels"), "'channels'"),
        (lambda manifest: manifest.update(channels=33), "residual width: 33 asked for, the model has 32"),
        (lambda manifest: manifest["blocks"].pop(), "1 blocks are described, the model has 2"),
        (lambda manifest: manifest["blocks"][0].update(heads=4), "query heads"),
        (lambda manifest: manifest["blocks"][0].update(width=4), "width"),
        (neurons(49), "neurons of block 0: 49 asked for, the model has 48"),
    ],
)
def test_a_manifest_the_config_contradicts_is_refused(uneven_folder, change, message):
    edit(uneven_folder / MANIFEST, change)
    with pytest.raises(ModelError, match=rf"slimsweep\.json does not fit .*config\.json: .*{message}"):
        slimsweep.load(uneven_folder)
    (fault,) = local("llama", uneven_folder).faults()
    assert message in fault


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_manifest_that_cannot_be_read_is_refused(uneven_folder, content):
    (uneven_folder / MANIFEST).write_bytes(content)
    with pytest.raises(ModelError, match=r"slimsweep\.json"):
        slimsweep.load(uneven_folder)


def test_uneven_weights_without_their_manifest_are_refused(uneven_folder):
    (uneven_folder / MANIFEST).unlink()
    for read in (slimsweep.load, lambda folder: local("llama", folder).load(torch.float32, CPU)):
        with pytest.raises(ModelError, match=r"do not fit their config\.json.*layers\.0\.mlp\.down_proj"):
            read(uneven_folder)


@pytest.mark.parametrize("is_even", [True, False])
def test_weights_cut_short_are_refused(load, folder, is_even):
    saved_model.save(load("llama") if is_even else uneven(load("llama")), folder)
    weights = folder / saved_model.WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=str(folder)):
        slimsweep.load(folder)
    (fault,) = local("llama", folder).faults()
    assert "cut short" in fault


def test_a_tensor_more_or_less_is_named(uneven_folder):
    weights = load_file(uneven_folder / saved_model.WEIGHTS_FILE)
    norm = weights.pop("model.norm.weight")
    for changed in (weights, weights | {"model.norm.weight": norm, "model.norm.bias": norm.clone()}):
        save_file(changed, uneven_folder / saved_model.WEIGHTS_FILE, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"in model\.norm\."):
            slimsweep.load(uneven_folder)


def test_missing_weights_are_refused(uneven_folder):
    (uneven_folder / saved_model.WEIGHTS_FILE).unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        slimsweep.load(uneven_folder)


def test_a_folder_without_a_config_is_no_model(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ModelError, match=r"has no config\.json"):
            slimsweep.load(folder)


def test_a_config_that_names_no_dtype_is_read_all_the_same(uneven_folder):
    edit(uneven_folder / "config.json", lambda config: config.pop("dtype"))
    assert slimsweep.load(uneven_folder).dtype == torch.float32


def test_a_damaged_config_is_refused(uneven_folder):
    (uneven_folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json"):
        slimsweep.load(uneven_folder)


@pytest.mark.parametrize("change", [{"hidden_act": "none"}, {"num_attention_heads": 5}, {"model_type": "none"}])
def test_a_config_of_which_no_model_can_be_built_is_refused(uneven_folder, change):
    edit(uneven_folder / "config.json", lambda config: config.update(change))
    for read in (
        slimsweep.load,
        lambda folder: saved_model.read(folder, TASKS["causal_lm"], torch.float32, CPU, False),
    ):
        with pytest.raises(ModelError, match=r"config\.json cannot be read"):
            read(uneven_folder)


def test_settings_of_generation_are_kept(load, folder):
    model = uneven(load("llama"))
    model.module.generation_config.eos_token_id = [7, 8]
    saved_model.save(model, folder)
    assert slimsweep.load(folder).generation_config.eos_token_id == [7, 8]


@pytest.mark.parametrize("is_even", [True, False])
def test_odd_settings_of_generation_do_not_keep_a_model_from_being_saved(load, folder, is_even):
    model = load("llama") if is_even else uneven(load("llama"))
    model.module.generation_config.temperature = 0.5  # without do_sample, as in the published Llama 2
    assert saved_model.save(model, folder) == is_even


@pytest.mark.parametrize("is_even", [True, False])
def test_a_folder_that_is_not_empty_is_left_alone(load, folder, is_even):
    folder.mkdir()
    (folder / "mine").write_text("mine")
    with pytest.raises(ModelError, match="not an empty folder"):
        saved_model.save(load("llama") if is_even else uneven(load("llama")), folder)
    assert [file.name for file in folder.iterdir()] == ["mine"]
    with pytest.raises(ModelError, match="not an empty folder"):
        saved_model.save(load("llama"), folder / "mine")
    assert (folder / "mine").read_text() == "mine"


def test_an_empty_folder_and_missing_parents_are_filled(load, folder, tmp_path):
    folder.mkdir()
    for target in (folder, tmp_path / "a" / "b" / "c"):
        assert saved_model.save(load("llama"), target)
        assert (target / "config.json").is_file()
        assert [path.name for path in target.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("is_even", [True, False])
@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_leaves_nothing_behind(load, tmp_path, monkeypatch, is_even, error):
    model = load("llama") if is_even else uneven(load("llama"))

    def fail(folder, *_):
        assert (folder / saved_model.WEIGHTS_FILE).is_file()
        raise error

    monkeypatch.setattr(model.tokenizer, "save_pretrained", fail)
    parent = tmp_path / "parent"
    parent.mkdir()
    with pytest.raises(ModelError if isinstance(error, OSError) else KeyboardInterrupt, match="No space|^$"):
        saved_model.save(model, parent / "saved")
    assert list(parent.iterdir()) == []


def test_a_parent_that_is_a_file_is_one_error(load, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        saved_model.save(load("llama"), tmp_path / "file" / "saved")


def test_a_full_disk_is_a_model_error(load, folder, monkeypatch):
    from safetensors import SafetensorError

    def fail(*_args, **_settings):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(ModelError, match="Free space"):
        saved_model.save(uneven(load("llama")), folder)


def test_the_working_directory_may_be_the_folder(load, folder, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert saved_model.save(load("llama"), type(folder)("."))
    assert (folder / "config.json").is_file()


def test_the_tokenizer_is_beside_the_weights(uneven_folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(uneven_folder)
    assert tokenizer.decode(tokenizer("hé").input_ids) == "hé"


def test_a_model_without_a_tokenizer_is_saved_without(load, folder):
    model = load("llama")
    model.tokenizer = None
    assert saved_model.save(model, folder)
    assert not (folder / "tokenizer.json").exists()
    assert torch.equal(logits(slimsweep.load(folder)), logits(model))


def test_the_trained_model_reloads_reduced(stories260k, folder):
    model = stories260k
    for index in range(len(model.blocks)):
        surgery.remove(model, anatomy.neurons(model, index), range(index + 1))
    assert not saved_model.save(model, folder)
    assert torch.equal(logits(slimsweep.load(folder)), logits(model))
    source = LocalModel(path=str(folder), cache_dir=str(CACHE))
    assert source.skeleton().original_parameters == parameter_count(model.module)


def test_only_an_empty_or_absent_folder_is_written_to(tmp_path):
    saved_model.refuse_unless_empty(tmp_path)
    saved_model.refuse_unless_empty(tmp_path / "absent")
    (tmp_path / "file").write_text("mine")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(ModelError, match="not an empty folder; name another"):
            saved_model.refuse_unless_empty(taken)


@pytest.mark.parametrize("error", [OSError("No space left on device"), SafetensorError("I/O error")], ids=repr)
def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path, error):
    with pytest.raises(ModelError, match="Free space"), saved_model.written_whole(tmp_path / "saved") as partial:
        (partial / "weights").write_text("1")
        raise error
    assert list(tmp_path.iterdir()) == []
