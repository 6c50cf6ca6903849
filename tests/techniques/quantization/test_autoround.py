import dataclasses

import pytest
import torch
from contexts import text_context
from family_shapes import random_model
from small_stacks import encoder_decoder, pairs

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.errors import ModelError
from slimsweep.linear.base import packed_layers, weight_2d
from slimsweep.linear.mask import mark_zeros
from slimsweep.linear.mask import removed as removed_of
from slimsweep.linear.uniform import IntegerLinear
from slimsweep.models.language_model import weights_digest
from slimsweep.numerics.uniform_grid import GRIDS
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization import autoround
from slimsweep.techniques.quantization.autoround import AutoRound
from slimsweep.techniques.quantization.nf4 import NF4
from slimsweep.techniques.quantization.rtn import RTN

CPU = torch.device("cpu")
IDS = torch.randint(4, 250, (6, 20), generator=torch.Generator().manual_seed(0))
QUICK = {"steps": 8, "batch_sequences": 3}


def losses(report) -> list[tuple[float, float]]:
    return [(block["before"], block["after"]) for block in report.notes["block_loss"].values()]


def states_agree(one, other) -> bool:
    mine, theirs = one.module.state_dict(), other.module.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("group_size", [None, 16])
def test_no_steps_are_rtn_bit_for_bit(tiny_source, grid, group_size):
    learned, nearest = (tiny_source.load(torch.float32, CPU) for _ in range(2))
    AutoRound(bits=3, grid=grid, group_size=group_size, steps=0).apply(learned, text_context(IDS))
    RTN(bits=3, grid=grid, group_size=group_size).apply(nearest, StageContext())
    assert states_agree(learned, nearest)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("inputs", ["compressed", "dense"])
