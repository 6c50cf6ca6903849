"""`slim publish` of sweeps and keys, and of trackers with different settings."""

import pytest
from made_up import curve, record, sweep

from slimsweep.cli.publishing import chosen, mirror_of
from slimsweep.errors import ConfigError, StoreError
from slimsweep.records.store import Store
from slimsweep.records.tracking.several import Several
from slimsweep.records.tracking.wandb import Wandb


def test_sweeps_and_keys_are_chosen_each_record_once(tmp_path):
    store = Store(tmp_path)
    records = sweep(store, "mine", [record(), *curve("wanda")])
    found, sweeps = chosen(store, ["mine", records[0]["key"][:12]])
    assert [one["key"] for one in found] == [one["key"] for one in records] and sweeps == ["mine"]
    assert chosen(store, [records[1]["key"][:12]]) == ([records[1]], [])
    assert len(chosen(store, [])[0]) == 4
    with pytest.raises(StoreError, match="no sweep 'other'"):
        chosen(store, ["other"])
    with pytest.raises(StoreError, match="no record starts with"):
        chosen(store, ["0" * 12])


def test_each_of_several_trackers_gets_the_settings_that_it_has():
    pytest.importorskip("mlflow", reason="needs the package mlflow-skinny, which the extra `mlflow` installs")
    mirror = mirror_of(["wandb", "mlflow"], {"project": "mine", "mode": "offline"}, [])
    assert isinstance(mirror, Several) and mirror.trackers[0] == Wandb(project="mine", mode="offline")
    assert mirror_of(["wandb"], {"mode": "offline"}, []) == Wandb(mode="offline")
    with pytest.raises(ConfigError, match="none of mlflow, none has a setting project"):
        mirror_of(["mlflow", "none"], {"project": "mine"}, [])
    with pytest.raises(ConfigError, match="there is no tracker 'wandbb'"):
        mirror_of(["wandbb", "mlflow"], {}, [])
