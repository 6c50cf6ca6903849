import pytest

from slimsweep.techniques.layerwise import LayerWalk
from slimsweep.techniques.pruning.magnitude import Magnitude


def test_globs_may_come_as_lists_or_alone():
    technique = Magnitude(ratio=0.5, include=["*.mlp.*"], exclude="*up*")
    assert (technique.include, technique.exclude) == (("*.mlp.*",), ("*up*",))


def test_globs_that_match_nothing_are_faults(tiny_source):
    faults = Magnitude(ratio=0.5, include=("*.mpl.*",), exclude=("lm_head",)).faults(tiny_source.skeleton())
    assert [fault.split(" matches none")[0] for fault in faults] == ["include='*.mpl.*'", "exclude='lm_head'"]


def test_leaving_out_everything_is_a_fault(tiny_source):
    (fault,) = Magnitude(ratio=0.5, exclude=("*",)).faults(tiny_source.skeleton())
    assert "leave no layer" in fault


def test_a_technique_must_say_how_it_compresses():
    with pytest.raises(TypeError, match="compress_layer"):
        LayerWalk()
