"""Every notebook runs from its first cell to its last, on a small model."""

import pytest
from conftest import PROJECT
from family_shapes import DECODERS

from slimsweep.models.sources.random import RandomModel

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def small_model(tmp_path) -> str:
    """Folder of a random Llama with positions for 512 tokens, and its tokenizer."""
    import torch

    shape = DECODERS["llama"] | {"max_position_embeddings": 512}
    source = RandomModel(name="small", shape=shape, cache_dir=str(tmp_path))
    source.load(torch.float32, torch.device("cpu")).module.save_pretrained(tmp_path / "small")
    source.tokenizer().save_pretrained(tmp_path / "small")
    return str(tmp_path / "small")


def test_there_are_notebooks_and_none_has_stored_outputs():
    import nbformat

    assert [path.stem for path in NOTEBOOKS] == ["compare_sweeps", "compress_and_chat"]
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_its_end(path, tmp_path, monkeypatch, small_model):
    nbclient = pytest.importorskip("nbclient", reason="needs the package nbclient, which the extra `dev` installs")
    import nbformat

    monkeypatch.setenv("SLIMSWEEP_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("NOTEBOOK_MODEL", small_model)
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=3000, kernel_name="python3").execute(cwd=str(tmp_path))
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    assert last.outputs, "the last cell shows its result"
