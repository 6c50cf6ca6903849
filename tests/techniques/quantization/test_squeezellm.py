import math

import pytest
import torch
from contexts import text_context
from restatements import perplexity

from slimsweep.blockwise.fisher import fisher_diagonal
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.evaluation.size import Size
from slimsweep.linear.base import packed_layers, weight_2d
from slimsweep.models.batches import text_batch
from slimsweep.techniques.base import Requirements
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.rtn import RTN
from slimsweep.techniques.quantization.squeezellm import SqueezeLLM

CPU = torch.device("cpu")
DENSE_ONLY = {"outlier_fraction": 0, "sensitive_fraction": 0}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fisher_of(*shape: int) -> torch.Tensor:
    return normal(*shape, seed=7).square()


def ids(sequences: int = 3, tokens: int = 12) -> torch.Tensor:
    return torch.randint(1, 250, (sequences, tokens), generator=torch.Generator().manual_seed(0))


def test_rows_by_hand():
    # Four levels for five weights: 1 and 2 share one, at (3 x 1 + 1 x 2) / 4 where the first matters three times.
    weight = torch.tensor([[1.0, 2.0, 8.0, 16.0, -4.0], [1.0, 2.0, 8.0, 16.0, -4.0]])
    fisher = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0], [3.0, 1.0, 1.0, 1.0, 1.0]])
    found = SqueezeLLM(bits=2, **DENSE_ONLY).compress_layer(weight, fisher)
    assert found.weight.tolist() == [[1.5, 1.5, 8, 16, -4], [1.25, 1.25, 8, 16, -4]]


def test_outliers_by_hand_leave_their_levels_to_others():
    # 20 weights: one outlier by magnitude (50), one by Fisher information (0.3), no removed one among them.
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0, 0.3, 50.0, 0.0, 1.0, 2.0, 3.0] * 2])
    weight[0, 15] = 1
    fisher = torch.ones_like(weight)
    fisher[0, 4], fisher[0, 5], fisher[0, 6] = 9, 10, 11
    technique = SqueezeLLM(bits=2, outlier_fraction=0.05, sensitive_fraction=0.05)
    removed = weight == 0
    assert technique.outliers(weight, fisher, removed).nonzero().tolist() == [[0, 4], [0, 5]]
    assert technique.outliers(weight, fisher).nonzero().tolist() == [[0, 5], [0, 6]]  # else a zero is like any other
    found = technique.compress_layer(weight, fisher, removed=removed)
    assert found.outlier_values.tolist() == [torch.tensor(0.3).bfloat16().item(), 50]
    assert found.weight[0, 5] == 50 and found.weight[0, 6] == 0
    assert float(found.table.max()) <= 4


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_no_more_values_than_levels_stay_what_they_are(bits):
    weight = torch.randint(-7, 8, (6, 43), generator=torch.Generator().manual_seed(0)) / 8  # 15 values, 0 among them
    for preserve in (True, False):
        found = SqueezeLLM(bits=bits, preserve_sparsity=preserve, **DENSE_ONLY).compress_layer(weight, fisher_of(6, 43))
        assert torch.equal(found.weight, weight)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("width", [43, 172])
def test_it_loses_less_than_uniform_levels_in_what_it_minimises(bits, width):
    weight, fisher = normal(7, width), fisher_of(7, width)
    lost = [
        float((fisher * (found.weight - weight).square()).sum())
        for found in (
            SqueezeLLM(bits=bits, **DENSE_ONLY).compress_layer(weight, fisher),
            RTN(bits=bits, group_size=None).compress_layer(weight),
        )
    ]
    assert lost[0] < 0.7 * lost[1]


def test_the_scale_of_the_fisher_information_means_nothing():
    weight, fisher = normal(7, 43), fisher_of(7, 43)
    first, second = (SqueezeLLM(bits=3).compress_layer(weight, one) for one in (fisher, fisher * 2**-40))
    assert torch.equal(first.weight, second.weight)


