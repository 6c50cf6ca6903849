import json

import pytest
import torch
from conftest import TINY_SHAPE
from safetensors.torch import load_file, save_file

from slimsweep.errors import ModelError
from slimsweep.linear.base import weight_2d
from slimsweep.models.batches import text_batch
from slimsweep.models.sources import base as sources
from slimsweep.models.sources.hub import HubModel
from slimsweep.models.sources.local import LocalModel
from slimsweep.models.sources.random import RandomModel

CPU = torch.device("cpu")


@pytest.fixture
def saved(tiny, tmp_path):
    """Folder of the tiny model with its tokenizer."""
    folder = tmp_path / "saved"
    tiny.module.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


def random_source(tmp_path, **fields):
    return RandomModel(**({"name": "tiny", "shape": TINY_SHAPE, "cache_dir": str(tmp_path)} | fields))


def rewrite(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_jobs_get_independent_copies_of_one_load(tmp_path, monkeypatch):
    source = random_source(tmp_path)
    first = source.load(torch.float32, CPU)
    monkeypatch.setattr(RandomModel, "_module", None)  # a second load would call it
    weight_2d(first.blocks[0].mlp.up_proj).zero_()
    second = source.load(torch.float32, CPU)
    assert weight_2d(second.blocks[0].mlp.up_proj).count_nonzero() > 0


def test_a_model_too_large_to_share_is_handed_out_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("slimsweep.models.placement.loading.SHARED_FRACTION", 0.0)
    random_source(tmp_path).load(torch.float32, CPU)
    assert not sources._pristine


def test_weights_changed_on_disk_are_read_again(saved, tmp_path):
    source = LocalModel(path=str(saved), cache_dir=str(tmp_path))
    source.load(torch.float32, CPU)
    rewrite(saved, lambda weights: weights["model.norm.weight"].fill_(2.0))
    assert (source.load(torch.float32, CPU).module.model.norm.weight == 2).all()


def test_random_weights_follow_the_seed_and_nothing_else(tmp_path):
    torch.manual_seed(5)
    one = weight_2d(random_source(tmp_path, seed=1).load(torch.float32, CPU).blocks[0].mlp.up_proj)
    state = torch.get_rng_state()
    again = random_source(tmp_path, seed=1).load(torch.bfloat16, CPU)
    other = weight_2d(random_source(tmp_path, seed=2).load(torch.float32, CPU).blocks[0].mlp.up_proj)
    assert torch.equal(one.bfloat16(), weight_2d(again.blocks[0].mlp.up_proj))
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


def test_rotary_frequencies_stay_fp32_in_a_bf16_model(saved, tmp_path):
    for source in (random_source(tmp_path), LocalModel(path=str(saved), cache_dir=str(tmp_path))):
        model = source.load(torch.bfloat16, CPU)
        assert model.dtype == torch.bfloat16
        assert model.module.model.rotary_emb.inv_freq.dtype == torch.float32


def test_local_model_reloads_what_was_saved(tiny, saved, tmp_path):
    source = LocalModel(path=str(saved), cache_dir=str(tmp_path))
    assert source.faults() == []
    assert source.name == "saved"
    model = source.load(torch.float32, CPU)
    token_ids = torch.arange(12).reshape(1, 12)
    assert torch.equal(
        model.logits(model.hidden_states(text_batch(token_ids))), tiny.logits(tiny.hidden_states(text_batch(token_ids)))
    )
    assert model.tokenizer("hé").input_ids == tiny.tokenizer("hé").input_ids


def test_non_finite_weights_are_named(saved, tmp_path):
    rewrite(saved, lambda weights: weights["model.layers.1.mlp.up_proj.weight"][0, 0].fill_(float("nan")))
    with pytest.raises(ModelError, match=r"NaN or inf.*model\.layers\.1\.mlp\.up_proj\.weight"):
        LocalModel(path=str(saved), cache_dir=str(tmp_path)).load(torch.float32, CPU)


def test_weights_that_overflow_the_dtype_are_named(saved, tmp_path):
    rewrite(saved, lambda weights: weights["model.norm.weight"].fill_(1e5))
    source = LocalModel(path=str(saved), cache_dir=str(tmp_path))
    with pytest.raises(ModelError, match=r"float16, in model\.norm\.weight.*bfloat16"):
        source.load(torch.float16, CPU)
    source.load(torch.bfloat16, CPU)


def test_absent_tensor_is_named_and_not_drawn_at_random(saved, tmp_path):
    rewrite(saved, lambda weights: weights.pop("model.layers.0.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"model\.layers\.0\.mlp\.up_proj\.weight"):
        LocalModel(path=str(saved), cache_dir=str(tmp_path)).load(torch.float32, CPU)


def test_tensor_of_another_shape_is_named(saved, tmp_path):
    rewrite(saved, lambda weights: weights.update({"model.norm.weight": torch.ones(7)}))
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        LocalModel(path=str(saved), cache_dir=str(tmp_path)).load(torch.float32, CPU)


def test_folder_of_an_unknown_family_is_a_fault(saved, tmp_path):
    config = (saved / "config.json").read_text()
    (saved / "config.json").write_text(config.replace('"llama"', '"mamba"'))
    (fault,) = LocalModel(path=str(saved), cache_dir=str(tmp_path)).faults()
    assert "'mamba' is not a known family" in fault


def test_meta_of_a_folder_without_config_is_a_fault(tmp_path):
    (fault,) = LocalModel(path=str(tmp_path), weights="meta", cache_dir=str(tmp_path)).faults()
    assert "config.json" in fault


def test_meta_of_a_folder_needs_its_config_only(saved, tmp_path, tiny):
    (saved / "model.safetensors").unlink()
    source = LocalModel(path=str(saved), weights="meta", cache_dir=str(tmp_path))
    assert source.faults() == []
    model = source.load(torch.bfloat16, CPU)
    assert model.is_meta
    assert model.dtype == torch.bfloat16
    assert model.tokenizer is None
    assert model.original_parameters == tiny.original_parameters


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({**TINY_SHAPE, "hiden_size": 3}, "model.shape.hiden_size"),
        ({**TINY_SHAPE, "model_type": "mamba"}, "'mamba'"),
        ({"hidden_size": 3}, "known family"),
        ({**TINY_SHAPE, "hidden_size": -4}, "impossible"),
        ({}, "set model.shape"),
    ],
)
def test_bad_shapes_are_faults(tmp_path, shape, message):
    (fault,) = random_source(tmp_path, shape=shape).faults()
    assert message in fault


def test_a_source_must_say_where_its_files_are(tmp_path):
    class Nowhere(sources.ModelSource):
        pass

    with pytest.raises(TypeError, match="abstract method .?folder"):
        Nowhere(name="nowhere", cache_dir=str(tmp_path))


def test_bad_words_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"weights='maybe': give trained, meta or random"):
        random_source(tmp_path, weights="maybe")
    with pytest.raises(ValueError, match=r"task='seq'"):
        random_source(tmp_path, task="seq")
    with pytest.raises(ValueError, match=r"set weights=random or weights=meta"):
        random_source(tmp_path, weights="trained")


