import pytest

from slimsweep.errors import ConfigError
from slimsweep.pipeline.tracker_choice import tracker_of
from slimsweep.records.tracking.wandb import Wandb


def test_settings_win_over_those_of_the_yaml():
    tracker = tracker_of("wandb", {"project": "mine", "mode": "offline"})
    assert tracker == Wandb(project="mine", mode="offline") and tracker.options == ("project", "mode")


def test_a_tracker_of_another_package_has_the_settings_of_its_yaml(tmp_path, monkeypatch):
    (tmp_path / "mine" / "conf" / "tracker").mkdir(parents=True)
    yaml = "_target_: slimsweep.records.tracking.wandb.Wandb\nproject: theirs\nmode: offline\n"
    (tmp_path / "mine" / "conf" / "tracker" / "mirror.yaml").write_text(yaml)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert tracker_of("mirror", {}, ["mine.conf", "not_installed.conf"]).project == "theirs"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("wandd", {}, "no tracker 'wandd'. Did you mean: wandb?"),
        ("none", {}, "publishes nothing: give --tracker"),
        ("none", {"project": "mine"}, "tracker.project is no setting"),
        ("wandb", {"mode": "disabled"}, "disabled by --mode: give --mode online"),
        ("wandb", {"mode": "on"}, "auto, online, offline or disabled"),
    ],
)
def test_one_that_cannot_publish_is_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message.replace("?", "[?]")):
        tracker_of(name, settings)
