from slimsweep.export.llama_cpp import template_lint


def test_without_ggufdoctor_nothing_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(template_lint.importlib.util, "find_spec", lambda name: None)
    assert template_lint.lint(tmp_path / "no.gguf") == []


def test_a_file_that_it_cannot_read_is_a_warning(tmp_path):
    (tmp_path / "no.gguf").write_bytes(b"no gguf")
    (line,) = template_lint.lint(tmp_path / "no.gguf")
    assert line.startswith("warning: ")
