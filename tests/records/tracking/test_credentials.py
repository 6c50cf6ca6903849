"""Secrets in every place where a tracker's client finds them, and texts without them."""

import json

import pytest

from slimsweep.records.tracking.credentials import (
    ADDRESS_VARIABLES,
    SECRET_VARIABLES,
    failure_text,
    secrets,
    without_secrets,
)

SECRET = "planted+secret"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """An empty home and working directory, and no credentials in the environment."""
    names = ("WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_CREDENTIALS_FILE", "NETRC")
    for name in (*SECRET_VARIABLES, *ADDRESS_VARIABLES, *names):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_credentials_a_text_stays_as_it_is():
    assert secrets() == set() and without_secrets("a text, https://host/x") == "a text, https://host/x"


@pytest.mark.parametrize("name", SECRET_VARIABLES)
def test_a_secret_of_the_environment_is_masked(name, monkeypatch):
    monkeypatch.setenv(name, SECRET)
    assert without_secrets(f"bad {SECRET}!") == "bad ***!"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (".netrc", f"machine any.host login me password {SECRET}"),
        (".config/wandb/settings", f"[default]\napi_key = {SECRET}\n"),
        ("wandb/settings", f"[default]\napi_key = {SECRET}\n"),
        (".mlflow/credentials", f"[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = {SECRET}\n"),
        (".config/wandb/credentials.json", json.dumps({"credentials": {"https://host": {"access_token": SECRET}}})),
        ("token", SECRET + "\n"),
    ],
)
def test_a_secret_of_a_file_is_masked(file, content, home, monkeypatch):
    monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", str(home / "token"))
    (home / file).parent.mkdir(parents=True, exist_ok=True)
    (home / file).write_text(content)
    assert without_secrets(f"bad {SECRET}!") == "bad ***!"


@pytest.mark.parametrize("name", ADDRESS_VARIABLES)
def test_the_password_of_an_address_is_masked_wherever_it_stands(name, monkeypatch):
    monkeypatch.setenv(name, "https://me:planted%2Bsecret@host/path")
    text = f"https://me:planted%2Bsecret@host/path refused planted%2Bsecret, which is {SECRET}"
    assert without_secrets(text) == "https://***@host/path refused ***, which is ***"


def test_a_damaged_file_hides_no_other_secret(home, monkeypatch):
    (home / ".netrc").write_text("machine\nnonsense")
    (home / ".config/wandb").mkdir(parents=True)
    (home / ".config/wandb/credentials.json").write_text("[1]")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    assert without_secrets(SECRET) == "***"


def test_only_the_first_line_of_an_error_is_told(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    assert failure_text(RuntimeError(f"refused {SECRET}\nwith details")) == "RuntimeError: refused ***"
