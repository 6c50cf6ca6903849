import os

from typer.testing import CliRunner

from slimsweep.cli.caching import stage_lines
from slimsweep.cli.slim import app
from slimsweep.pipeline.keys import StageKey
from slimsweep.pipeline.stage_cache import side_folders
from slimsweep.pipeline.stage_cache.cache import StageCache


def test_kept_stages_are_listed_for_people(tmp_path, tiny):
    cache = StageCache(tmp_path, 10 * 10**9)
    assert cache.open() is None
    assert stage_lines(cache) == [f"0 entries, 0.0 MB of 10.0 GB in {cache.folder}"]
    for name in "ab":
        key = StageKey(name * 64, ({"name": name},), "tiny", f"chain {name}")
        cache.keep(key, tiny, {"stages": [{"seconds": 1.5}]}, 9.0)
        os.utime(cache.folder / key.digest / "used", (0, ord(name)))
    (cache.folder / ("b" * 64) / "entry.json").write_text("{")
    head, damaged, whole, total = stage_lines(cache)
    assert head.split() == ["chain", "model", "size", "computed", "in", "last", "used"]
    assert damaged.startswith(f"damaged: {'b' * 16}") and "0.1 MB" in whole
    assert whole.startswith("chain a") and "tiny" in whole and "1.5 s" in whole
    assert head.index("model") == whole.index("tiny") and total.startswith("2 entries, 0.2 MB of 10.0 GB in")


def test_folders_beside_the_stages_are_listed_and_cleared_too(tmp_path):
    cache = tmp_path / "cache"
    for folder in (side_folders.checkpoint_folder(cache, "a" * 64), side_folders.base_folder(cache, "b" * 64)):
        folder.mkdir(parents=True)
    (cache / "stages").mkdir()
    listed = CliRunner().invoke(app, ["cache", "--outputs", str(tmp_path)])
    assert "checkpoints of unfinished training: 1 kept" in listed.output
    assert "predictions of bases: 1 kept" in listed.output
    cleared = CliRunner().invoke(app, ["cache", "--clear", "--outputs", str(tmp_path)])
    assert "checkpoints of unfinished training: 1 removed" in cleared.output
    assert "predictions of bases: 0 removed, 0.0 MB; 1 may be in use and stay" in cleared.output
    assert not (cache / "unfinished" / ("a" * 16)).exists()
