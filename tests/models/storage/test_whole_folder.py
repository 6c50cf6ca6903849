import pytest
from safetensors import SafetensorError

from slimsweep.errors import ModelError
from slimsweep.models.storage.whole_folder import refuse_unless_empty, written_whole


def test_a_folder_appears_when_all_of_it_is_written(tmp_path):
    folder = tmp_path / "a" / "b"
    with written_whole(folder) as partial:
        (partial / "weights").write_text("1")
        assert not folder.exists()
    assert [path.name for path in folder.parent.iterdir()] == ["b"]
    assert (folder / "weights").read_text() == "1"


def test_an_empty_folder_is_filled(tmp_path):
    with written_whole(tmp_path / "empty") as partial:
        (tmp_path / "empty").mkdir()
        (partial / "weights").write_text("1")
    assert (tmp_path / "empty" / "weights").is_file()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError("No space left on device"), ModelError),
        (SafetensorError("I/O error"), ModelError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("other"), ValueError),
    ],
)
def test_after_an_error_nothing_is_left(tmp_path, error, raised):
    with pytest.raises(raised, match="Free space|^$|other"), written_whole(tmp_path / "saved") as partial:
        (partial / "weights").write_text("1")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_does_not_get_in(tmp_path):
    left = tmp_path / ".saved.partial"
    left.mkdir()
    (left / "old").write_text("1")
    with written_whole(tmp_path / "saved") as partial:
        (partial / "weights").write_text("1")
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["weights"]


def test_a_folder_filled_meanwhile_is_left_alone(tmp_path):
    folder = tmp_path / "saved"
    with pytest.raises(ModelError, match="cannot be written"), written_whole(folder) as partial:
        (partial / "weights").write_text("1")
        folder.mkdir()
        (folder / "mine").write_text("mine")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_only_an_empty_or_absent_folder_is_written_to(tmp_path):
    refuse_unless_empty(tmp_path)
    refuse_unless_empty(tmp_path / "absent")
    (tmp_path / "file").write_text("mine")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(ModelError, match="not an empty folder; name another"):
            refuse_unless_empty(taken)