def test_tokenizer_of_a_random_model_can_be_a_real_one(tmp_path, saved):
    source = random_source(tmp_path, tokenizer_path=str(saved))
    assert source.tokenizer() is source.tokenizer()
    assert len(source.tokenizer()("abc").input_ids) == 3


def test_a_hub_model_may_be_drawn_at_random_without_network(tmp_path):
    source = HubModel(id="ORG/NAME", shape=TINY_SHAPE, weights="random", cache_dir=str(tmp_path))
    assert source.faults() == []
    assert source.load(torch.float32, CPU).tokenizer("a").input_ids


def test_a_config_with_fewer_blocks_than_the_weights_is_refused(tiny, tmp_path):
    tiny.module.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1, "layer_types": None}))
    with pytest.raises(ModelError, match="more blocks"):
        LocalModel(path=str(tmp_path), cache_dir=str(tmp_path)).load(torch.float32, torch.device("cpu"))


def test_a_single_file_beside_shards_is_hashed_read_and_mapped_alike(saved, tmp_path):
    tensors = load_file(saved / "model.safetensors")
    save_file(tensors, saved / "model-00001-of-00001.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    rewrite(saved, lambda weights: weights["model.norm.weight"].fill_(2.0))
    source = LocalModel(path=str(saved), cache_dir=str(tmp_path))
    assert source.faults() == []
    for model in (source.load(torch.float32, CPU), source.load_mapped(torch.float32, tmp_path / "scratch")):
        assert (model.module.model.norm.weight == 2).all()
    before = source.digest()
    save_file({"x": torch.ones(1)}, saved / "model-00001-of-00001.safetensors")
    assert source.digest() == before
    rewrite(saved, lambda weights: weights["model.norm.weight"].fill_(3.0))
    assert source.digest() != before


def test_code_that_may_run_is_part_of_the_digest(saved, tmp_path):
    digests = []
    for text in ("a = 1", "a = 2"):
        (saved / "modeling_own.py").write_text(text)
        for trusted in (False, True):
            source = LocalModel(path=str(saved), cache_dir=str(tmp_path), trust_remote_code=trusted)
            digests.append(source.digest())
    assert digests[0] == digests[2] and len(set(digests)) == 3


@pytest.mark.parametrize("content", ["{}", "", '{"model": 3}', "[1]"])
def test_a_tokenizer_that_cannot_be_read_is_one_sentence(saved, tmp_path, content):
    (saved / "tokenizer.json").write_text(content)
    (saved / "tokenizer_config.json").unlink()
    (fault,) = LocalModel(path=str(saved), cache_dir=str(tmp_path)).faults()
    assert "tokenizer.json" in fault and str(saved) in fault and "\n" not in fault
    assert "tokenizer.save_pretrained" in fault


def test_heads_that_do_not_divide_the_width_are_one_sentence(saved, tmp_path):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"num_attention_heads": 6, "num_key_value_heads": 6}))
    (fault,) = LocalModel(path=str(saved), cache_dir=str(tmp_path)).faults()
    assert "config.json" in fault and "32) is not a multiple of the number of attention heads (6)" in fault
    assert "\n" not in fault


