"""The hub is not reached in tests: its answers are set up here."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import httpx
import pytest
import torch

from slimsweep.models.sources import hub
from slimsweep.models.sources.hub import HubModel


@pytest.fixture
def answers(monkeypatch, tmp_path):
    """What the hub answers: `files` it lists, `error` on download, `requests` it has, what was `asked`."""
    state = SimpleNamespace(files=["model.safetensors"], error=None, requests=[], asked=[], folder=tmp_path / "abc123")
    monkeypatch.setattr(hub, "_download", hub._download.__wrapped__)
    monkeypatch.setattr(hub, "_revision_with_weights", hub._revision_with_weights.__wrapped__)

    class HfApi:
        def model_info(self, id, revision):
            if isinstance(state.files, Exception):
                raise state.files
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in state.files])

        def get_repo_discussions(self, id, author, discussion_type):
            return iter(state.requests)

    def snapshot_download(id, revision, allow_patterns, ignore_patterns):
        state.asked.append((revision, allow_patterns))
        if state.error:
            raise state.error
        return str(state.folder)

    monkeypatch.setattr("huggingface_hub.HfApi", HfApi)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return state


@pytest.fixture
def source(tmp_path):
    return HubModel(id="ORG/NAME", cache_dir=str(tmp_path))


def response(kind, status):
    request = httpx.Request("GET", "https://huggingface.co")
    return kind("refused", response=httpx.Response(status, request=request))


def test_without_id_the_fault_says_what_to_set(tmp_path):
    (fault,) = HubModel(cache_dir=str(tmp_path)).faults()
    assert "model.id=ORG/NAME" in fault


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        ("GatedRepoError", 403, ["gated", "accept its licence", "HF_TOKEN", "model=local model.path=FOLDER"]),
        ("RepositoryNotFoundError", 404, ["spelling", "HF_TOKEN", "model=local model.path=FOLDER"]),
        ("RevisionNotFoundError", 404, ["no revision", "model=local model.path=FOLDER"]),
    ],
)
def test_refusals_say_how_to_get_access(answers, source, kind, status, words):
    from huggingface_hub import errors

    answers.error = response(getattr(errors, kind), status)
    (fault,) = source.faults()
    assert all(word in fault for word in words)


def test_unreachable_hub_is_one_error(answers, source):
    from huggingface_hub.errors import LocalEntryNotFoundError

    answers.files = httpx.ConnectError("Name or service not known")
    answers.error = LocalEntryNotFoundError("not in the cache")
    (fault,) = source.faults()
    assert "neither in the hub's cache nor reachable" in fault


def test_gated_repository_answers_at_the_first_question(answers, source):
    from huggingface_hub.errors import GatedRepoError

    answers.files = response(GatedRepoError, 403)
    (fault,) = source.faults()
    assert "gated" in fault


def test_mistyped_id_is_explained(answers, tmp_path):
    from huggingface_hub.errors import HFValidationError

    answers.files = HFValidationError("no spaces")
    (fault,) = HubModel(id="a b", cache_dir=str(tmp_path)).faults()
    assert "'a b' is no repository" in fault


def test_cached_files_are_used_without_network(answers, source, tiny):
    answers.files = httpx.ConnectError("no network")
    save(tiny, answers.folder)
    assert source.faults() == []
    assert source.load(torch.float32, torch.device("cpu")).original_parameters == tiny.original_parameters
    assert source.resolved_revision == "abc123"


def test_faults_are_found_before_weights_are_downloaded(answers, source, tiny):
    save(tiny, answers.folder)
    (answers.folder / "model.safetensors").unlink()
    assert source.faults() == []
    assert not any("*.safetensors" in patterns for _, patterns in answers.asked)


def test_code_is_not_even_downloaded_unless_trusted(answers, source, tmp_path):
    source.folder()
    assert "*.py" not in answers.asked[-1][1]
    HubModel(id="ORG/NAME", cache_dir=str(tmp_path), trust_remote_code=True).folder()
    assert "*.py" in answers.asked[-1][1]


def test_repository_of_pickles_is_refused(answers, source):
    answers.files = ["pytorch_model.bin"]
    (fault,) = source.faults()
    assert "no safetensors" in fault


def test_the_hubs_own_conversion_of_pickles_is_taken(answers, source):
    answers.files = ["pytorch_model.bin"]
    answers.requests = [SimpleNamespace(git_reference="refs/pr/7")]
    source.folder()
    assert answers.asked == [("refs/pr/7", [*hub.LIGHT, "*.safetensors"])]


def test_meta_with_a_shape_asks_the_hub_nothing(answers, tmp_path):
    shape = {"model_type": "gpt2", "n_embd": 48, "n_layer": 1}
    source = HubModel(id="ORG/NAME", shape=shape, weights="meta", cache_dir=str(tmp_path))
    assert source.faults() == []
    assert source.load(torch.bfloat16, torch.device("cpu")).is_meta
    assert source.resolved_revision is None
    assert answers.asked == []


def save(model, folder):
    model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "http://127.0.0.1:1", "nonsense://127.0.0.1:1"])
def test_settings_of_the_network_do_not_keep_the_cache_from_being_used(tiny, tmp_path, proxy):
    repository = tmp_path / "hub" / "models--ORG--NAME"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    save(tiny, repository / "snapshots" / "abc123")
    code = (
        "from slimsweep.models.sources.hub import HubModel\n"
        f"cached = HubModel(id='ORG/NAME', cache_dir={str(tmp_path)!r})\n"
        "print('cached', cached.faults(), cached.resolved_revision, len(cached.digest()))\n"
        f"print('absent', HubModel(id='ORG/OTHER', cache_dir={str(tmp_path)!r}).faults())\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path / "hub"), "ALL_PROXY": proxy}
    environment["HF_ENDPOINT"] = "http://hub.invalid"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    cached, absent = [line for line in done.stdout.splitlines() if line.startswith(("cached", "absent"))]
    assert cached == "cached [] abc123 64", done.stderr
    assert "ORG/OTHER is" in absent and "in the hub's cache" in absent and "ALL_PROXY" in absent
    assert "model=local model.path=FOLDER" in absent and "Traceback" not in done.stderr


@pytest.mark.parametrize("status", [407, 429, 503])
def test_a_hub_that_fails_leaves_the_cache(answers, source, tiny, status):
    from huggingface_hub.errors import HfHubHTTPError

    answers.files = response(HfHubHTTPError, status)
    save(tiny, answers.folder)
    assert source.faults() == []