def test_without_fisher_information_it_is_plain_k_means():
    weight = normal(7, 43)
    technique = SqueezeLLM(bits=3, **DENSE_ONLY)
    plain = technique.compress_layer(weight, torch.ones(7, 43))
    assert torch.equal(technique.compress_layer(weight, torch.zeros(7, 43)).weight, plain.weight)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("ratio", [0.5, 0.999])
def test_zeros_stay_zeros_and_little_else_becomes_one(bits, ratio):
    weight = Magnitude(ratio=ratio).compress_layer(normal(24, 172)).weight
    found = SqueezeLLM(bits=bits).compress_layer(weight, fisher_of(24, 172), removed=weight == 0).weight
    assert bool((found[weight == 0] == 0).all())
    if bits > 2:  # of three other levels one side of 0 may have one, far out
        assert bool((found[weight != 0] != 0).all())  # magnitude leaves nothing near 0
    loose = SqueezeLLM(bits=bits, preserve_sparsity=False).compress_layer(normal(24, 172), fisher_of(24, 172))
    assert loose.settings == {"bits": bits, "outliers": 16 + 2}


def test_zeros_may_move_where_they_need_not_stay():
    weight = normal(5, 43)
    weight[:, ::9] = 0
    given = weight, fisher_of(5, 43)
    loose = SqueezeLLM(bits=2, preserve_sparsity=False, **DENSE_ONLY)
    assert bool((loose.compress_layer(*given, removed=weight == 0).weight[weight == 0] != 0).any())
    kept = SqueezeLLM(bits=2, **DENSE_ONLY).compress_layer(*given, removed=weight == 0).weight
    assert bool((kept[weight == 0] == 0).all())


def test_a_layer_of_zeros_is_one_of_zeros_and_takes_the_same_bytes():
    found = SqueezeLLM(bits=3, outlier_fraction=0.1).compress_layer(torch.zeros(4, 43), fisher_of(4, 43))
    assert torch.equal(found.weight, torch.zeros(4, 43))
    assert found.settings == {"bits": 3, "outliers": 17}


def test_counts_of_outliers_are_floors_of_the_layers_weights_ties_included():
    weight = torch.ones(10, 100)
    outliers = SqueezeLLM(outlier_fraction=0.0045, sensitive_fraction=0.0019).outliers(weight, weight)
    assert int(outliers.sum()) == 4 + 1


def test_golden_output_of_version_2():
    assert SqueezeLLM.version == 2
    weight = torch.tensor([[((7 * column + 3 * row) % 11 - 5) / 4 for column in range(6)] for row in range(2)])
    fisher = torch.tensor([[((5 * column + 2 * row) % 7 + 1) / 8 for column in range(6)] for row in range(2)])
    found = SqueezeLLM(bits=2, outlier_fraction=0.1, sensitive_fraction=0).compress_layer(weight, fisher)
    golden = [
        [-1.25, 0.365234375, -0.640625, 1.25, 0.365234375, -0.640625],
        [-0.64453125, 1.25, 0.25, -0.64453125, 1.0, 0.0],
    ]
    assert found.weight.tolist() == golden


@pytest.mark.parametrize("bits", [1, 5, 16, True])
def test_bad_knobs_are_named_together(bits):
    message = r"bits=.*2, 3, 4 or 8; outlier_fraction=0.6.*not percent; sensitive_fraction=-1.*\[0, 0.5\]"
    with pytest.raises(ValueError, match=message):
        SqueezeLLM(bits=bits, outlier_fraction=0.6, sensitive_fraction=-1)


def test_the_plan_on_shapes_has_the_sizes_of_real_weights(tiny, tiny_source):
    technique = SqueezeLLM(bits=3, outlier_fraction=0.01)
    skeleton = tiny_source.skeleton().copy()
    assert technique.faults(skeleton) == []
    planned = technique.plan(skeleton)
    real = technique.apply(tiny, text_context(ids()))
    sizes = [Size().measure(model, None).values for model in (skeleton, tiny)]
    for name in ("parameters", "weight_bytes", "bits_per_weight", "compression_factor"):
        assert sizes[0][name] == sizes[1][name], name
    assert planned.notes["bits_per_weight"] == real.notes["bits_per_weight"]
    assert [layer.name for layer in planned.layers] == [layer.name for layer in real.layers] == list(tiny.targets())


