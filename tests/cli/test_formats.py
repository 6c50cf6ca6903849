import json
from pathlib import Path

from slimsweep.cli.formats import Shown, echo_json


def test_json_on_standard_output_has_paths_as_text(capsys):
    echo_json({"path": Path("/a/b"), "count": 2})
    assert json.loads(capsys.readouterr().out) == {"path": "/a/b", "count": 2}
    assert [one.value for one in Shown] == ["text", "json"]
