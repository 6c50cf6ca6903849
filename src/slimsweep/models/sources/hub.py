"""Weights on the Hugging Face hub."""

import errno
import functools
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimsweep.errors import ModelError
from slimsweep.models.placement.loading import reason
from slimsweep.models.sources.base import ModelSource
from slimsweep.models.storage import checkpoint

LIGHT = ("*.json", "*.txt", "tokenizer.model")
SKIPPED = ("*/*", "consolidated*")  # other formats of the same weights
NETWORK_SETTINGS = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "HF_ENDPOINT")
CONVERTER = "SFconvertbot"  # the hub's own account; offers safetensors to repositories that hold only pickles


@dataclass(frozen=True, kw_only=True)
class HubModel(ModelSource):
    """A repository of the hub at a revision; HF_TOKEN and the hub's own cache are honoured."""

    id: str | None = None
    """ORG/NAME."""
    revision: str | None = None
    """Branch, tag or commit; None for the newest of the main branch, whose commit the record keeps."""
    name: str = ""
    """Empty: the id."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name:
            object.__setattr__(self, "name", self.id or "hub")

    @property
    def resolved_revision(self) -> str | None:
        """The commit whose files were read."""
        return self.light_folder().name if self.weights == "trained" else self.revision

    def faults(self) -> list[str]:
        if not self.id and not (self.shape and self.weights != "trained"):
            return ["model=hub needs model.id=ORG/NAME, a repository of huggingface.co."]
        return super().faults()

    def folder(self) -> Path:
        return _download(self.id or "", self.revision, (*LIGHT, "*.safetensors", *self._code))

    def light_folder(self) -> Path:
        return _download(self.id or "", self.revision, (*LIGHT, *self._code))

    @property
    def _place(self) -> str:
        return self.id or ""

    def _folder_faults(self) -> list[str]:
        folder = self.light_folder()
        if checkpoint.weight_files(folder) and all(file.is_file() for file in checkpoint.weight_files(folder)):
            return checkpoint.folder_faults(folder)
        return []  # not here yet; `_revision_with_weights` has seen that the repository has them

    @property
    def _code(self) -> tuple[str, ...]:
        return ("*.py",) if self.trust_remote_code else ()


@functools.cache
def _download(id: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """Folder of a repository's files, downloaded where they are not in the hub's cache.

    Raises:
        ModelError: the repository is missing, gated or unreachable, or has no safetensors.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    chosen = {"allow_patterns": list(patterns), "ignore_patterns": list(SKIPPED)}
    try:
        revision = _revision_with_weights(id, revision)
        try:
            folder = snapshot_download(id, revision=revision, **chosen)
        except Exception as error:
            if not _is_network(error):
                raise
            folder = _cached(id, revision, chosen, error)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(_advice(id, revision, error)) from error
    return Path(folder)


@functools.cache
def _revision_with_weights(id: str, revision: str | None) -> str | None:
    """`revision`, or the hub's own safetensors conversion where the main branch holds none.

    Without a network the revision is taken as it is: its files may lie in the hub's cache.
    """
    from huggingface_hub import HfApi

    hub: Any = HfApi()
    try:
        files = [entry.rfilename for entry in hub.model_info(id, revision=revision).siblings or []]
        if any(name.endswith(".safetensors") for name in files):
            return revision
        requests = hub.get_repo_discussions(id, author=CONVERTER, discussion_type="pull_request")
        converted = None if revision else next((request.git_reference for request in requests), None)
    except Exception as error:
        if not _is_network(error):
            raise
        return revision
    if converted is None:
        raise ModelError(
            f"{id} has no safetensors files, only formats that can run code when opened. Set model.revision "
            "to one that has them, or convert it where you trust it and use model=local model.path=FOLDER."
        )
    return converted


def _cached(id: str, revision: str | None, chosen: dict[str, list[str]], error: Exception) -> str:
    """Folder of a repository's files in the hub's cache, where settings keep the network from being asked.

    Raises:
        ModelError: they are not all there.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return snapshot_download(id, revision=revision, local_files_only=True, **chosen)
    except LocalEntryNotFoundError:
        raise ModelError(
            f"{id} is not in the hub's cache, and the network cannot be used{_settings()} ({reason(error)}). Change or "
            "unset them, install what they need, or use a copy on disk: model=local model.path=FOLDER."
        ) from error


def _settings() -> str:
    """Names of the environment variables that decide how the network is reached; their values may hold a password."""
    names = sorted(name for name in os.environ if name.upper() in NETWORK_SETTINGS and os.environ[name])
    return f" with the settings {', '.join(names)}" if names else ""


def _is_network(error: Exception) -> bool:
    """Whether an error says that the hub was not reached: no network, a server that fails, or settings it refuses.

    Settings that httpx refuses raise an ImportError (the proxy needs a package), a ValueError (the kind of proxy is
    unknown) or a FileNotFoundError (the file of certificates is missing).
    """
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code in (407, 429)
    if isinstance(error, HFValidationError | LocalEntryNotFoundError | ModelError):
        return False
    if isinstance(error, OSError):
        is_certificates = isinstance(error, FileNotFoundError | ssl.SSLError)
        return is_certificates or isinstance(error, ConnectionError | TimeoutError | OfflineModeIsEnabled)
    return isinstance(error, httpx.TransportError | httpx.InvalidURL | ImportError | ValueError)


def _advice(id: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    elsewhere = "or use a copy on disk: model=local model.path=FOLDER."
    if isinstance(error, HFValidationError):
        return f"model.id={id!r} is no repository of the hub: write ORG/NAME, {elsewhere}"
    if isinstance(error, GatedRepoError):
        return (
            f"{id} is gated: accept its licence at https://huggingface.co/{id}, then set HF_TOKEN to a token "
            f"of that account (https://huggingface.co/settings/tokens), {elsewhere}"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{id} has no revision {revision!r}; see https://huggingface.co/{id}/commits/main, {elsewhere}"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{id} is not on huggingface.co or is private: check the spelling of model.id, set HF_TOKEN if "
            f"it is private, {elsewhere}"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return f"{id} cannot be stored ({error}): free space or set HF_HOME to a folder with room, {elsewhere}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return (
        f"{id} is neither in the hub's cache nor reachable{_settings()} ({lines[0]}). Check the network and "
        f"HF_HUB_OFFLINE, {elsewhere}"
    )
