"""`slim export --to gguf` and `--to ollama`, as docs/gguf.md shows them."""

import json

import pytest
from small_jobs import SMALL, record_at
from typer.testing import CliRunner

from slimsweep.cli.slim import app


def test_a_record_becomes_a_gguf_file_that_llama_cpp_has_run_in_a_new_process(slimsweep, tmp_path):
    pytest.importorskip("xllamacpp")
    record = record_at(slimsweep(*SMALL, "technique=wanda", "ratio=0.3", "save_model=true"))
    outputs = ("--outputs", str(tmp_path / "outputs"))
    for words in (("--to", "gguf"), ("--to", "ollama", "type=Q8_0")):
        folder = tmp_path / words[1]
        answer = CliRunner().invoke(app, ["export", record["key"][:8], *words, "--output", str(folder), *outputs])
        assert answer.exit_code == 0, answer.output
        assert "llama.cpp makes the same" in answer.stdout and "logits by llama.cpp differ" in answer.stdout
        assert answer.stdout.strip().splitlines()[-1] == str(folder)
        (folder / "record.json").unlink()  # the file alone tells which run made it
        shown = CliRunner().invoke(app, ["show", str(folder / "model.gguf"), *outputs])
        assert json.loads(shown.stdout)["key"] == record["key"]
    assert (tmp_path / "ollama" / "Modelfile").read_text().startswith("FROM ./model.gguf\n")
