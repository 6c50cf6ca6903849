"""Numbers that moved, on records written by hand."""

import json
import re

import pytest

from slimsweep.errors import StoreError
from slimsweep.evaluation.quantity import Quantity
from slimsweep.records import moves

DECLARED = (
    Quantity(field="perplexity_made", label="perplexity", tolerance=1e-3, group="quality"),
    Quantity(field="weight_bytes", label="size", group="cost"),
    Quantity(field="peak_memory_bytes", label="memory", varies=True),
)


def record(key: str = "a1", zeros: int = 50, **fields) -> dict:
    """A pruned model with one quality, one size and one quantity that varies."""
    values = {"perplexity_made": 20.0, "weight_bytes": 800, "peak_memory_bytes": 1}
    place = {"key": key, "model": "m", "technique": "wanda", "pattern": None, "ratio": 0.5, "seed": 0}
    stage = {"name": "wanda", "fields": {}, "weights": 100, "zeros": zeros, "seconds": 3.0}
    own = {"quantities": {one.field: one.plain() for one in DECLARED}, "stages": [stage]}
    return place | own | values | {"protocols": {"perplexity_made": "p"}} | fields


def moved(before: list, now: list, **tolerances) -> list[tuple]:
    comparison = moves.compare(before, now, tolerances)
    return [(move.field, move.before, move.now, move.is_fault) for move in comparison.moves]


def test_equal_records_have_no_moves_and_what_varies_is_not_compared():
    found = moves.compare([record()], [record(peak_memory_bytes=2, compress_seconds=9.0)], {})
    assert (found.moves, found.records, found.numbers) == ([], 1, 4)
    assert found.summary == "4 numbers of 1 records compared: 0 moved, none beyond what is allowed"


def test_a_quality_may_move_within_its_tolerance_and_a_count_may_not():
    now = record(perplexity_made=20.01, weight_bytes=801, zeros=51)
    assert moved([record()], [now]) == [
        ("perplexity_made", 20.0, 20.01, False),
        ("weight_bytes", 800, 801, True),
        ("stages.0.zeros", 50, 51, True),
    ]


def test_a_given_tolerance_wins_and_the_longest_pattern_wins_among_them():
    now = record(perplexity_made=20.01, weight_bytes=801)
    faults = {name: is_fault for name, _, _, is_fault in moved([record()], [now], **{"*": 0.01, "perplexity_*": 1e-5})}
    assert faults == {"perplexity_made": True, "weight_bytes": False}


def test_what_is_missing_now_is_a_fault_and_what_is_new_is_told():
    gone, new = record("b2", ratio=0.3), record("c3", ratio=0.7)
    found = moves.compare([record(), gone], [record(weight_bytes=None), new], {})
    assert [(one.record["key"], one.field, one.reason, one.is_fault) for one in found.moves] == [
        ("a1", "weight_bytes", "this number is missing now", True),
        ("b2", "", "this record is missing now", True),
        ("c3", "", "this record is new", False),
    ]


def test_another_protocol_is_a_fault_even_where_the_number_is_equal():
    (one,) = moves.compare([record()], [record(protocols={"perplexity_made": "q"})], {}).moves
    assert one.is_fault and one.reason == "another protocol: p before, q now"


def test_numbers_of_two_protocols_have_no_change_and_are_counted_apart():
    now = record(protocols={"perplexity_made": "q"}, perplexity_made=30.0, weight_bytes=801)
    comparison = moves.compare([record()], [now], {})
    assert [(move.field, move.change) for move in comparison.moves] == [
        ("perplexity_made", None),
        ("weight_bytes", 1 / 800),
    ]
    assert comparison.summary == (
        "4 numbers of 1 records compared: 1 moved, 1 of another protocol, 2 beyond what is allowed"
    )


def test_a_change_has_a_sign():
    comparison = moves.compare([record(weight_bytes=22)], [record(weight_bytes=11)], {})
    assert comparison.moves[0].change == -0.5
    rows = moves.table_of(comparison, ("old", "new")).rows
    assert "-50 %" in rows[0]
    assert moved([record(weight_bytes=22)], [record(weight_bytes=11)], weight_bytes=0.4)[0][-1] is True


def at_bits(key: str, bits: int, **fields) -> dict:
    """A quantized model, one knob of which is given."""
    return record(key, stages=[{"name": "rtn", "fields": {"bits": bits}}], **fields)


def test_two_experiments_at_one_point_are_named_and_their_numbers_are_not_compared():
    pairs = [
        (at_bits("a", 4), at_bits("b", 2, weight_bytes=400), "other settings: rtn.bits 4 before, 2 now"),
        (
            record("a", dtype="float32"),
            record("b", dtype="bfloat16"),
            "other settings: dtype float32 before, bfloat16 now",
        ),
    ]
    for before, now, reason in pairs:
        comparison = moves.compare([before], [now], {})
        assert [(move.field, move.reason, move.change, move.is_fault) for move in comparison.moves] == [
            ("", reason, None, True)
        ]
        assert comparison.numbers == 0


