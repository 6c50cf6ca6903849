import pytest

from slimsweep.atomic import whole_file, whole_folder, write_text


def test_a_folder_appears_when_all_of_it_is_written(tmp_path):
    folder = tmp_path / "a" / "b"
    with whole_folder(folder) as partial:
        (partial / "weights").write_text("1")
        assert not folder.exists()
    assert [path.name for path in folder.parent.iterdir()] == ["b"]
    assert (folder / "weights").read_text() == "1"


def test_an_empty_folder_is_filled(tmp_path):
    with whole_folder(tmp_path / "empty") as partial:
        (tmp_path / "empty").mkdir()
        (partial / "weights").write_text("1")
    assert (tmp_path / "empty" / "weights").is_file()


ERRORS = [OSError("No space left on device"), KeyboardInterrupt(), ValueError("other")]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_after_an_error_nothing_of_a_folder_is_left(tmp_path, error):
    with pytest.raises(type(error)), whole_folder(tmp_path / "saved") as partial:
        (partial / "weights").write_text("1")
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_after_an_error_the_old_file_is_whole(tmp_path, error):
    write_text(tmp_path / "a" / "file", "old")
    with pytest.raises(type(error)), whole_file(tmp_path / "a" / "file") as partial:
        partial.write_text("half")
        raise error
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]
    assert (tmp_path / "a" / "file").read_text() == "old"


def test_a_file_is_replaced_when_all_of_it_is_written(tmp_path):
    write_text(tmp_path / "file", "old")
    with whole_file(tmp_path / "file") as partial:
        partial.write_text("n\u00e9w", encoding="utf-8")
        assert (tmp_path / "file").read_text() == "old" and partial.parent == tmp_path
    assert (tmp_path / "file").read_text(encoding="utf-8") == "n\u00e9w" and len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_does_not_get_in(tmp_path):
    left = tmp_path / ".saved.partial"
    left.mkdir()
    (left / "old").write_text("1")
    with whole_folder(tmp_path / "saved") as partial:
        (partial / "weights").write_text("1")
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["weights"]


def test_a_folder_filled_meanwhile_is_left_alone(tmp_path):
    folder = tmp_path / "saved"
    with pytest.raises(OSError, match="not empty"), whole_folder(folder) as partial:
        (partial / "weights").write_text("1")
        folder.mkdir()
        (folder / "mine").write_text("mine")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_an_older_folder_stays_until_the_new_one_is_whole(tmp_path):
    folder = tmp_path / "saved"
    with whole_folder(folder) as partial:
        (partial / "old").write_text("1")
    with pytest.raises(OSError), whole_folder(folder, replaces=True):
        raise OSError("No space left on device")
    assert [path.name for path in folder.iterdir()] == ["old"]
    with whole_folder(folder, replaces=True) as partial:
        (partial / "new").write_text("1")
        assert (folder / "old").exists()
    assert [path.name for path in folder.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [folder]
