import pytest
import torch
from family_shapes import random_model
from planning import apply_or_plan
from tiny_training import CPU, FAST, counting_windows, text_batch_of

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.data.corpora import Corpora
from slimsweep.data.training import TrainingSet
from slimsweep.data.training_text import TrainingText
from slimsweep.errors import TrainingPaused
from slimsweep.evaluation.size import Size
from slimsweep.linear.base import linear_forms, packed_layers, weight_2d, zero_count
from slimsweep.linear.fake_quantized import FakeQuantizedLinear
from slimsweep.linear.mask import removed
from slimsweep.models.language_model import weights_digest
from slimsweep.numerics.uniform_grid import GRIDS
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.rtn import RTN
from slimsweep.techniques.training.lora import LoRA
from slimsweep.techniques.training.qat import QAT, pack
from slimsweep.techniques.training.trainer import StageTrainer

SHORT = FAST | {"group_size": 8}


def tiny_model(folder, family="llama", dtype=torch.float32):
    return random_model(family, str(folder)).load(dtype, CPU)


def counting(seed=0, teacher=None, work_dir=None) -> StageContext:
    """Learnable windows of tokens that every family here has."""
    windows = counting_windows(32, 48)
    data = TrainingSet(windows[:-8], windows[-8:], text_batch_of, "counting")
    return StageContext(data=data, seed=seed, teacher=teacher, work_dir=work_dir)


def validation_loss(model, context) -> float:
    """The loss of a model on the validation windows, in torch's own words."""
    ids = torch.stack(context.data.validation)
    with torch.no_grad():
        logits = model.module(input_ids=ids).logits[:, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))


def training_of(report) -> dict:
    return report.notes["training"]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_logits_before_and_after_packing_are_equal(tmp_path, bits, grid):
    model, ids = tiny_model(tmp_path), torch.arange(24).view(2, 12)
    technique = QAT(bits=bits, grid=grid, group_size=8)
    with technique.fake_quantized(model) as layers, torch.no_grad():
        for layer in layers.values():
            layer.weight += 0.01 * torch.randn(layer.weight.shape)
        before = model.module(input_ids=ids).logits
        codes = {name: layer.packed().codes() for name, layer in layers.items()}
    pack(model, layers)
    with torch.no_grad():
        assert torch.allclose(model.module(input_ids=ids).logits, before, atol=1e-5)
    assert codes.keys() == packed_layers(model.module).keys()
    for name, layer in packed_layers(model.module).items():
        assert torch.equal(layer.codes(), codes[name])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_best_validation_loss_is_that_of_the_packed_model(tmp_path, family, dtype):
    model, context = tiny_model(tmp_path, family, dtype), counting()
    report = QAT(**SHORT, bits=3).apply(model, context)
    training = training_of(report)
    assert training["loss_best"] < training["loss_start"] - 0.1
    # In 16 bits training computes by autocast, which rounds elsewhere than a model in 16 bits.
    tolerance = {"abs": 1e-5} if dtype == torch.float32 else {"rel": 0.05}
    assert validation_loss(model, context) == pytest.approx(training["loss_best"], **tolerance)
    assert packed_layers(model.module).keys() == model.targets().keys()
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert {layer.name for layer in report.layers} == set(model.targets())
    assert report.notes["packing_error"]["mean"] > 0 and report.notes["bits_per_weight"] > 3


def test_it_begins_as_rtn_and_without_steps_of_any_length_ends_there(tmp_path):
    rounded, context = tiny_model(tmp_path), counting()
    RTN(bits=3, group_size=8).apply(rounded, context)
    model = tiny_model(tmp_path)
    training = training_of(QAT(**SHORT | {"learning_rate": 1e-30}, bits=3).apply(model, context))
    assert training["loss_start"] == pytest.approx(validation_loss(rounded, context), abs=1e-5)
    assert weights_digest(model) == weights_digest(rounded)


def test_a_kind_of_layer_that_is_left_out_is_trained_but_not_rounded(tmp_path):
    model = tiny_model(tmp_path)
    before = weight_2d(model.targets()["model.layers.0.mlp.up_proj"]).clone()
    QAT(**SHORT, include=["*.self_attn.*"]).apply(model, counting())
    assert all("self_attn" in name for name in packed_layers(model.module))
    assert not torch.equal(weight_2d(model.targets()["model.layers.0.mlp.up_proj"]), before)