@pytest.mark.parametrize(
    "entries",
    [{"hidden_act": "nonsense"}, {"vocab_size": "many"}, {"rope_parameters": {"rope_type": "nonsense"}}],
)
def test_a_config_no_model_can_be_built_of_is_one_sentence(saved, tmp_path, entries):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | entries))
    (fault,) = LocalModel(path=str(saved), cache_dir=str(tmp_path)).faults()
    assert f"{saved}/config.json" in fault and "\n" not in fault


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3", "dbrx", "gpt_oss"])
def test_experts_are_refused_by_name_before_weights_are_read(saved, tmp_path, kind):
    (saved / "config.json").write_text(json.dumps({"model_type": kind}))
    (fault,) = LocalModel(path=str(saved), cache_dir=str(tmp_path)).faults()
    assert f"{kind!r} has experts" in fault and "not support" in fault
    (fault,) = random_source(tmp_path, shape={"model_type": kind}).faults()
    assert "has experts" in fault


def test_what_a_library_raises_while_loading_is_one_sentence(saved, tmp_path, monkeypatch):
    import transformers

    def refuse(*_, **__):
        raise ImportError("needs a package\nthat is not there")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
    with pytest.raises(ModelError, match=r"saved cannot be read \(needs a package that is not there\)"):
        LocalModel(path=str(saved), cache_dir=str(tmp_path)).load(torch.float32, CPU)


def test_a_head_that_the_weights_lack_is_drawn_only_where_it_is_asked_for(tmp_path):
    shape = {"model_type": "bert", "vocab_size": 258, "hidden_size": 16, "intermediate_size": 16}
    shape |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    drawn = random_source(tmp_path, shape=shape, task="sequence_classification").load(torch.float32, CPU)
    drawn.module.save_pretrained(tmp_path / "saved")
    drawn.tokenizer.save_pretrained(tmp_path / "saved")
    rewrite(tmp_path / "saved", lambda weights: [weights.pop(f"classifier.{name}") for name in ("weight", "bias")])

    def source(**fields):
        path, cache = str(tmp_path / "saved"), str(tmp_path)
        return LocalModel(path=path, cache_dir=cache, task="sequence_classification", **fields)

    with pytest.raises(ModelError, match=r"no head for task=sequence_classification: classifier.*model\.new_head=true"):
        source().load(torch.float32, CPU)
    heads = {}
    for seed in (0, 1):
        sources._pristine.clear()
        model = source(new_head=True, seed=seed).load(torch.float32, CPU)
        heads[seed] = model.module.classifier.weight
        assert torch.equal(model.module.bert.pooler.dense.weight, drawn.module.bert.pooler.dense.weight)
    sources._pristine.clear()
    assert torch.equal(source(new_head=True).load(torch.float32, CPU).module.classifier.weight, heads[0])
    assert not torch.equal(heads[0], heads[1])
    digests = {source().digest(), source(new_head=True).digest(), source(new_head=True, seed=1).digest()}
    assert len(digests) == 3
    rewrite(tmp_path / "saved", lambda weights: weights.pop("bert.pooler.dense.bias"))
    with pytest.raises(ModelError, match=r"missing or of another shape are bert\.pooler\.dense\.bias\."):
        source(new_head=True).load(torch.float32, CPU)


def test_a_new_head_is_a_classifiers(tmp_path):
    with pytest.raises(ValueError, match="task=causal_lm has none: set new_head=false"):
        LocalModel(path=str(tmp_path), cache_dir=str(tmp_path), new_head=True)
