from made_up import record

from slimsweep.records.tracking.none import NoTracker


def test_no_tracker_leaves_nothing(tmp_path):
    assert NoTracker().publish(record(), [], tmp_path) is False
    assert NoTracker().publish_sweep("s", [], [], tmp_path) is False
    assert "publishes nothing" in NoTracker().off_reason()
    assert list(tmp_path.iterdir()) == []
