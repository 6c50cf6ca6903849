import os
import time

from filelock import FileLock
from typer.testing import CliRunner

from slimsweep.cli.slim import app
from slimsweep.pipeline.stage_cache import training_files


def filled(folder):
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(bytes(100))
    return folder


def test_checkpoints_go_when_a_stage_ends_well_and_stay_when_it_does_not(tmp_path):
    folder = filled(training_files.checkpoint_folder(tmp_path, "a" * 64))
    try:
        with training_files.held(folder):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert folder.is_dir()
    with training_files.held(folder):
        assert folder.is_dir()
    assert not folder.exists()


def test_clearing_leaves_what_a_job_trains_on(tmp_path):
    busy, free = (filled(training_files.checkpoint_folder(tmp_path, name * 64)) for name in "ab")
    assert [one.bytes >= 100 for one in training_files.folders(tmp_path)] == [True, True]
    with FileLock(f"{busy}.lock"):
        removed, left = training_files.clear(tmp_path)
    assert [one.path for one in removed] == [free] and [one.path for one in left] == [busy]
    assert busy.is_dir() and not free.exists()


def test_predictions_of_teachers_go_once_no_job_can_be_at_them(tmp_path):
    fresh, old = (filled(training_files.teacher_folder(tmp_path, name * 64)) for name in "ab")
    before = time.time() - 2 * training_files.IN_USE_SECONDS
    for path in (old, old / "weights.safetensors"):
        os.utime(path, (before, before))
    removed, left = training_files.clear(tmp_path)
    assert [one.path for one in removed] == [old] and [one.path for one in left] == [fresh]
    assert not removed[0].is_checkpoint


def test_the_command_lists_and_clears_them(tmp_path):
    cache = tmp_path / "cache"
    filled(training_files.checkpoint_folder(cache, "a" * 64))
    (cache / "stages").mkdir()
    listed = CliRunner().invoke(app, ["cache", "--outputs", str(tmp_path)])
    assert "checkpoints of unfinished training: 1 kept" in listed.output
    cleared = CliRunner().invoke(app, ["cache", "--clear", "--outputs", str(tmp_path)])
    assert "checkpoints of unfinished training: 1 removed" in cleared.output
    assert not (cache / "unfinished" / ("a" * 16)).exists()
