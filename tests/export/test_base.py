import dataclasses

import pytest

from slimsweep.export.base import Format
from slimsweep.export.compressed_tensors import CompressedTensors


def test_the_word_of_a_format_is_the_stem_of_its_file():
    assert CompressedTensors().name == "compressed-tensors"


def test_a_format_must_say_what_it_cannot_express_write_verify_and_read_back():
    assert Format.__abstractmethods__ == {"faults", "write", "verify", "read", "weight_bytes"}
    with pytest.raises(TypeError, match="abstract"):
        Format()


def test_options_are_the_fields_of_a_format_and_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CompressedTensors().name_of_nothing = 1
