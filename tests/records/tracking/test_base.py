from slimsweep.records.tracking.base import Tracker


class Silent(Tracker):
    def publish(self, record, sweeps, outputs_dir):
        return True

    def publish_sweep(self, sweep, records, figures, outputs_dir):
        return True


def test_a_tracker_is_on_unless_it_says_otherwise():
    assert Silent().off_reason() is None
