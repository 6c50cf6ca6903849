import pytest
from conftest import CACHE

from slimsweep.export.matrix import Cell, family_names, formats_of, markdown, matrix
from slimsweep.models.families import families
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.nf4 import NF4
from slimsweep.techniques.quantization.rtn import RTN
from slimsweep.techniques.structured.glu import Glu


@pytest.fixture(scope="module")
def cells():
    chains = {"glu": [Glu(ratio=0.5, blocks=(1, 1))], "rtn": [RTN()], "nf4": [NF4()]}
    sparse = Magnitude(ratio=0.5, pattern="2:4")
    return matrix(chains | {"magnitude 2:4": [sparse], "magnitude": [Magnitude(ratio=0.3)]}, str(CACHE))


def test_every_family_has_a_small_model_and_a_cell(cells):
    assert {cell.family for cell in cells} == set(family_names())
    assert {id(families()[name]) for name in family_names()} == {id(one) for one in families().values()}
    assert len(cells) == 6 * len(family_names())  # dense and five chains


def test_cells_follow_what_formats_say(cells):
    assert "compressed-tensors" in formats_of(cells, "rtn", "llama")
    assert "compressed-tensors" not in formats_of(cells, "rtn", "gpt2")  # Conv1D
    assert "compressed-tensors" not in formats_of(cells, "nf4", "llama")
    assert "compressed-tensors" in formats_of(cells, "magnitude 2:4", "gpt2")
    assert "compressed-tensors" not in formats_of(cells, "magnitude", "llama")
    assert {"hf", "onnx"} <= set(formats_of(cells, "glu", "llama"))
    assert "onnx" not in formats_of(cells, "rtn", "bert")
    assert all("hf" in formats_of(cells, "dense", name) for name in family_names())


def test_the_table_names_families_in_few_words():
    cells = [
        Cell("wanda", "a", {"hf": [], "onnx": []}),
        Cell("wanda", "b", {"hf": [], "onnx": ["no"]}),
        Cell("wanda", "c", {"hf": [], "onnx": []}),
        Cell("nf4", "a", {"hf": [], "onnx": ["no"]}),
        Cell("nf4", "b", {}, refused="too small"),
    ]
    lines = markdown(cells).splitlines()
    hf, onnx = (lines[2].strip("| ").split(" | ").index(f"`{word}`") for word in ("hf", "onnx"))
    rows = {line.split("`")[1]: line.strip("| ").split(" | ") for line in lines[4:]}
    assert (rows["wanda"][hf], rows["wanda"][onnx]) == ("all", "all but b")
    assert (rows["nf4"][1], rows["nf4"][hf], rows["nf4"][onnx]) == ("a", "all", "none")
