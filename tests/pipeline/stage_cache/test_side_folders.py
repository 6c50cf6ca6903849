import os
import time

import pytest
from filelock import FileLock

from slimsweep.pipeline.stage_cache import side_folders


def filled(folder):
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(bytes(100))
    return folder


def test_checkpoints_go_when_a_stage_ends_well_and_stay_when_it_does_not(tmp_path):
    folder = filled(side_folders.checkpoint_folder(tmp_path, "a" * 64))
    try:
        with side_folders.held(folder):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert folder.is_dir()
    with side_folders.held(folder):
        assert folder.is_dir()
    assert not folder.exists()


def test_clearing_leaves_what_a_job_trains_on(tmp_path):
    busy, free = (filled(side_folders.checkpoint_folder(tmp_path, name * 64)) for name in "ab")
    assert [one.bytes >= 100 for one in side_folders.folders(tmp_path)] == [True, True]
    with FileLock(f"{busy}.lock"):
        removed, left = side_folders.clear(tmp_path)
    assert [one.path for one in removed] == [free] and [one.path for one in left] == [busy]
    assert busy.is_dir() and not free.exists()


@pytest.mark.parametrize("kind", ["teachers", "bases"])
def test_predictions_go_once_no_job_can_be_at_them(tmp_path, kind):
    folder_of = {"teachers": side_folders.teacher_folder, "bases": side_folders.base_folder}[kind]
    fresh, old = (filled(folder_of(tmp_path, name * 64)) for name in "ab")
    before = time.time() - 2 * side_folders.IN_USE_SECONDS
    for path in (old, old / "weights.safetensors"):
        os.utime(path, (before, before))
    removed, left = side_folders.clear(tmp_path)
    assert [one.path for one in removed] == [old] and [one.path for one in left] == [fresh]
    assert removed[0].kind == kind
