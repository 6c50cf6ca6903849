from made_up import record, reduced

from slimsweep.reports import selection


def test_a_filter_reads_fields_and_settings():
    records = [record(), reduced(0.25), reduced(0.25, "channel"), reduced(0.5)]
    where = {"technique": "llm_pruner", "ratio": 0.25, "llm_pruner.level": "block"}
    assert selection.matching(records, where) == [records[1]]
    assert selection.matching(records, {"ratio": [0.25, 0.5], "technique": "llm*"}) == records[1:]
    assert selection.matching(records, {"ratio": None}) == [records[0]]


def test_a_star_in_a_name_stands_for_any_stage():
    records = [record("rtn", fields={"bits": 4}), record("gptq", fields={"bits": 4}), record("rtn", fields={"bits": 3})]
    assert selection.matching(records, {"*.bits": 4}) == records[:2]


def test_a_ratio_of_another_spelling_is_the_same():
    assert selection.matching([record("wanda", 0.1 + 0.2)], {"ratio": 0.3})


def test_a_protocol_has_all_the_parts_asked_for():
    records = [record(), record(protocol="wikitext2:test:ctx=2048")]
    assert selection.by_protocol(records, "perplexity_wikitext2", ["ctx=2048", "test"]) == [records[1]]
    assert selection.by_protocol(records, "perplexity_wikitext2", ["ctx=204"]) == []
    assert selection.by_protocol(records, "perplexity_wikitext2", []) == records
    assert selection.by_protocol(records, "perplexity_c4", []) == []


def test_random_weights_mean_something_once_they_are_trained():
    drawn, trained = record(), record("finetune")
    trained["stages"][0]["notes"] = {"training": {"steps": 10}}
    published = record(weights="trained")
    assert selection.meaningful([drawn, trained, published]) == [trained, published]


def test_a_filter_in_words_names_the_technique_first():
    where = {"model": "llama", "ratio": 0.5, "technique": "wanda", "wanda.pattern": ["2:4", "4:8"]}
    assert selection.text(where) == "wanda, ratio 0.5, pattern 2:4 or 4:8"


def test_a_filter_names_settings_of_the_evaluation_and_of_its_metrics():
    whole = record() | {
        "config": {"evaluation": {"max_windows": None, "metrics": {"perplexity": {"max_windows": None}}}}
    }
    part = record() | {"config": {"evaluation": {"max_windows": None, "metrics": {"perplexity": {"max_windows": 8}}}}}
    assert selection.matching([whole, part], {"evaluation.max_windows": None}) == [whole]
    assert selection.matching([whole, part], {"evaluation.max_windows": 8}) == [part]
    assert selection.text({"technique": "rtn", "rtn.group_size": None}) == "rtn, group size null"
    assert selection.text({"technique": ["int8", "rtn"]}) == "int8 or rtn"
