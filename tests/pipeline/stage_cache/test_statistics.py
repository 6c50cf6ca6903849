import pytest
import torch
from contexts import text_context
from filelock import FileLock

from slimsweep.blockwise.activations import Activations, InputSum
from slimsweep.cli.caching import stage_lines
from slimsweep.models.language_model import weights_digest
from slimsweep.numerics import hessian
from slimsweep.pipeline.keys import StageKey, sums_key
from slimsweep.pipeline.stage_cache.cache import StageCache
from slimsweep.pipeline.stage_cache.statistics import StatisticsCache
from slimsweep.techniques import hessian_method
from slimsweep.techniques.pruning.sparsegpt import SparseGPT
from slimsweep.techniques.pruning.wanda import Wanda
from slimsweep.techniques.quantization.gptq import GPTQ


def stage(technique: str = "SparseGPT", seed: int = 0, loaded: str = "weights") -> StageKey:
    own = {"stage": {"name": technique.lower()}, "calibration": {"digest": "text"}, "seed": seed}
    return StageKey(f"{technique} {seed} {loaded}", ({"weights": loaded}, own), "tiny", technique)


@pytest.fixture(autouse=True)
def everything_is_worth_keeping(monkeypatch):
    monkeypatch.setattr("slimsweep.pipeline.stage_cache.writing.WORTH_BYTES_PER_SECOND", 1e15)


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
    technique.apply(model, text_context(token_ids(), statistics=shared))
    return weights_digest(model)


@pytest.mark.parametrize("technique", [SparseGPT(ratio=0.5, inputs="dense"), Wanda(ratio=0.5, inputs="dense")])
def test_a_second_job_collects_nothing_and_ends_with_the_same_bits(tiny_source, cache, technique, forwards):
    alone = compressed(tiny_source, technique, None)
    assert len(forwards) == 2
    assert compressed(tiny_source, technique, StatisticsCache(cache, stage())) == alone
    assert len(forwards) == 4
    assert compressed(tiny_source, technique, StatisticsCache(cache, stage())) == alone
    assert len(forwards) == 4


def test_ratios_and_techniques_share_one_collection(tiny_source, cache, forwards):
    for technique in (
        *(SparseGPT(ratio=ratio, inputs="dense") for ratio in (0.3, 0.5)),
        GPTQ(bits=4, inputs="dense", group_size=None),
    ):
        found = compressed(tiny_source, technique, StatisticsCache(cache, stage(type(technique).__name__)))
        assert len(forwards) == 2
        assert found == compressed(tiny_source, technique, None)
        forwards[2:] = []
    wanda = Wanda(ratio=0.5, inputs="dense")
    found = compressed(tiny_source, wanda, StatisticsCache(cache, stage("Wanda")))
    assert len(forwards) == 2, "norms were summed along with Gram matrices"
    assert found == compressed(tiny_source, wanda, None)


@pytest.mark.parametrize("technique", [SparseGPT, Wanda])
@pytest.mark.parametrize("block", [0, 1])
def test_a_block_without_targets_has_no_sums(tiny_source, cache, forwards, technique, block):
    some = technique(ratio=0.5, inputs="dense", exclude=[f"model.layers.{block}.*"])
    alone = compressed(tiny_source, some, None)
    forwards.clear()
    for _ in range(2):
        assert compressed(tiny_source, some, StatisticsCache(cache, stage())) == alone
    assert len(forwards) == (2 if block == 0 else 1)


def test_gram_matrices_are_collected_though_norms_are_known(tiny_source, cache, forwards):
    wanda, sparsegpt = (technique(ratio=0.5, inputs="dense") for technique in (Wanda, SparseGPT))
    compressed(tiny_source, wanda, StatisticsCache(cache, stage("Wanda")))
    found = compressed(tiny_source, sparsegpt, StatisticsCache(cache, stage()))
    assert len(forwards) == 4
    assert found == compressed(tiny_source, sparsegpt, None)