def test_each_layer_of_a_model_is_clustered_by_its_own_fisher_information(tiny):
    dense = {name: weight_2d(layer).clone() for name, layer in tiny.targets().items()}
    fisher = fisher_diagonal(tiny, list(dense), text_batch(ids()))
    technique = SqueezeLLM(bits=2)
    report = technique.apply(tiny, text_context(ids()))
    for layer in report.layers:
        found = weight_2d(tiny.targets()[layer.name])
        assert torch.equal(found, technique.compress_layer(dense[layer.name], fisher[layer.name]).weight)
        assert layer.error == pytest.approx(float((found - dense[layer.name]).norm() / dense[layer.name].norm()))


def test_equal_runs_store_equal_bits(tiny_source):
    states = []
    for _ in range(2):
        model = tiny_source.load(torch.float32, CPU)
        SqueezeLLM(bits=3).apply(model, text_context(ids()))
        states.append(model.module.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_it_follows_another_quantizer_and_a_pruner_follows_it(tiny):
    RTN(bits=4, group_size=None).apply(tiny, StageContext())
    SqueezeLLM(bits=3).apply(tiny, text_context(ids()))
    assert {layer.kind for layer in packed_layers(tiny.module).values()} == {"table"}
    report = Magnitude(ratio=0.5).apply(tiny, StageContext())
    assert all(2 * layer.zeros >= layer.weights for layer in report.layers)
    assert {layer.kind for layer in packed_layers(tiny.module).values()} == {"table"}


def test_gradients_need_all_weights_in_one_place():
    assert SqueezeLLM().requirements == Requirements(calibration=True, gradients=True)


@torch.no_grad()
def test_it_beats_uniform_levels_on_a_trained_model_and_outliers_help(stories260k_source, shared):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:60_000]
    found = {}
    techniques = {
        "rtn": RTN(bits=3, group_size=None),
        "dense only": SqueezeLLM(bits=3, **DENSE_ONLY),
        "with outliers": SqueezeLLM(bits=3),
    }
    for name, technique in techniques.items():
        model = stories260k_source.load(torch.float32, CPU)
        windows = torch.tensor(model.tokenizer(text)["input_ids"][: 32 * 256]).view(32, 256)
        technique.apply(model, text_context(windows[:16]))
        found[name] = perplexity(model.module, windows[16:])
    assert found["with outliers"] < found["dense only"] < found["rtn"]


def test_layers_of_the_embedded_model_keep_their_outliers_and_come_nearer_than_rounding(smollm2):
    model = smollm2.load(torch.bfloat16, CPU)
    technique = SqueezeLLM(bits=3)
    for name in ("model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.o_proj"):
        weight = weight_2d(model.targets()[name]).float()
        fisher = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0))
        found = technique.compress_layer(weight, fisher)
        kept = technique.outliers(weight, fisher)
        assert torch.equal(found.weight[kept], weight[kept])
        assert int(kept.sum()) == math.floor(0.004 * weight.numel()) + math.floor(0.0005 * weight.numel())
        rounded = RTN(bits=3, group_size=None).compress_layer(weight).weight
        assert float((found.weight - weight).norm()) < 0.7 * float((rounded - weight).norm())


def test_zero_is_one_of_the_clusters_and_not_one_more_beside_them():
    weight = torch.tensor([[0, 0.001, 1, 2, 3]])
    technique = SqueezeLLM(bits=2, outlier_fraction=0, sensitive_fraction=0)
    found = technique.compress_layer(weight, torch.ones(1, 5), removed=weight == 0).dequantized()
    assert found.tolist() == [[0, 0, 1, 2, 3]]
