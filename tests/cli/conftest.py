"""The command `slim` on an output folder of the test's own."""

import pytest
from typer.testing import CliRunner

from slimsweep.cli.slim import app
from slimsweep.records.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "outputs")


@pytest.fixture
def slim(tmp_path):
    """`slim WORDS --outputs FOLDER` in this process; gives typer's result."""
    return lambda *words: CliRunner().invoke(app, [*map(str, words), "--outputs", str(tmp_path / "outputs")])