def test_it_learns_the_predictions_of_the_base(tmp_path):
    base = tiny_model(tmp_path)
    base.module.lm_head.weight.data *= 30  # predictions of random weights are nearly uniform
    technique = QAT(**SHORT | {"learning_rate": 1e-4}, bits=2, teacher="base")
    assert technique.requirements.teacher == "base"
    model, context = base.copy(), counting(teacher=lambda: base)
    training = training_of(technique.apply(model, context))
    assert training["loss_best"] < 0.9 * training["loss_start"]
    # The loss is the forward KL divergence from the base, in torch's own words.
    ids = torch.stack(context.data.validation)
    with torch.no_grad():
        ours, theirs = (one.module(input_ids=ids).logits[:, :-1].log_softmax(-1) for one in (model, base))
    divergence = torch.nn.functional.kl_div(ours, theirs, log_target=True, reduction="sum") / ids[:, 1:].numel()
    assert training["loss_best"] == pytest.approx(float(divergence), rel=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_removed_weights_stay_zero(tmp_path, grid):
    model = tiny_model(tmp_path)
    Magnitude(ratio=0.5).apply(model, counting())
    masks = {name: removed(layer) for name, layer in model.targets().items()}
    report = QAT(**SHORT | {"weight_decay": 0.1}, bits=4, grid=grid).apply(model, counting())
    for name, layer in model.targets().items():
        assert bool((layer.weight[masks[name]] == 0).all())
        assert torch.equal(removed(layer), masks[name])
    assert all(layer.zeros >= int(masks[layer.name].sum()) for layer in report.layers)


def test_removed_weights_come_back_where_they_are_ordinary_ones(tmp_path):
    model = tiny_model(tmp_path)
    Magnitude(ratio=0.5).apply(model, counting())
    zeros = sum(zero_count(layer) for layer in model.targets().values())
    QAT(**SHORT, bits=8, preserve_sparsity=False).apply(model, counting())
    assert sum(zero_count(layer) for layer in model.targets().values()) < zeros / 2
    assert all(removed(layer) is None or bool((layer.weight[removed(layer)] == 0).all()) for layer in targets(model))


def targets(model):
    return list(model.targets().values())


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize(("grid", "group_size"), [("asymmetric", 8), ("minimum", None), ("symmetric", 4)])
def test_the_plan_has_the_shapes_and_bytes_of_what_it_leaves(tmp_path, family, grid, group_size):
    source = random_model(family, str(tmp_path))
    skeleton, model = source.skeleton().copy(), source.load(torch.float32, CPU)
    technique = QAT(bits=3, grid=grid, group_size=group_size)
    planned = technique.plan(skeleton)
    with technique.fake_quantized(model) as layers:
        pass
    pack(model, layers)
    shapes = [
        {name: (layer.settings, {part: one.shape for part, one in layer.storage.items()}) for name, layer in forms}
        for forms in (packed_layers(skeleton.module).items(), packed_layers(model.module).items())
    ]
    assert shapes[0] == shapes[1] and shapes[0]
    sizes = [Size().measure(one, None).values for one in (skeleton, model)]
    for field in ("parameters", "weight_bytes", "bits_per_weight", "compression_factor"):
        assert sizes[0][field] == sizes[1][field], field
    assert planned.notes["bits_per_weight"] == sizes[1]["bits_per_weight"]


def test_a_limit_of_minutes_pauses_and_the_same_stage_ends_at_the_same_bits(tmp_path):
    four_steps = SHORT | {"tokens": 16 * 4 * 4, "bits": 3}
    whole = tiny_model(tmp_path)
    wanted = training_of(QAT(**four_steps).apply(whole, counting()))
    pauses, report = 0, None
    while report is None:
        model = tiny_model(tmp_path)
        try:
            report = QAT(**four_steps, max_minutes=1e-6).apply(model, counting(work_dir=tmp_path / "work"))
        except TrainingPaused:
            pauses += 1
            assert not linear_forms(model.module)
            assert not any(isinstance(layer, FakeQuantizedLinear) for layer in targets(model))
    assert pauses == 3
    assert training_of(report)["loss_best"] == wanted["loss_best"]
    assert weights_digest(model) == weights_digest(whole)


def test_a_loss_that_is_no_number_ends_training_at_the_best_weights(tmp_path, monkeypatch):
    model, context = tiny_model(tmp_path), counting()
    plain = StageTrainer.training_step

    def poisoned(self, *given):
        if self.state.global_step == 5:
            model.targets()["model.layers.1.mlp.down_proj"].weight.data[0, 0] = torch.nan
        return plain(self, *given)

    monkeypatch.setattr(StageTrainer, "training_step", poisoned)
    training = training_of(QAT(**SHORT, bits=3).apply(model, context))
    assert training["stopped"] == "the loss is not finite at step 6, first in model.layers.1.mlp.down_proj"
    assert training["step_best"] == 4
    assert validation_loss(model, context) == pytest.approx(training["loss_best"], abs=1e-5)


def test_what_is_packed_already_is_unpacked_trained_and_packed_anew(tmp_path):
    model = tiny_model(tmp_path)
    RTN(bits=8, grid="minimum", group_size=4).apply(model, counting())
    training = training_of(QAT(**SHORT, bits=4).apply(model, counting()))
    assert training["loss_best"] < training["loss_start"]
    assert {(layer.kind, layer.settings["grid"], layer.settings["group_size"]) for layer in targets(model)} == {
        ("integer", "asymmetric", 8)
    }


def test_chains_of_pruning_and_qat_are_planned_as_they_are_stored(tmp_path):
    source = random_model("llama", str(tmp_path))
    skeleton, model = source.skeleton().copy(), source.load(torch.float32, CPU)
    for one in (skeleton, model):
        apply_or_plan(Magnitude(ratio=0.5), one)
    planned, real = QAT(**SHORT).plan(skeleton), QAT(**SHORT).apply(model, counting())
    assert [layer.name for layer in planned.layers] == [layer.name for layer in real.layers]
    assert all(one.zeros <= other.zeros for one, other in zip(planned.layers, real.layers, strict=True))


def test_faults_come_together_and_adapters_are_no_part_of_it(tmp_path):
    with pytest.raises(ValueError) as caught:
        QAT(bits=5, teacher="chain")
    assert "bits=5: give 2, 3, 4 or 8" in str(caught.value)
    assert "teacher='chain': give base, or null for the labels of the data" in str(caught.value)
    with pytest.raises(ValueError, match="batch_sequences=0"):
        QAT(batch_sequences=0)
    with pytest.raises(TypeError, match="rank"):
        QAT(rank=8)
    [fault] = QAT(group_size=7).faults(random_model("llama", str(tmp_path)).skeleton())
    assert fault.startswith("group_size=7 does not divide the input width of ")
    adapted = tiny_model(tmp_path)
    LoRA(rank=2, merge=False, tokens=64, batch_sequences=4, evaluations=1).apply(adapted, counting())
    [fault] = QAT(group_size=8).faults(adapted)
    assert "stored in another form" in fault and "adapter" in fault


def perplexity_of(model, windows) -> float:
    with torch.no_grad():
        logits = model.module(input_ids=windows).logits[:, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).exp())


@pytest.mark.parametrize(
    ("bits", "seed"),
    [(3, 0), *(pytest.param(bits, seed, marks=pytest.mark.slow) for bits, seed in ((3, 1), (3, 2), (2, 0)))],
)
def test_it_beats_rtn_on_a_trained_model(stories260k_source, shared, tmp_path, bits, seed):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()
    (tmp_path / "train.txt").write_text(text[20_000:100_000])
    data = TrainingText(corpus="text", path=str(tmp_path / "train.txt"), tokens=64, validation=8)
    examples = data.examples(stories260k_source, Corpora(None, tmp_path))
    models = [stories260k_source.load(torch.float32, CPU) for _ in range(2)]
    RTN(bits=bits, group_size=None).apply(models[0], StageContext())
    technique = QAT(bits=bits, group_size=None, tokens=10_000, learning_rate=1e-3, evaluations=2)
    technique.apply(models[1], StageContext(data=examples, seed=seed))
    windows = torch.tensor(models[0].tokenizer(text[:20_000])["input_ids"][: 16 * 128]).view(16, 128)
    rounded, trained = (perplexity_of(model, windows) for model in models)
    assert trained < (0.75 if bits == 3 else 0.3) * rounded