@pytest.fixture
def factorings(monkeypatch):
    """How often a Hessian was factored."""
    count, factor = [], hessian.factor_inverse

    def counted(*args):
        count.append(1)
        return factor(*args)

    monkeypatch.setattr(hessian_method, "factor_inverse", counted)
    return count


def test_one_factorization_serves_every_technique_and_ratio_at_its_damping(tiny_source, cache, factorings):
    def jobs():
        yield from (SparseGPT(ratio=ratio, inputs="dense") for ratio in (0.3, 0.5))
        yield from (
            SparseGPT(ratio=0.5, pattern="2:4", inputs="dense"),
            GPTQ(bits=4, inputs="dense", act_order=False, group_size=None),
        )

    for technique in jobs():
        shared = StatisticsCache(cache, stage(type(technique).__name__))
        found = compressed(tiny_source, technique, shared)
        assert len(factorings) == 8  # of each of two blocks: q, k and v; o; gate and up; down
        assert found == compressed(tiny_source, technique, None)
        factorings[8:] = []
    others = [
        SparseGPT(ratio=0.5, inputs="dense", damping_fraction=0.1),
        GPTQ(bits=4, inputs="dense", group_size=None),
        GPTQ(bits=4, inputs="dense", damping_fraction=0.1, group_size=None),
    ]
    for count, technique in enumerate(others, 2):
        for _ in range(2):
            found = compressed(tiny_source, technique, StatisticsCache(cache, stage(type(technique).__name__)))
            assert len(factorings) == 8 * count
        assert found == compressed(tiny_source, technique, None)
        factorings[8 * count :] = []


def test_dampings_that_differ_in_the_last_digit_have_factors_of_their_own(tiny_source, cache, factorings):
    for count, damping in enumerate((0.1234567, 0.1234574), 1):
        technique = SparseGPT(ratio=0.5, inputs="dense", damping_fraction=damping)
        compressed(tiny_source, technique, StatisticsCache(cache, stage()))
        assert len(factorings) == 8 * count


def test_a_raised_damping_is_told_by_those_who_read_it_too(tiny_source, cache, monkeypatch):
    monkeypatch.setattr(Activations, "collect", _nearly_singular(Activations.collect))
    notes = []
    for _ in range(2):
        model = tiny_source.load(torch.float32, torch.device("cpu"))
        context = text_context(token_ids(), statistics=StatisticsCache(cache, stage()))
        report = SparseGPT(ratio=0.5, inputs="dense", damping_fraction=1e-6).apply(model, context)
        notes.append(report.notes)
    assert notes[0] == notes[1] and set(notes[0]["damping_raised"].values()) != {1e-6}


def _nearly_singular(collect):
    """Gram matrices that are positive definite only when much is added to their diagonal."""

    def collected(*args):
        sums = collect(*args)
        for shared in sums:
            gram = shared.summed[0] if isinstance(shared.summed, tuple) else shared.summed
            gram.fill_diagonal_(float(gram.diagonal().max()))
            gram[0, 1] = gram[1, 0] = 1.001 * gram[0, 0]
        return sums

    return collected


def test_compressed_inputs_other_text_layers_and_models_share_nothing(tiny_source, cache, forwards):
    dense = SparseGPT(ratio=0.5, inputs="dense")
    compressed(tiny_source, dense, StatisticsCache(cache, stage()))
    others = [
        (SparseGPT(ratio=0.5), stage()),
        (dense, stage(seed=1)),
        (dense, stage(loaded="others")),
        (SparseGPT(ratio=0.5, inputs="dense", include=["*.mlp.*"]), stage()),
    ]
    for count, (technique, key) in enumerate(others, 2):
        compressed(tiny_source, technique, StatisticsCache(cache, key))
        assert len(forwards) == 2 * count


