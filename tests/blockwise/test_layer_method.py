import dataclasses

import pytest
from conftest import PROJECT
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from slimsweep.blockwise.layer_method import LayerMethod
from slimsweep.techniques.layerwise import LayerWalk

NAMES = sorted(path.stem for path in (PROJECT / "conf" / "technique").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_layerwise_technique_offers_what_the_walk_asks(name):
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        config = compose("config", [f"technique={name}"]).technique[name]
    technique = get_class(config._target_)
    if not issubclass(technique, LayerWalk):
        pytest.skip("walks the model itself")
    given = {key: value for key, value in OmegaConf.to_container(config, resolve=False).items() if key != "_target_"}
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    settings = {key: value for key, value in settings.items() if not str(value).startswith("${")}
    needs_ratio = any(field.name == "ratio" for field in dataclasses.fields(technique))
    made = technique(**settings | ({"ratio": 0.5} if needs_ratio else {}))
    assert isinstance(made, LayerMethod)
    assert not isinstance(object(), LayerMethod)
