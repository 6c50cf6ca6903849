import os

from slimsweep.cli.stage_list import lines
from slimsweep.pipeline.keys import StageKey
from slimsweep.pipeline.stage_cache.cache import StageCache


def test_the_list_is_for_people(tmp_path, tiny):
    cache = StageCache(tmp_path, 10 * 10**9)
    assert cache.open() is None
    assert lines(cache) == [f"0 entries, 0.0 MB of 10.0 GB in {cache.folder}"]
    for name in "ab":
        key = StageKey(name * 64, ({"name": name},), "tiny", f"chain {name}")
        cache.keep(key, tiny, {"stages": [{"seconds": 1.5}]}, 9.0)
        os.utime(cache.folder / key.digest / "used", (0, ord(name)))
    (cache.folder / ("b" * 64) / "entry.json").write_text("{")
    head, damaged, whole, total = lines(cache)
    assert head.split() == ["chain", "model", "size", "computed", "in", "last", "used"]
    assert damaged.startswith(f"damaged: {'b' * 16}") and "0.1 MB" in whole
    assert whole.startswith("chain a") and "tiny" in whole and "1.5 s" in whole
    assert head.index("model") == whole.index("tiny") and total.startswith("2 entries, 0.2 MB of 10.0 GB in")
