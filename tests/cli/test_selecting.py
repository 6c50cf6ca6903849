from made_up import record, sweep

from slimsweep.cli.selecting import records_of
from slimsweep.records.store import Store


def test_records_of_several_sweeps_are_named_once(tmp_path):
    store = Store(tmp_path)
    first, second = record(), record("wanda", 0.5)
    sweep(store, "a", [first])
    sweep(store, "b", [first, second])
    assert records_of(store, ["a", "b"]) == [first, second]
    assert {one["key"] for one in records_of(store, None)} == {first["key"], second["key"]}
