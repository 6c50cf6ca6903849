from pathlib import Path

from slimsweep.paths import config_root, outputs_dir, project_path, project_root


def test_relative_paths_count_from_the_project_root_not_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project_path("outputs") == project_root() / "outputs"
    assert (config_root() / "conf" / "config.yaml").is_file()


def test_absolute_and_home_paths_are_kept(tmp_path):
    assert project_path(tmp_path) == tmp_path
    assert project_path("~/x") == Path.home() / "x"


def test_outputs_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SLIMSWEEP_OUTPUTS", str(tmp_path))
    assert outputs_dir() == tmp_path