def test_the_loss_of_each_block_falls(tiny, grid, inputs):
    report = AutoRound(bits=2, grid=grid, group_size=16, inputs=inputs, **QUICK).apply(tiny, text_context(IDS))
    assert list(report.notes["block_loss"]) == tiny.block_names
    assert all(after < before for before, after in losses(report))
    assert all(isinstance(layer, IntegerLinear) for layer in packed_layers(tiny.module).values())
    assert len(report.layers) == 14
    assert report.notes["packing_error"]["mean"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_packed_block_has_the_loss_that_the_training_ended_with(tiny_source, dtype):
    dense, packed = (tiny_source.load(dtype, CPU) for _ in range(2))
    report = AutoRound(bits=2, group_size=16, inputs="dense", **QUICK).apply(packed, text_context(IDS))
    calls = []

    def note(_, args, kwargs, output):
        calls.append((args, kwargs, output))

    for block in dense.blocks:
        block.register_forward_hook(note, with_kwargs=True)
    dense.hidden_states({"input_ids": IDS})
    for (_, after), block, (args, kwargs, output) in zip(losses(report), packed.blocks, calls, strict=True):
        with torch.no_grad():
            errors = (block(*args, **kwargs).float() - output.float()).square().mean(dim=-1)
            error = (errors / output.float().square().mean(dim=-1)).mean()  # of each token, relative to its target
        assert after == pytest.approx(float(error), rel=1e-4 if dtype == torch.float32 else 0.05)


def test_converted_weights_equal_the_fake_quantized_ones(tiny, monkeypatch):
    seen = {}
    train = autoround.train

    def noting(task, start, changed, *rest):
        trained = train(task, start, changed, *rest)
        with torch.no_grad():
            seen.update({f"{task.name}.{name}": weight for name, weight in changed(trained.parameters).items()})
        return trained

    monkeypatch.setattr(autoround, "train", noting)
    AutoRound(bits=3, group_size=None, **QUICK).apply(tiny, text_context(IDS))
    layers = packed_layers(tiny.module)
    assert {f"{name}.weight" for name in layers} == seen.keys()
    for name, layer in layers.items():
        assert torch.equal(layer.weight, seen[f"{name}.weight"])


def test_bounds_are_half_a_step_and_the_range():
    values = {"q:offset": torch.tensor([-0.6, -0.5, 0.2, 0.7]), "q:low_clip": torch.tensor([-0.1, 0.4, 1.0, 1.1])}
    autoround._into_bounds(values)
    assert values["q:offset"].tolist() == pytest.approx([-0.5, -0.5, 0.2, 0.5])
    assert values["q:low_clip"].tolist() == pytest.approx([0, 0.4, 1, 1])


def test_trained_tensors_stay_within_bounds_at_the_highest_rate(tiny, monkeypatch):
    ends, train = {"offset": (-0.5, 0.5), "low_clip": (0, 1), "high_clip": (0, 1)}, autoround.train
    reached = dict.fromkeys(ends, 0)

    def noting(task, start, changed, descent, generator, project):
        def checked(values):
            project(values)
            for name, tensor in values.items():
                low, high = ends[name.rpartition(":")[2]]
                assert low <= float(tensor.min()) and float(tensor.max()) <= high, name
                reached[name.rpartition(":")[2]] += int(((tensor == low) | (tensor == high)).sum())

        return train(task, start, changed, descent, generator, checked)

    monkeypatch.setattr(autoround, "train", noting)
    AutoRound(bits=2, group_size=16, learning_rate=1, steps=3).apply(tiny, text_context(IDS))
    assert all(reached.values())


def test_seeds_decide(tiny_source):
    def digest(seed):
        model = tiny_source.load(torch.float32, CPU)
        AutoRound(bits=2, group_size=None, **QUICK).apply(model, text_context(IDS, seed))
        return weights_digest(model)

    assert digest(0) == digest(0) != digest(1)


def test_padding_changes_nothing(tiny_source):
    # All sequences at each step, so that only the padding differs.
    lengths = torch.tensor([20, 20, 20, 20, 20, 20])
    wide = torch.cat([IDS, torch.full((6, 5), 99)], dim=1)
    masked = {"input_ids": wide, "attention_mask": (torch.arange(25) < lengths[:, None]).long()}
    reports = []
    for batch in ({"input_ids": IDS}, masked):
        model = tiny_source.load(torch.float32, CPU)
        technique = AutoRound(bits=2, group_size=16, steps=3, batch_sequences=6)
        reports.append(technique.apply(model, StageContext(batch)))
    for one, other in zip(*map(losses, reports), strict=True):
        assert one == pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize("name", ["bart", "t5", "t5_gated"])
@pytest.mark.parametrize("inputs", ["compressed", "dense"])
def test_encoder_decoders_learn_on_padded_pairs(name, inputs, tmp_path):
    model = encoder_decoder(name, tmp_path)
    technique = AutoRound(bits=2, group_size=8, inputs=inputs, steps=6, batch_sequences=2)
    report = technique.apply(model, StageContext(pairs()))
    assert len(report.notes["block_loss"]) == 5
    assert all(after <= before for before, after in losses(report))
    assert sum(after < before for before, after in losses(report)) >= 4
    assert model.hidden_states(pairs()).isfinite().all()


@pytest.mark.parametrize("family", ["gpt2", "bloom", "bert"])
def test_other_families_learn(family, tmp_path):
    model = random_model(family, str(tmp_path)).load(torch.float32, CPU)
    report = AutoRound(bits=2, group_size=16, **QUICK).apply(model, text_context(IDS))
    assert all(after < before for before, after in losses(report))


@pytest.mark.parametrize("grid", GRIDS)
def test_removed_weights_stay_exact_zeros(tiny, grid):
    Magnitude(ratio=0.5).apply(tiny, StageContext())
    before = {name: removed_of(layer) for name, layer in tiny.targets().items()}
    report = AutoRound(bits=2, grid=grid, group_size=16, **QUICK).apply(tiny, text_context(IDS))
    for name, layer in tiny.targets().items():
        assert torch.equal(removed_of(layer), before[name])
        assert bool((layer.weight[before[name]] == 0).all())
    assert all(layer.zeros >= layer.weights // 2 for layer in report.layers)


def test_zeros_by_value_are_ordinary_weights(tiny):
    layer = tiny.targets()["model.layers.0.mlp.up_proj"]
    weight_2d(layer)[:, ::2] = 0
    mark_zeros(layer, weight_2d(layer))
    AutoRound(bits=2, grid="minimum", group_size=16, preserve_sparsity=False, **QUICK).apply(tiny, text_context(IDS))
    assert bool((tiny.targets()["model.layers.0.mlp.up_proj"].weight[:, ::2] != 0).any())


def test_packed_layers_are_packed_anew_and_gradients_pass_those_left_alone(tiny):
    NF4().apply(tiny, StageContext())
    report = AutoRound(bits=2, group_size=16, include=["*.mlp.*"], **QUICK).apply(tiny, text_context(IDS))
    kinds = {name: layer.kind for name, layer in packed_layers(tiny.module).items()}
    assert {kind for name, kind in kinds.items() if ".mlp." in name} == {"integer"}
    assert {kind for name, kind in kinds.items() if ".mlp." not in name} == {"nf4"}
    assert all(after < before for before, after in losses(report))


def test_blocks_without_targets_are_passed(tiny):
    report = AutoRound(bits=2, group_size=16, include=["*.1.mlp.*"], **QUICK).apply(tiny, text_context(IDS))
    assert list(report.notes["block_loss"]) == ["model.layers.1"]
    assert [layer.name for layer in report.layers] == [
        f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down")
    ]


def test_inputs_that_are_not_finite_are_an_error_that_names_the_layers(tiny):
    tiny.module.get_input_embeddings().weight.data[int(IDS[0, 0])] = float("nan")
    with pytest.raises(ModelError, match=r"inputs of model\.layers\.0\.self_attn\.q_proj, .* are not finite"):
        AutoRound(bits=2, group_size=16, **QUICK).apply(tiny, text_context(IDS))


def test_bad_knobs_are_refused_by_name():
    with pytest.raises(ValueError, match=r"steps=-1.*batch_sequences=0.*learning_rate=2") as refused:
        AutoRound(steps=-1, batch_sequences=0, learning_rate=2)
    assert "(0, 1]" in str(refused.value)
    with pytest.raises(ValueError, match="inputs='sequential'"):
        AutoRound(inputs="sequential")


def test_it_needs_text_and_a_seed_and_one_block_at_a_time():
    needs = AutoRound().requirements
    assert (needs.calibration, needs.seed, needs.whole_model) == (True, True, False)
    assert AutoRound().working_bytes([(8, 16)]) > 0


def test_the_plan_is_what_is_stored(tiny, tiny_source):
    technique = AutoRound(bits=2, group_size=16, steps=1)
    planned = technique.plan(tiny_source.skeleton().copy())
    real = technique.apply(tiny, text_context(IDS))
    assert planned.notes["bits_per_weight"] == real.notes["bits_per_weight"]
    assert [dataclasses.astuple(layer)[:2] for layer in planned.layers] == [
        dataclasses.astuple(layer)[:2] for layer in real.layers
    ]


@pytest.mark.parametrize("bits", [2, 3])
def test_blocks_of_a_trained_model_are_nearer_to_the_dense_ones_than_by_rtn(stories260k, shared, bits):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:20000]
    ids = torch.tensor(stories260k.tokenizer(text).input_ids)[: 8 * 64].view(8, 64)
    technique = AutoRound(bits=bits, group_size=None, inputs="dense", steps=20, batch_sequences=4)
    report = technique.apply(stories260k, text_context(ids))
    assert all(after < 0.7 * before for before, after in losses(report))  # before is RTN's
