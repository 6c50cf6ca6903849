from exporting import record_of

from slimsweep.export.hf import HuggingFace
from slimsweep.export.model_card import model_card
from slimsweep.export.writing import with_export


def test_a_record_leaves_without_folders_and_with_the_licence_that_lay_there(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    config = {"model": {"path": str(tmp_path)}, "corpora": [{"path": "/home/me/mine.txt"}]}
    made = with_export(record_of(config=config), HuggingFace())
    assert made["config"] == {"model": {"path": tmp_path.name}, "corpora": [{"path": "mine.txt"}]}
    assert made["export"]["format"] == "hf" and made["export"]["licence"] == "mit"
    assert "license: mit" in model_card(made | {"model": "tiny"}, "")
