"""Weights on the Hugging Face hub."""

import errno
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimsweep.errors import ModelError
from slimsweep.models import checkpoint
from slimsweep.models.source import ModelSource

LIGHT = ("*.json", "*.txt", "tokenizer.model")
SKIPPED = ("*/*", "consolidated*")  # other formats of the same weights
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

    try:
        revision = _revision_with_weights(id, revision)
        folder = snapshot_download(id, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(SKIPPED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(_advice(id, revision, error)) from error
    return Path(folder)


@functools.cache
def _revision_with_weights(id: str, revision: str | None) -> str | None:
    """`revision`, or the hub's own safetensors conversion where the main branch holds none.

    Without a network the revision is taken as it is: its files may lie in the hub's cache.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    hub: Any = HfApi()
    try:
        files = [entry.rfilename for entry in hub.model_info(id, revision=revision).siblings or []]
        if any(name.endswith(".safetensors") for name in files):
            return revision
        requests = hub.get_repo_discussions(id, author=CONVERTER, discussion_type="pull_request")
        converted = None if revision else next((request.git_reference for request in requests), None)
    except (httpx.TransportError, OfflineModeIsEnabled):
        return revision
    if converted is None:
        raise ModelError(
            f"{id} has no safetensors files, only formats that can run code when opened. Set model.revision "
            "to one that has them, or convert it where you trust it and use model=local model.path=FOLDER."
        )
    return converted


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
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return (
        f"{id} is neither in the hub's cache nor reachable ({reason[0]}). Check the network and "
        f"HF_HUB_OFFLINE, {elsewhere}"
    )
