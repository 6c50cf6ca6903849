from slimsweep.models.sources.local import LocalModel
from slimsweep.models.storage.saved_model import save


def test_local_without_a_path_says_what_to_set(tmp_path):
    for weights in ("trained", "meta"):
        (fault,) = LocalModel(cache_dir=str(tmp_path), weights=weights).faults()
        assert "model.path=FOLDER" in fault


def test_a_local_model_is_named_after_its_folder(tmp_path):
    assert LocalModel(path=str(tmp_path / "my-model"), cache_dir=str(tmp_path)).name == "my-model"


def test_a_missing_folder_is_named(tmp_path):
    (fault,) = LocalModel(path=str(tmp_path / "absent"), cache_dir=str(tmp_path)).faults()
    assert str(tmp_path / "absent") in fault


def test_another_tokenizer_is_another_model(tiny, tmp_path):
    save(tiny, tmp_path / "saved")
    tiny.tokenizer.add_tokens(["more"])
    tiny.tokenizer.save_pretrained(tmp_path / "tokenizer")
    plain = LocalModel(path=str(tmp_path / "saved"), cache_dir=str(tmp_path / "cache"))
    other = LocalModel(
        path=plain.path, cache_dir=plain.cache_dir, tokenizer_path=str(tmp_path / "tokenizer"), name=plain.name
    )
    assert other.tokenizer().encode("more") == [258]
    assert other.digest() != plain.digest()
    absent = LocalModel(path=plain.path, cache_dir=plain.cache_dir, tokenizer_path=str(tmp_path / "absent"))
    assert absent.faults() == [f"model.tokenizer_path={tmp_path}/absent is no folder; give one with tokenizer.json."]
