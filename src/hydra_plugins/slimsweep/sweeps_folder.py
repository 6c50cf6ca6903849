"""Lets `+sweeps=NAME` find sweeps/ from any working directory."""

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.search_path_plugin import SearchPathPlugin

from slimsweep.paths import config_root

GROUP = "sweeps"


class SweepsFolder(FileConfigSource):
    """The one folder sweeps/ of the folder it is given, as a config group.

    A plain `file://` source would offer every folder beside it as a group, and walk through all of them for --help.
    """

    @staticmethod
    def scheme() -> str:
        return GROUP

    def is_group(self, config_path: str) -> bool:
        return config_path == "" or (_is_inside(config_path) and super().is_group(config_path))

    def is_config(self, config_path: str) -> bool:
        return _is_inside(config_path) and super().is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "":
            return [] if results_filter is ObjectType.CONFIG else [GROUP]
        return super().list(config_path, results_filter) if _is_inside(config_path) else []


class SweepsSearchPath(SearchPathPlugin):
    """Adds the group `sweeps` beside those of conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="slimsweep", path=f"{GROUP}://{config_root()}")


def _is_inside(config_path: str) -> bool:
    return config_path.split("/")[0].removesuffix(".yaml") == GROUP
