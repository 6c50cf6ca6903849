"""The hub is not reached in tests: its answers are set up here."""

import json
from types import SimpleNamespace

import httpx
import pytest
import torch

from slimsweep.models import hub
from slimsweep.models.hub import HubModel


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
