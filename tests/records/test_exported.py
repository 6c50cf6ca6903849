from made_up import record

from slimsweep.records.exported import ORIGIN, export_of, exports_store, holder_of, origin_key, with_exports
from slimsweep.records.store import Store


def files_of(made, **values):
    return record(
        "gguf", fields={"type": "Q4_0"}, **{ORIGIN: made["key"], "export": {"format": "gguf", "words": []}}, **values
    )


def test_files_lie_below_their_record_and_in_no_list_of_records(tmp_path):
    store, made, other = Store(tmp_path), record("wanda", 0.5), record("magnitude", 0.5)
    files = files_of(made)
    for one in (made, other):
        store.write(one, [])
    exports_store(store, made["key"]).write(files, [])
    assert [one["key"] for one in with_exports(store, [made, other])] == [made["key"], files["key"], other["key"]]
    assert {one["key"] for one in store.records()} == {made["key"], other["key"]}
    assert origin_key(files) == origin_key(made) == made["key"]
    assert export_of(files)["format"] == "gguf" and export_of(made) == {}


def test_measurements_of_files_are_read_where_they_lie(tmp_path):
    store, made = Store(tmp_path), record("wanda", 0.5)
    files = files_of(made)
    own = exports_store(store, made["key"])
    own.keep(files["key"], {"identity": "a" * 64, "values": {}})
    assert holder_of(store, made) is store
    assert list(holder_of(store, files).measured(files["key"])) == ["a" * 64]
