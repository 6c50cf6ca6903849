"""The package as a whole: found figures, files, errors."""

import pytest
from conftest import PROJECT
from made_up import curve, record, sweep

from slimsweep.errors import StoreError
from slimsweep.figures import known, render
from slimsweep.records.store import Store


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    sweep(store, "unstructured", [record(), *curve("wanda")])
    sweep(store, "other", curve("magnitude"))
    return store


def test_every_file_with_a_draw_is_a_figure():
    files = (PROJECT / "src" / "slimsweep" / "figures").glob("*.py")
    assert set(known()[0]) == {file.stem for file in files if "\ndef draw(" in file.read_text()} >= {"ratio_curve"}
    assert all(isinstance(module.SWEEPS, tuple) and module.SWEEPS for module in known()[0].values())


def test_a_figure_is_written_as_pdf_and_png(store):
    paths = render(store, ["ratio_curve"])
    assert [path.name for path in paths] == ["ratio_curve_wikitext2.pdf", "ratio_curve_wikitext2.png"]
    assert paths[0].read_bytes().startswith(b"%PDF") and paths[1].read_bytes().startswith(b"\x89PNG")
    assert paths[0].parent == store.outputs_dir / "figures"
    assert b"CreationDate" not in paths[0].read_bytes()


def test_one_file_of_a_figure_can_be_named(store, tmp_path):
    paths = render(store, ["accuracy_curve_sentiment"], folder=tmp_path / "mine")
    assert [path.name for path in paths] == ["accuracy_curve_sentiment.pdf", "accuracy_curve_sentiment.png"]
    assert paths[0].parent == tmp_path / "mine"


def test_other_sweeps_can_be_read_instead(store):
    first = render(store, ["ratio_curve"])[1].read_bytes()
    assert render(store, ["ratio_curve"], ["other"])[1].read_bytes() != first


def test_a_mistyped_figure_names_the_near_and_all(store):
    with pytest.raises(StoreError, match=r"no figure 'ratio_curv'. Did you mean: ratio_curve.*Figures: accuracy_curve"):
        render(store, ["ratio_curv"])


def test_a_file_the_records_do_not_give_names_those_they_do(store):
    with pytest.raises(StoreError, match="give no 'ratio_curve_ptb', but: ratio_curve_wikitext2"):
        render(store, ["ratio_curve_ptb"])


def test_no_records_names_the_next_command(tmp_path):
    for names in ([], ["ratio_curve"]):
        with pytest.raises(StoreError, match=r"Run: slimsweep \+sweeps=unstructured"):
            render(Store(tmp_path), names)


def test_an_unknown_sweep_names_the_known(store):
    with pytest.raises(StoreError, match="known: other, unstructured"):
        render(store, ["ratio_curve"], ["nope"])
