"""The tracker of a name, for commands that run outside Hydra."""

from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from slimsweep.errors import ConfigError
from slimsweep.hints import allowed_names
from slimsweep.paths import config_root
from slimsweep.pipeline.compose import build
from slimsweep.pipeline.rebuild import group_folders
from slimsweep.records.tracking.base import Tracker


def tracker_of(name: str, settings: dict[str, Any], packages: Sequence[str] = ()) -> Tracker:
    """The tracker of `tracker/NAME.yaml` in our conf or in that of other packages (`theirs.conf`).

    `settings` are options of a command: they win over those of the YAML and over the environment.

    Raises:
        ConfigError: there is no such tracker, it has no such setting, it cannot work here, or would publish nothing.
    """
    faults: list[str] = []
    tracker = build("tracker", {**fields_of(name, packages), **settings}, faults)
    if tracker:
        faults += tracker.faults()
    if not faults and (reason := tracker.off_reason()):
        faults = [reason]
    if faults:
        raise ConfigError(faults)
    return tracker.with_options(settings)


def fields_of(name: str, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Settings of a tracker as its YAML has them.

    Raises:
        ConfigError: there is no such tracker, or its YAML cannot be read.
    """
    folders = [config_root() / "conf" / "tracker", *group_folders("tracker", packages)]
    files = {file.stem: file for folder in reversed(folders) for file in folder.glob("*.yaml")}
    if name not in files:
        raise ConfigError([f"there is no tracker {name!r}. {allowed_names(name, files, 'Trackers')}"])
    try:
        return OmegaConf.to_container(OmegaConf.load(files[name]), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([f"{files[name]}: {error}"]) from error