def test_a_knob_that_a_version_added_is_named_and_the_numbers_are_compared():
    now = record("z", stages=[{"name": "rtn", "fields": {"bits": 4, "clip": None, "order": "up"}}], weight_bytes=801)
    comparison = moves.compare([at_bits("a", 4)], [now], {})
    assert [(move.field, move.reason, move.is_fault) for move in comparison.moves] == [
        ("", "other settings: rtn.order absent before, up now", False),
        ("weight_bytes", "", True),
    ]


def test_texts_that_a_job_looked_at_are_kept_in_a_file(tmp_path):
    def calibrated(key: str, sequences: int) -> dict:
        return record(key, config={"calibration": {"sequences": sequences}, "outputs_dir": "x"})

    moves.write(tmp_path / "numbers.json", [calibrated("a", 4)])
    kept = moves.read(tmp_path / "numbers.json")
    assert kept[0]["config"] == {"calibration": {"sequences": 4}}
    assert moves.compare(kept, [calibrated("b", 4)], {}).moves == []
    (move,) = moves.compare(kept, [calibrated("b", 16)], {}).moves
    assert move.reason == "other settings: calibration.sequences 4 before, 16 now"
    del kept[0]["config"]  # a file of an older version
    assert moves.compare(kept, [calibrated("b", 4)], {}).moves == []


def test_moves_stand_in_the_order_of_the_records():
    keys = [f"k{number}" for number in range(40)]
    comparison = moves.compare([record(key) for key in keys], [record(key, weight_bytes=1) for key in keys], {})
    assert [move.record["key"] for move in comparison.moves] == keys


def test_a_tolerance_for_a_field_that_no_record_has_is_refused():
    with pytest.raises(
        StoreError, match=r"--tolerance perplexity_mad: .*Did you mean: perplexity_made\?.*weight_bytes"
    ):
        moves.compare([record()], [record()], {"weight_*": 0.1, "perplexity_mad": 1})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stages": [1]}, "record 1: stages.0 is no stage"),
        ({"stages": {"name": "rtn"}}, "stages is no list"),
        ({"stages": [{"name": "rtn", "fields": 3}]}, "stages.0 is no stage"),
        ({"stages": [{"name": "rtn", "zeros": "50"}]}, "stages.0.zeros is '50', no finite number"),
        ({"weight_bytes": "800"}, "weight_bytes is '800', no finite number"),
        ({"weight_bytes": float("nan")}, "weight_bytes is nan, no finite number"),
        ({"protocols": ["p"]}, "protocols is no mapping"),
        ({"key": 3}, "key is no text"),
    ],
)
def test_a_damaged_file_is_refused_and_its_fault_is_named(tmp_path, fields, words):
    (tmp_path / "numbers.json").write_text(json.dumps([record(**fields)]))
    with pytest.raises(StoreError, match=re.escape(words)):
        moves.read(tmp_path / "numbers.json")


def test_a_new_key_at_the_same_point_is_the_same_experiment():
    assert moved([record("a1")], [record("z9")]) == []


def test_records_of_one_point_are_paired_by_their_settings():
    def at(key, bits, size):
        return record(key, weight_bytes=size, stages=[{"name": "rtn", "fields": {"bits": bits}}])

    now = [at("y", 4, 400), at("x", 3, 301)]
    assert moved([at("a", 3, 300), at("b", 4, 400)], now) == [("weight_bytes", 300, 301, True)]


def test_a_number_that_was_zero_has_moved_without_bound():
    assert moved([record(zeros=0)], [record(zeros=1)], **{"*": 0.5}) == [("stages.0.zeros", 0, 1, True)]
    (move,) = moves.compare([record(zeros=0)], [record(zeros=1)], {}).moves
    assert move.plain()["change"] is None and move.is_fault  # strict JSON has no infinity


def test_a_kept_file_compares_like_the_records_and_is_not_overwritten(tmp_path):
    file = tmp_path / "numbers.json"
    moves.write(file, [record()])
    (kept,) = moves.read(file)
    assert "peak_memory_bytes" not in kept and "quantities" not in kept
    assert moves.compare([kept], [record()], {}).moves == []
    with pytest.raises(StoreError, match="nothing is overwritten"):
        moves.write(file, [record()])


def test_another_file_is_refused(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('[{"key": "a"}]')
    for name, words in (("broken", "cannot be read as JSON"), ("other", "no list of records")):
        with pytest.raises(StoreError, match=words):
            moves.read(tmp_path / f"{name}.json")


@pytest.mark.parametrize("text", ["much", "perplexity_*=-1", "inf"])
def test_a_tolerance_that_is_no_number_is_refused(text):
    with pytest.raises(StoreError, match="relative difference of at least 0"):
        moves.tolerances_of([text])


def test_the_table_names_faults_first():
    now = record(perplexity_made=20.01, weight_bytes=801)
    table = moves.table_of(moves.compare([record()], [now], {}), ("old", "new"))
    assert [row[1] for row in table.rows] == ["weight_bytes", "perplexity_made"]
    assert table.notes[-1] == "4 numbers of 1 records compared: 2 moved, 1 beyond what is allowed"
