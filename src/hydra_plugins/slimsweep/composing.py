"""Settings of the jobs of one sweep: equal choices are composed once, and a job's own values are set in a copy."""

import copy
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf


class Composer:
    """Gives what Hydra's `load_sweep_config` gives, for many jobs in less time.

    Hydra reads every YAML again for each job. It sets values after all choices are composed, so that jobs which differ
    in values alone, such as `ratio=0.5`, share the composed choices.
    """

    def __init__(self, loader: Any, master: DictConfig):
        """`loader` is Hydra's, `master` holds the settings of the launch."""
        self._loader = loader
        self._master = master
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def of(self, overrides: Sequence[str]) -> DictConfig:
        """The settings of the job with these overrides.

        Raises:
            ConfigCompositionException: an override does not fit.
        """
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        values = [override for override in parsed if self._is_value(override)]
        choices = tuple(override.input_line for override in parsed if not self._is_value(override))
        if choices not in self._composed:
            self._composed[choices] = self._loader.load_sweep_config(self._master, list(choices))
        config = copy.deepcopy(self._composed[choices])
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        own = [override for override in parsed if not override.is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in own]
        shown = OmegaConf.to_container(config.hydra.job.config.override_dirname)
        config.hydra.job.override_dirname = get_overrides_dirname(overrides=own, **shown)
        return config

    def _is_value(self, override: Override) -> bool:
        """Whether an override sets a value and chooses no file."""
        is_choice = override.package is not None or self._loader.repository.group_exists(override.key_or_group)
        return not is_choice and not override.is_hydra_override()
