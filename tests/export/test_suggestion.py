from conftest import PROJECT

from slimsweep.export.suggestion import PLAIN, suggested_format

LLAMA = {"shape": {"model_type": "llama"}, "task": "causal_lm"}
WIDTHS = {"heads": 4, "key_value_heads": 2, "neurons": 40}


def suggested(*stages, model=LLAMA):
    made = [{"technique": name, "fields": fields, "notes": notes} for name, fields, notes in stages]
    return suggested_format({"config": {"model": model}, "stages": made})


def removed(*blocks, channels=32):
    before = {"channels": 32, "blocks": [WIDTHS, WIDTHS]}
    return {"removed_parameters": 9, "before": before, "after": {"channels": channels, "blocks": list(blocks)}}


def test_plain_layers_of_a_known_family_become_gguf():
    assert suggested() == suggested(("wanda", {}, {})) == "gguf"
    assert suggested(("wanda", {}, {}), ("lora", {"merge": True}, {})) == "gguf"


def test_stages_that_leave_other_layers_become_hf():
    for name in ("svd", "eora", "tensor_train", "heads", "llm_pruner", "lora_prune", "theirs", "rtn"):
        assert suggested(("wanda", {}, {}), (name, {}, {})) == "hf", name
    assert suggested(("sparsegpt", {"bits": 4}, {"bits_per_weight": 4.1})) == "hf"
    assert suggested(("lora", {"merge": False}, {})) == "hf"


def test_unequal_widths_and_fewer_heads_become_hf():
    narrow = WIDTHS | {"neurons": 20}
    assert suggested(("glu", {}, removed(narrow, narrow))) == "gguf"
    assert suggested(("layers", {}, removed(WIDTHS))) == "gguf"
    assert suggested(("glu", {}, removed(WIDTHS, narrow))) == "hf"
    assert suggested(("qap", {}, removed(*[WIDTHS | {"heads": 2}] * 2))) == "hf"
    assert suggested(("qap", {}, removed(WIDTHS, WIDTHS, channels=16))) == "hf"
    assert suggested(("glu", {}, {"removed_parameters": 9})) == "hf"


def test_other_and_unknown_families_become_hf(tmp_path):
    assert suggested(model={"shape": {"model_type": "gpt2"}}) == "hf"
    assert suggested(model={"name": "mine"}) == "hf"
    assert suggested(model=LLAMA | {"task": "sequence_classification"}) == "hf"
    assert suggested(("layers", {}, removed(WIDTHS)), model={"shape": {"model_type": "gemma3_text"}}) == "hf"
    assert suggested(model={"path": str(tmp_path), "shape": {}}) == "hf"
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    assert suggested(model={"path": str(tmp_path), "shape": {}}) == "gguf"


def test_plain_techniques_are_those_of_the_export_matrix():
    cells = [line.split("|") for line in (PROJECT / "docs" / "export.md").read_text().splitlines()]
    head = next(row for row in cells if len(row) > 2 and row[1].strip() == "chain")
    column = next(place for place, cell in enumerate(head) if cell.strip() == "`gguf`")
    rows = {row[1].strip(" `"): row[column].strip() for row in cells if len(row) == len(head)}
    fitting = {name for name, families in rows.items() if families.startswith("gemma") and name.isidentifier()}
    assert fitting - {"dense"} == PLAIN
