import ast
import inspect
from pathlib import Path

from conftest import PROJECT

from slimsweep.cli.outputs import ConfigDir, outputs_folder, own_folders, store_of
from slimsweep.cli.slim import app
from slimsweep.paths import NO_FOLDERS


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


def test_every_command_that_takes_a_folder_of_configs_has_the_one_option():
    commands = {command.callback.__name__: inspect.signature(command.callback) for command in app.registered_commands}
    found = {
        name: signature.parameters["config_dir"].annotation
        for name, signature in commands.items()
        if "config_dir" in signature.parameters
    }
    assert set(found) == {"amend", "save", "export", "migrate", "demo", "chat"}
    assert all(annotation is ConfigDir for annotation in found.values())


def test_a_relative_data_folder_counts_from_the_project_and_one_of_configs_from_here():
    folders = own_folders(Path("texts"), Path("configs"))
    assert folders.data_dir == PROJECT / "texts" and folders.config_dir == Path("configs")
    assert own_folders(None, None) == NO_FOLDERS
