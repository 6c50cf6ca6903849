"""Credentials of trackers: where each client finds them, and text without them.

A server's answer may repeat the key that it refused. A client's message may hold an address with its password.
"""

import configparser
import json
import netrc
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

SECRET_VARIABLES = (
    *("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN"),
    *("DATABRICKS_TOKEN", "DATABRICKS_CLIENT_SECRET", "DATABRICKS_PASSWORD"),  # MLflow's client reads these too
)
ADDRESS_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "WANDB_BASE_URL")
MASK = "***"


def settings_files() -> dict[str, str]:
    """Settings in W&B's own files, where `wandb disabled`, `wandb offline` and `wandb init` write.

    The user's file comes first; that of the working directory and of WANDB_DIR win over it. W&B reads the first two
    itself, but its commands write into the third where there is one.
    """
    roots = [Path(), *([Path(os.environ["WANDB_DIR"])] if os.environ.get("WANDB_DIR") else [])]
    own = [root / (".wandb" if (root / ".wandb").exists() else "wandb") / "settings" for root in roots]
    return _section("default", _wandb_folder() / "settings", *own)


def has_key() -> bool:
    """Whether a W&B key is configured: in the environment, W&B's files, or the netrc file `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    files = settings_files()
    if files.get("api_key"):
        return True
    # With the port, as `wandb login` writes it.
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or files.get("base_url") or "https://api.wandb.ai").netloc
    return any(server in hosts for hosts in _netrc_files())


def failure_text(error: Exception) -> str:
    """Type and first line of an error that a tracker's client raised, without secrets."""
    return without_secrets(f"{type(error).__name__}: {error}").partition("\n")[0]


def without_secrets(text: str) -> str:
    """Text without any configured secret, and without the user and password of an address."""
    for secret in sorted(secrets(), key=len, reverse=True):  # a secret may be part of a longer one
        text = text.replace(secret, MASK)
    return re.sub(r"(://)[^/\s@]+@", rf"\1{MASK}@", text)


def secrets() -> set[str]:
    """Keys, tokens and passwords that are configured for the trackers, as they are and as an address holds them."""
    plain = {secret.strip() for secret in _configured() if isinstance(secret, str) and secret.strip()}
    return plain | {quote(secret, safe="") for secret in plain}


def _configured() -> Iterator[Any]:
    for name in SECRET_VARIABLES:
        yield os.environ.get(name)
    for name in ADDRESS_VARIABLES:
        with suppress(ValueError):
            yield unquote(urlsplit(os.environ.get(name) or "").password or "")
    yield settings_files().get("api_key")
    yield _section("mlflow", Path("~/.mlflow/credentials")).get("mlflow_tracking_password")
    if token_file := os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        yield _text(Path(token_file))
    # W&B keeps here what it got for an identity token.
    kept = _text(Path(os.environ.get("WANDB_CREDENTIALS_FILE") or _wandb_folder() / "credentials.json"))
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        yield from (entry.get("access_token") for entry in json.loads(kept)["credentials"].values())
    for hosts in _netrc_files():  # MLflow's client reads them too, for any host
        yield from (password for _, _, password in hosts.values())


def _wandb_folder() -> Path:
    return Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb")


def _netrc_files() -> Iterator[dict[str, tuple[Any, Any, Any]]]:
    """Login, account and password by host, of each netrc file that can be read."""
    names = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for path in (Path(name).expanduser() for name in names if name):
        with suppress(OSError, ValueError, netrc.NetrcParseError):
            yield netrc.netrc(path).hosts


def _section(name: str, *paths: Path) -> dict[str, str]:
    """One section of some files; a later file wins."""
    parser = configparser.ConfigParser(interpolation=None)
    for path in paths:
        with suppress(OSError, ValueError, configparser.Error):  # as W&B does with a file it cannot read
            parser.read(path.expanduser(), encoding="utf-8")
    return dict(parser[name]) if parser.has_section(name) else {}


def _text(path: Path) -> str:
    with suppress(OSError, ValueError):
        return path.expanduser().read_text(encoding="utf-8")
    return ""