@pytest.mark.parametrize("technique", [SparseGPT, Wanda])
def test_every_pass_has_sums_of_its_own(tiny_source, cache, technique):
    twice = technique(ratio=0.3, relative_to="remaining", passes=2, inputs="dense")
    assert compressed(tiny_source, twice, StatisticsCache(cache, stage())) == compressed(tiny_source, twice, None)
    assert compressed(tiny_source, twice, StatisticsCache(cache, stage())) == compressed(tiny_source, twice, None)


@pytest.mark.gpu
def test_sums_come_back_on_the_device_that_asks(tiny_source, cache):
    technique, digests = SparseGPT(ratio=0.5, inputs="dense"), set()
    for _ in range(2):
        model = tiny_source.load(torch.float32, torch.device("cuda:0"))
        technique.apply(model, text_context(token_ids(), statistics=StatisticsCache(cache, stage())))
        digests.add(weights_digest(model))
    assert len(digests) == 1


def test_a_stage_before_is_part_of_the_key():
    first, second = stage("Wanda").parts
    after = StageKey("", (first, second, stage("SparseGPT").parts[1]), "tiny", "wanda+sparsegpt")
    assert sums_key(after, "gram", ["a"]).digest != sums_key(stage("SparseGPT"), "gram", ["a"]).digest
    assert sums_key(after, "gram", ["a"]).label == "gram of the inputs of wanda"
    assert sums_key(stage("GPTQ"), "gram", ["a"]).digest == sums_key(stage("SparseGPT"), "gram", ["a"]).digest


def test_the_list_of_the_cache_names_them(tiny_source, cache):
    compressed(tiny_source, SparseGPT(ratio=0.5, inputs="dense"), StatisticsCache(cache, stage()))
    chains = {entry.chain for entry in cache.entries()}
    assert chains == {
        f"{name} of the inputs of dense" for name in ("gram", "squared_norm", "factor of gram at damping 0.01")
    }
    assert all(chain in "\n".join(stage_lines(cache)) for chain in chains)


def test_a_flipped_byte_is_found_and_collected_anew(tiny_source, cache, forwards):
    technique = SparseGPT(ratio=0.5, inputs="dense")
    alone = compressed(tiny_source, technique, StatisticsCache(cache, stage()))
    for file in cache.folder.glob("*/block_1.safetensors"):
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(content)
    assert compressed(tiny_source, technique, StatisticsCache(cache, stage())) == alone
    assert len(forwards) == 4


def test_an_error_on_the_way_keeps_nothing(cache):
    def fail():
        with StatisticsCache(cache, stage()).of(SparseGPT(ratio=0.5, inputs="dense"), {"a": 2}) as shared:
            assert not shared.is_known
            shared.sum(0, lambda *_: ([InputSum(["a"], (torch.eye(2), torch.ones(2)))], 1.0))
            raise RuntimeError("solve")

    with pytest.raises(RuntimeError, match="solve"):
        fail()
    assert cache.entries() == []
    assert list(cache.folder.glob(".*")) == []


