import pytest

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.errors import ExportError
from slimsweep.export.base import Format
from slimsweep.export.formats import expressing, format_of, formats, missing_packages, refuse
from slimsweep.export.hf import HuggingFace
from slimsweep.export.onnx import Onnx
from slimsweep.techniques.quantization.nf4 import NF4


def test_every_format_is_found_by_the_stem_of_its_file():
    assert {"hf", "onnx", "compressed-tensors"} <= set(formats())
    for word, kind in formats().items():
        assert kind().name == word and kind.summary


def test_options_are_the_fields_of_a_format():
    assert format_of("onnx", ["int8=true"]) == Onnx(int8=True)
    with pytest.raises(ExportError, match="'int8' is no option.*'x=1' is no option of onnx"):
        format_of("onnx", ["int8", "x=1"])


def test_a_package_that_is_not_installed_is_named_with_the_command():
    class Absent(HuggingFace):
        packages = ("json", "not_installed_here")

    (fault,) = missing_packages(Absent())
    assert "needs not_installed_here" in fault and "slimsweep[export]" in fault


def test_a_refusal_lists_the_formats_that_work(tiny):
    NF4().apply(tiny, StageContext())
    assert "hf" in expressing(tiny) and "onnx" not in expressing(tiny)
    with pytest.raises(ExportError, match="as onnx: 14 layers are packed .* Formats that can: .*hf"):
        refuse(Onnx(), tiny)


def test_a_format_without_its_methods_cannot_be_made():
    with pytest.raises(TypeError):
        Format()
