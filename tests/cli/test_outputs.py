import ast

from conftest import PROJECT

from slimsweep.cli.outputs import outputs_folder, store_of


def test_a_folder_that_is_given_is_taken_else_that_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMSWEEP_OUTPUTS", str(tmp_path / "default"))
    assert outputs_folder(None) == tmp_path / "default"
    assert store_of(tmp_path / "given").outputs_dir == tmp_path / "given"


def test_every_command_with_an_output_folder_has_the_one_option():
    folder = PROJECT / "src" / "slimsweep" / "cli"
    found = {
        f"{file.stem}.{function.name}": ast.unparse(argument.annotation)
        for file in folder.glob("*.py")
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef) and function.args.defaults
        for argument in function.args.args
        if argument.arg == "outputs" and argument.annotation
    }
    assert set(found.values()) == {"Outputs"} and len(found) > 10, found