def test_a_full_disk_leaves_the_job_alone(tiny_source, tmp_path, cache, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("slimsweep.pipeline.stage_cache.statistics.save_file", full)
    technique = SparseGPT(ratio=0.5, inputs="dense")
    assert compressed(tiny_source, technique, StatisticsCache(cache, stage())) == compressed(
        tiny_source, technique, None
    )
    assert cache.entries() == []


def test_norms_that_are_known_are_not_held_while_gram_matrices_are_collected(tiny_source, cache):
    compressed(tiny_source, Wanda(ratio=0.5, inputs="dense"), StatisticsCache(cache, stage("Wanda")))
    (entry,) = cache.entries()
    lock = FileLock(cache.folder / "locks" / f"{entry.digest}.lock")
    names = {name: matrix.shape[1] for name, matrix in _weights(tiny_source).items()}
    with StatisticsCache(cache, stage()).of(SparseGPT(ratio=0.5, inputs="dense"), names) as shared:
        assert list(shared.writers) == ["factor of gram at damping 0.01", "gram"]
        with lock.acquire(timeout=0):
            pass


def test_norms_that_another_job_collects_are_not_waited_for(tiny_source, cache):
    names = {name: matrix.shape[1] for name, matrix in _weights(tiny_source).items()}
    norms = sums_key(stage(), "squared_norm", list(names))
    sparsegpt = SparseGPT(ratio=0.5, inputs="dense")
    with (
        FileLock(cache.folder / "locks" / f"{norms.digest}.lock"),
        StatisticsCache(cache, stage()).of(sparsegpt, names) as shared,
    ):
        assert list(shared.writers) == ["factor of gram at damping 0.01", "gram"]


def test_what_is_kept_together_stays_within_the_limit(tiny_source, tmp_path):
    dense = SparseGPT(ratio=0.5, inputs="dense")
    compressed(tiny_source, dense, StatisticsCache(_cache(tmp_path / "large", 10**9), stage()))
    sizes = {entry.chain: entry.bytes for entry in _cache(tmp_path / "large", 10**9).entries()}
    small = _cache(tmp_path / "small", int(1.6 * max(sizes.values())))  # room for one, not for both
    compressed(tiny_source, dense, StatisticsCache(small, stage()))
    assert 0 < sum(entry.bytes for entry in small.entries()) <= small.limit_bytes


def test_gram_matrices_stay_while_factors_made_of_them_are_read(tiny_source, tmp_path, forwards):
    def job(damping, ratio=0.5):
        technique = SparseGPT(ratio=ratio, inputs="dense", damping_fraction=damping)
        compressed(tiny_source, technique, StatisticsCache(_cache(tmp_path / "small", limit), stage()))

    limit = 10**9
    job(0.01)
    # Other factors have no room beside these, which must go, and not what both are made of.
    sizes = {entry.chain.split()[0]: entry.bytes for entry in _cache(tmp_path / "small", limit).entries()}
    limit = sum(sizes.values()) + sizes["factor"] * 7 // 10  # estimates count inputs that layers share for each layer
    job(0.01, ratio=0.3)
    job(0.02)
    assert len(forwards) == 2
    chains = {entry.chain for entry in _cache(tmp_path / "small", limit).entries()}
    assert {"gram of the inputs of dense", "factor of gram at damping 0.02 of the inputs of dense"} <= chains


def test_what_is_collected_quicker_than_read_is_not_kept(tiny_source, cache, monkeypatch):
    monkeypatch.setattr("slimsweep.pipeline.stage_cache.writing.WORTH_BYTES_PER_SECOND", 1.0)
    dense = SparseGPT(ratio=0.5, inputs="dense")
    assert compressed(tiny_source, dense, StatisticsCache(cache, stage())) == compressed(tiny_source, dense, None)
    assert cache.entries() == [] and list(cache.folder.glob(".*")) == []


def _cache(folder, limit):
    made = StageCache(folder, limit)
    assert made.open() is None
    return made


def _weights(source):
    targets = source.load(torch.float32, torch.device("cpu")).targets()
    return {name: layer.weight for name, layer in targets.items()}


def test_norms_are_kept_where_gram_matrices_have_no_room(tiny_source, tmp_path, forwards):
    small = StageCache(tmp_path / "small", 20_000)
    small.open()
    compressed(tiny_source, SparseGPT(ratio=0.5, inputs="dense"), StatisticsCache(small, stage()))
    assert [entry.chain for entry in small.entries()] == ["squared_norm of the inputs of dense"]
    compressed(tiny_source, Wanda(ratio=0.5, inputs="dense"), StatisticsCache(small, stage("Wanda")))
    assert len(forwards) == 2


def test_sums_beyond_the_limit_are_not_kept(tiny_source, tmp_path):
    small = StageCache(tmp_path / "small", 1000)
    small.open()
    compressed(tiny_source, SparseGPT(ratio=0.5, inputs="dense"), StatisticsCache(small, stage()))
    assert small.entries() == []
