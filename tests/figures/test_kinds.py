import pytest
from made_up import chain, record, reduced

from slimsweep.figures.kinds import is_pruned, is_quantized, is_structured


@pytest.mark.parametrize(
    ("technique", "pruned", "structured", "quantized"),
    [
        ("dense", False, False, False),
        ("nf4", False, False, True),
        ("wanda", True, False, False),
        ("wanda+nf4", True, False, True),
        ("nf4+wanda", True, False, True),
        ("llm_pruner", True, True, False),
        ("llm_pruner+nf4", True, True, True),
    ],
)
def test_notes_and_ratio_tell_what_a_chain_did(technique, pruned, structured, quantized):
    made = chain(technique, 0.5)
    assert (is_pruned(made), is_structured(made), is_quantized(made)) == (pruned, structured, quantized)


def test_a_stage_is_structured_when_parameters_are_gone():
    assert is_structured(reduced(0.5)) and not is_structured(record("wanda", 0.5)) and not is_structured(record())


def test_stages_without_notes_or_ratio_did_neither():
    made = record() | {"stages": [{"name": "lora", "fields": {"rank": 8}, "notes": None}]}
    assert not (is_pruned(made) or is_structured(made) or is_quantized(made))
