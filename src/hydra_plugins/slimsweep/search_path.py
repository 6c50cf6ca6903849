"""Lets `+sweeps=NAME` find sweeps/ from any working directory."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from slimsweep.paths import config_root


class SweepsSearchPath(SearchPathPlugin):
    """Adds the folder that holds sweeps/, so that the group `sweeps` exists beside those of conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="slimsweep", path=f"file://{config_root()}")
