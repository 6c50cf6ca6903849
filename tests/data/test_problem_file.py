import json
from pathlib import Path

import pytest

from slimsweep.data.corpora import Corpora
from slimsweep.data.problem_file import ProblemFile
from slimsweep.data.problems import Problem
from slimsweep.errors import CorpusError

ROW = {"question": "Half of 48?", "answer": "It is 48/2 = <<48/2=24>>24.\n#### 24"}

NO_CORPORA = Corpora(None, Path("unused"))


def file_of(folder, *rows):
    path = folder / "problems.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_gsm8k_rows_are_read(tmp_path):
    path = file_of(tmp_path, ROW, ROW | {"answer": "#### 1,000"})
    assert ProblemFile(path=path, tokens=512).problems() == [
        Problem("Q: Half of 48?\n", "It is 48/2 = 24.", "24"),
        Problem("Q: Half of 48?\n", "", "1000"),
    ]


def test_a_row_without_a_marked_number_is_named(tmp_path, tiny_source):
    path = file_of(tmp_path, ROW, ROW | {"answer": "It is 24."})
    with pytest.raises(CorpusError, match="row 2 is no problem"):
        ProblemFile(path=path, tokens=512).problems()
    (fault,) = ProblemFile(path=path, tokens=512).faults(tiny_source, NO_CORPORA)
    assert "row 2 is no problem" in fault


def test_long_problems_are_left_out(tmp_path, tiny_source):
    long = ROW | {"question": "Half of 48? " * 9}
    data = ProblemFile(path=file_of(tmp_path, ROW, long, ROW), tokens=64)
    assert len(data.problems(tiny_source.tokenizer())) == 2 and len(data.problems()) == 3
    assert data.faults(tiny_source, NO_CORPORA) == []
    (fault,) = ProblemFile(path=data.path, tokens=8).faults(tiny_source, NO_CORPORA)
    assert "set a larger data.tokens" in fault


def test_a_path_is_needed(tiny_source):
    (fault,) = ProblemFile(path=None, tokens=64).faults(tiny_source, NO_CORPORA)
    assert "add data.path=FILE" in fault
