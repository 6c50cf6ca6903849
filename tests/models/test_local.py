from slimsweep.models.local import LocalModel


def test_local_without_a_path_says_what_to_set(tmp_path):
    for weights in ("trained", "meta"):
        (fault,) = LocalModel(cache_dir=str(tmp_path), weights=weights).faults()
        assert "model.path=FOLDER" in fault


def test_a_local_model_is_named_after_its_folder(tmp_path):
    assert LocalModel(path=str(tmp_path / "my-model"), cache_dir=str(tmp_path)).name == "my-model"


def test_a_missing_folder_is_named(tmp_path):
    (fault,) = LocalModel(path=str(tmp_path / "absent"), cache_dir=str(tmp_path)).faults()
    assert str(tmp_path / "absent") in fault
