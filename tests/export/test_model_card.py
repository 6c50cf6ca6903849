import json

import yaml
from made_up import record

from slimsweep.export.model_card import licence_of, model_card


def card(**fields):
    made = record("wanda", 0.5) | {"config": {"model": {}}} | fields
    made.setdefault("stages", [])
    return model_card(made, 'model = load("FOLDER")')


def test_the_card_tells_steps_sizes_scores_with_protocols_and_loading():
    stages = [{"technique": "wanda", "fields": {"ratio": 0.5, "passes": 1}, "sparsity": 0.5}]
    text = card(stages=stages, weight_bytes=1_234_567, protocols={"perplexity_wikitext2": "wikitext2:test"})
    assert "1. `wanda` with ratio=0.5, passes=1. Exact zeros in its layers: 50.0%." in text
    assert "| weight bytes | 1,234,567 |" in text and "| sparsity | 0.5 |" in text
    assert "| `wikitext2:test` |" in text
    assert 'model = load("FOLDER")' in text


def test_the_head_is_yaml_and_names_the_base_on_the_hub():
    text = card(config={"model": {"id": "ORG/NAME", "revision": "abc"}})
    head = yaml.safe_load(text.split("---")[1])
    assert head["base_model"] == "ORG/NAME" and "wanda" in head["tags"] and "license" not in head
    assert "`ORG/NAME` at revision `abc`" in text and "look it up" in text


def test_the_licence_is_that_of_the_card_beside_the_weights(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# base\n")
    assert licence_of({"path": str(tmp_path)}) == "mit"
    assert "license: mit" in card(config={"model": {"path": str(tmp_path)}})
    (tmp_path / "README.md").write_text("# base\n")
    assert licence_of({"path": str(tmp_path)}) is None


def test_the_licence_of_a_package_stands_in_its_metadata():
    assert licence_of({"package": "hydra"}) is None  # no distribution of that name
    assert licence_of({"package": "typer"})


def test_the_card_of_a_dense_model_says_that_nothing_was_done():
    assert "Nothing: this is the dense model." in card(stages=[], technique="dense")
    assert json.dumps(card())  # text alone


def test_a_licence_of_many_words_is_not_written(tmp_path, monkeypatch):
    text = "Permission is hereby granted, free of charge, to any person"
    monkeypatch.setattr("slimsweep.export.model_card._package_licence", lambda package: text)
    assert licence_of({"package": "typer"}) is None
    (tmp_path / "README.md").write_text("---\nlicense:\n- mit\n---\n")
    assert licence_of({"path": str(tmp_path)}) is None


def test_the_card_names_no_folder_of_this_machine():
    stages = [{"technique": "lora", "fields": {"path": "/home/me/texts.jsonl"}, "sparsity": None}]
    assert "path=texts.jsonl" in card(stages=stages, config={"model": {"path": "/home/me/tiny"}})
