import pytest
from made_up import PROTOCOL, curve, record

from slimsweep.evaluation.quantity import Quantity, as_plain
from slimsweep.figures.series import (
    by_device,
    curves,
    dense,
    is_speedup,
    linear_quality,
    lines,
    log_quality,
    panels,
    protocol_label,
    without,
)

LONG = PROTOCOL.replace("ctx=512", "ctx=2048")


def test_one_model_and_protocol_share_one_panel_without_suffix():
    (panel,) = panels([record(), *curve("wanda")], log_quality)
    assert panel.name == "wikitext2" and panel.suffix == "" and len(panel.records) == 4
    assert panel.title == "tiny, made up, random weights\nwikitext2 test, 16 windows of 512 tokens"


def test_different_protocols_never_share_a_panel_and_say_so():
    found = panels([record(), record(protocol=LONG)], log_quality)
    assert sorted(panel.suffix for panel in found) == ["_ctx-2048", "_ctx-512"]
    assert all(len(panel.records) == 1 for panel in found)
    assert any("2048 tokens" in panel.title for panel in found)


def test_protocols_that_differ_in_a_digest_only_are_told_apart_too():
    other = PROTOCOL.replace("33334444", "55556666")
    found = panels([record(), record(protocol=other)], log_quality)
    assert sorted(panel.suffix for panel in found) == ["_sha-33334444", "_sha-55556666"]
    assert any("(sha=55556666)" in panel.title for panel in found)


def test_different_models_never_share_a_panel():
    found = panels([record(), record(model="org/other")], log_quality)
    assert len(found) == 2 and len({panel.suffix for panel in found}) == 2
    assert all("/" not in panel.suffix for panel in found)


def test_another_tokenizer_of_another_model_is_no_second_protocol():
    other = record(model="other", protocol=PROTOCOL.replace("11112222", "77778888"))
    suffixes = [panel.suffix for panel in panels([record(), other], log_quality)]
    assert not any("tok" in suffix for suffix in suffixes)


def test_seeds_become_one_point_with_their_deviation():
    records = [record("wanda", 0.5, seed, perplexity_wikitext2=value) for seed, value in ((0, 10.0), (1, 14.0))]
    (line,) = lines(records, "ratio", "perplexity_wikitext2")
    (point,) = line.points
    assert (point.x, point.y, point.count) == (0.5, 12.0, 2) and abs(point.deviation - 8**0.5) < 1e-12


def test_variants_of_a_technique_are_lines_of_their_own_named_by_what_differs():
    records = [*curve("wanda", fields={"inputs": "dense"}), *curve("wanda", fields={"inputs": "compressed"})]
    found = lines(records, "ratio", "perplexity_wikitext2")
    assert [line.label for line in found] == ["wanda, inputs compressed", "wanda, inputs dense"]
    assert all(len(line.points) == 3 for line in found)


def test_a_pattern_is_part_of_the_label():
    found = lines([record("wanda", 0.5, pattern="2:4"), record("wanda", 0.5)], "ratio", "perplexity_wikitext2")
    assert [line.label for line in found] == ["wanda", "wanda 2:4"]


def test_an_overflow_is_kept_as_a_place_without_value():
    (line,) = lines(
        [record("wanda", 0.5), record("wanda", 0.9, perplexity_wikitext2=None)], "ratio", "perplexity_wikitext2"
    )
    assert [point.x for point in line.points] == [0.5] and line.unmeasured == (0.9,)


def test_the_dense_model_is_a_level_and_no_line():
    records = [record(), *curve("wanda")]
    assert [line.label for line in lines(records, "ratio", "perplexity_wikitext2")] == ["wanda"]
    assert {label: one["perplexity_wikitext2"] for label, one in dense(records, "perplexity_wikitext2").items()} == {
        "dense": 10.0
    }


def test_without_a_point_there_is_nothing_to_draw():
    assert curves([record()], log_quality) == [] and curves([], linear_quality) == []


def test_protocol_ids_become_words():
    assert protocol_label("sentiment:v1:limit=200:sha=aabbccdd") == "sentiment v1, limit 200"


def test_two_ratios_of_one_size_are_two_points_and_never_averaged():
    records = [
        record(technique="wanda", ratio=ratio, perplexity_x=value, weight_bytes=8)
        for ratio, value in ((0.1, 10.0), (0.9, 1000.0))
    ]
    (line,) = lines(records, "weight_bytes", "perplexity_x")
    assert [(point.x, point.y, point.count) for point in line.points] == [(8, 10.0, 1), (8, 1000.0, 1)]


def test_a_slice_in_a_protocol_is_one_part_and_left_to_the_footnote():
    assert protocol_label("reviews:even hashes[:400]:ctx=512:windows=8") == "reviews, 8 windows of 512 tokens"


def test_a_knob_that_is_left_out_tells_no_variants_apart_and_stays_in_the_record():
    records = [record("rtn", 0.5, fields={"bits": bits, "group_size": 64}) for bits in (3, 4)]
    assert len(lines(records, "ratio", "perplexity_wikitext2")) == 2
    (line,) = lines(without(records, "bits"), "ratio", "perplexity_wikitext2")
    assert line.label == "rtn" and line.points[0].records[0]["stages"][0]["fields"]["group_size"] == 64
    assert records[0]["stages"][0]["fields"]["bits"] == 3


def test_records_are_parted_by_device_and_threads_and_one_place_has_no_name():
    one, two, four = (record(threads=threads) for threads in (2, 2, 4))
    assert by_device([one, two, four]) == {"cpu-2": [one, two], "cpu-4": [four]}
    assert by_device([one, two]) == {"": [one, two]} and by_device([]) == {}


BITS = Quantity(field="bits_a", label="bits", scale="log", group="quality", name="a")
BYTES = Quantity(field="bytes_a", label="bytes", scale="log", group="quality", name="a", place=60)


def test_a_figure_asks_for_quantities_by_scale_or_kind_and_never_by_name():
    one = record("wanda", 0.5, bits_a=3.0, quantities=as_plain([BITS]), identities={"bits_a": "1"})
    assert [panel.field for panel in panels([one], log_quality)] == ["bits_a"]
    assert panels([one], linear_quality) == [] and panels([one], is_speedup) == []
    assert [panel.field for panel in panels([record()], linear_quality)] == ["accuracy_sentiment"]


def test_two_quantities_of_one_corpus_have_files_of_their_own():
    one = record("wanda", 0.5, bits_a=3.0, bytes_a=4.0, quantities=as_plain([BYTES, BITS]), identities={})
    assert {panel.field: panel.stem for panel in panels([one], log_quality)} == {"bits_a": "a", "bytes_a": "bytes_a"}


def test_a_quantity_without_a_protocol_is_shown_where_it_was_measured():
    values = {"quantities": as_plain([BITS]), "identities": {}, "protocols": {}}
    (panel,) = panels([record("wanda", 0.5, bits_a=3.0, **values), record(bits_a=None, **values)], log_quality)
    assert len(panel.records) == 1 and panel.title == "tiny, made up, random weights"


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("movie_reviews:even hashes[:400]:join=\\n:ctx=512:windows=8:token", "movie reviews, 8 windows of 512 tokens"),
        ("wikitext2:test:join=\\n:ctx=2048:windows=16:token", "wikitext2 test, 16 windows of 2048 tokens"),
    ],
)
def test_a_protocol_is_told_in_words(protocol, words):
    assert protocol_label(protocol) == words
