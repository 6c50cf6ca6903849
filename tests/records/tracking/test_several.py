from dataclasses import dataclass, field
from typing import Any

from made_up import record

from slimsweep.pipeline.compose import tracker_from
from slimsweep.records.tracking.base import Tracker
from slimsweep.records.tracking.none import NoTracker
from slimsweep.records.tracking.several import Several
from slimsweep.records.tracking.wandb import Wandb


@dataclass(frozen=True, kw_only=True)
class Noted(Tracker):
    sent: Any = field(default_factory=list)
    is_well: bool = True

    def publish(self, record, sweeps, outputs_dir):
        self.sent.append(record["key"])
        return self.is_well

    def publish_sweep(self, sweep, records, figures, outputs_dir):
        self.sent.append(sweep)
        return self.is_well

    def publish_failure(self, key, label, reason, outputs_dir):
        self.sent.append(reason)
        return self.is_well


@dataclass(frozen=True, kw_only=True)
class Absent(Noted):
    needs = {"a_package_that_is_nowhere": "slimsweep[nowhere]"}  # noqa: RUF012 - as a subclass writes it


def test_each_tracker_is_sent_everything_also_behind_one_that_failed(tmp_path):
    bad, good = Noted(is_well=False), Noted()
    both = Several(trackers=(bad, good, NoTracker()))
    one = record()
    assert both.publish(one, [], tmp_path) is False and both.publish_sweep("s", [one], [], tmp_path) is False
    assert both.publish_failure("k", "l", "why", tmp_path) is False
    assert bad.sent == good.sent == [one["key"], "s", "why"]
    assert both.off_reason() is None
    assert "publishes nothing" in Several(trackers=(NoTracker(),)).off_reason()


def test_a_tracker_that_is_not_installed_is_a_fault_with_the_command():
    (fault,) = Several(trackers=(Noted(), Absent())).faults()
    assert "a_package_that_is_nowhere" in fault and "pip install 'slimsweep[nowhere]'" in fault


def test_settings_below_names_become_one_tracker_or_several():
    wandb = {"_target_": "slimsweep.records.tracking.wandb.Wandb", "project": "mine"}
    none = {"_target_": "slimsweep.records.tracking.none.NoTracker"}
    assert tracker_from({"wandb": wandb}, []) == Wandb(project="mine") == tracker_from(wandb, [])
    assert tracker_from({"wandb": wandb, "none": none}, []) == Several(trackers=(Wandb(project="mine"), NoTracker()))
    faults: list[str] = []
    assert tracker_from({"wandb": wandb | {"projet": "x"}}, faults) is None and "tracker.wandb.projet" in faults[0]
    assert tracker_from({}, faults := []) is None and faults
