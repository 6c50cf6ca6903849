import pytest
import torch

from slimsweep.activations import Activations, InputSum
from slimsweep.keys import StageKey, sums_key
from slimsweep.models.language_model import weights_digest
from slimsweep.shared_sums import SharedSums
from slimsweep.stage_cache import StageCache, lines
from slimsweep.techniques.gptq import GPTQ
from slimsweep.techniques.sparsegpt import SparseGPT
from slimsweep.techniques.wanda import Wanda


def stage(technique: str = "SparseGPT", seed: int = 0, loaded: str = "weights") -> StageKey:
    own = {"stage": {"class": f"techniques.{technique}"}, "calibration": {"digest": "text"}, "seed": seed}
    return StageKey(f"{technique} {seed} {loaded}", ({"weights": loaded}, own), "tiny", technique)


@pytest.fixture
def cache(tmp_path):
    cache = StageCache(tmp_path, 10**9)
    assert cache.open() is None
    return cache


def token_ids():
    return torch.randint(258, (4, 32), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def forwards(monkeypatch):
    """How often inputs were collected."""
    count, collect = [], Activations.collect

    def counted(self, *args, **kwargs):
        count.append(1)
        return collect(self, *args, **kwargs)

    monkeypatch.setattr(Activations, "collect", counted)
    return count


def compressed(source, technique, shared):
    model = source.load(torch.float32, torch.device("cpu"))
    model.shared_sums = shared
    technique.apply(model, token_ids(), 0)
    return weights_digest(model)


@pytest.mark.parametrize("technique", [SparseGPT(ratio=0.5, inputs="dense"), Wanda(ratio=0.5, inputs="dense")])
def test_a_second_job_collects_nothing_and_ends_with_the_same_bits(tiny_source, cache, technique, forwards):
    alone = compressed(tiny_source, technique, None)
    assert len(forwards) == 2
    assert compressed(tiny_source, technique, SharedSums(cache, stage())) == alone
    assert len(forwards) == 4
    assert compressed(tiny_source, technique, SharedSums(cache, stage())) == alone
    assert len(forwards) == 4


def test_ratios_and_techniques_share_one_collection(tiny_source, cache, forwards):
    for technique in (*(SparseGPT(ratio=ratio, inputs="dense") for ratio in (0.3, 0.5)), GPTQ(bits=4, inputs="dense")):
        found = compressed(tiny_source, technique, SharedSums(cache, stage(type(technique).__name__)))
        assert len(forwards) == 2
        assert found == compressed(tiny_source, technique, None)
        forwards[2:] = []
    compressed(tiny_source, Wanda(ratio=0.5, inputs="dense"), SharedSums(cache, stage("Wanda")))
    assert len(forwards) == 4, "Wanda asks for another statistic"


def test_compressed_inputs_other_text_layers_and_models_share_nothing(tiny_source, cache, forwards):
    dense = SparseGPT(ratio=0.5, inputs="dense")
    compressed(tiny_source, dense, SharedSums(cache, stage()))
    others = [
        (SparseGPT(ratio=0.5), stage()),
        (dense, stage(seed=1)),
        (dense, stage(loaded="others")),
        (SparseGPT(ratio=0.5, inputs="dense", include=["*.mlp.*"]), stage()),
    ]
    for count, (technique, key) in enumerate(others, 2):
        compressed(tiny_source, technique, SharedSums(cache, key))
        assert len(forwards) == 2 * count


@pytest.mark.parametrize("technique", [SparseGPT, Wanda])
def test_every_pass_has_sums_of_its_own(tiny_source, cache, technique):
    twice = technique(ratio=0.3, of="remaining", passes=2, inputs="dense")
    assert compressed(tiny_source, twice, SharedSums(cache, stage())) == compressed(tiny_source, twice, None)
    assert compressed(tiny_source, twice, SharedSums(cache, stage())) == compressed(tiny_source, twice, None)


@pytest.mark.gpu
def test_sums_come_back_on_the_device_that_asks(tiny_source, cache):
    technique, digests = SparseGPT(ratio=0.5, inputs="dense"), set()
    for _ in range(2):
        model = tiny_source.load(torch.float32, torch.device("cuda:0"))
        model.shared_sums = SharedSums(cache, stage())
        technique.apply(model, token_ids(), 0)
        digests.add(weights_digest(model))
    assert len(digests) == 1


def test_a_stage_before_is_part_of_the_key():
    first, second = stage("Wanda").parts
    after = StageKey("", (first, second, stage("SparseGPT").parts[1]), "tiny", "wanda+sparsegpt")
    assert sums_key(after, "gram", ["a"]).digest != sums_key(stage("SparseGPT"), "gram", ["a"]).digest
    assert sums_key(after, "gram", ["a"]).label == "gram of the inputs of wanda"
    assert sums_key(stage("GPTQ"), "gram", ["a"]).digest == sums_key(stage("SparseGPT"), "gram", ["a"]).digest


def test_the_list_of_the_cache_names_them(tiny_source, cache):
    compressed(tiny_source, SparseGPT(ratio=0.5, inputs="dense"), SharedSums(cache, stage()))
    (entry,) = cache.entries()
    assert entry.chain == "gram of the inputs of dense"
    assert "gram of the inputs of dense" in "\n".join(lines(cache))


def test_a_flipped_byte_is_found_and_collected_anew(tiny_source, cache, forwards):
    technique = SparseGPT(ratio=0.5, inputs="dense")
    alone = compressed(tiny_source, technique, SharedSums(cache, stage()))
    (file,) = [path for path in cache.folder.glob("*/block_1.safetensors") if not path.parent.name.startswith(".")]
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    assert compressed(tiny_source, technique, SharedSums(cache, stage())) == alone
    assert len(forwards) == 4


def test_an_error_on_the_way_keeps_nothing(cache):
    def fail():
        with SharedSums(cache, stage()).kept("gram", ["a"], 1000) as (kept, keep):
            assert kept is None
            keep(0, [InputSum(["a"], torch.ones(2, 2))], 1.0)
            raise RuntimeError("solve")

    with pytest.raises(RuntimeError, match="solve"):
        fail()
    assert cache.entries() == []
    assert list(cache.folder.glob(".*")) == []


def test_a_full_disk_leaves_the_job_alone(tiny_source, tmp_path, cache, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("slimsweep.shared_sums.save_file", full)
    technique = SparseGPT(ratio=0.5, inputs="dense")
    assert compressed(tiny_source, technique, SharedSums(cache, stage())) == compressed(tiny_source, technique, None)
    assert cache.entries() == []


def test_sums_beyond_the_limit_are_not_kept(tiny_source, tmp_path):
    small = StageCache(tmp_path / "small", 1000)
    small.open()
    compressed(tiny_source, SparseGPT(ratio=0.5, inputs="dense"), SharedSums(small, stage()))
    assert small.entries() == []
