import json

import pytest
import torch
from family_shapes import random_model
from tiny_training import FAST, counting_windows, tiny_llama, training_context

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.data.training import TrainingSet, padded_batch
from slimsweep.errors import TrainingError, TrainingPaused
from slimsweep.linear.mask import removed
from slimsweep.models.language_model import weights_digest
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.training import objective
from slimsweep.techniques.training.finetune import Finetune
from slimsweep.techniques.training.trainer import StageTrainer


def account(report) -> dict:
    return report.notes["training"]


def stable(training: dict) -> dict:
    """An account without what differs between two runs."""
    return {name: value for name, value in training.items() if name not in ("seconds", "peak_memory_bytes")}


def test_training_lowers_the_loss_and_tells_what_it_did(tmp_path):
    model = tiny_llama(tmp_path)
    training = account(Finetune(**FAST).apply(model, training_context(model)))
    assert training["steps"] == training["planned_steps"] == 12
    assert training["tokens"] == 12 * 4 * 16
    assert [entry["step"] for entry in training["curve"]] == [0, 4, 8, 12]
    assert training["loss_best"] < training["loss_start"] - 0.2
    assert training["loss_start"] == training["curve"][0]["validation_loss"]
    assert training["trained_parameters"] == sum(one.numel() for one in model.module.parameters())
    assert training["stopped"] is None and training["peak_memory_bytes"] > 0
    assert not model.module.training and not any(one.requires_grad for one in model.module.parameters())


def test_equal_seeds_train_equal_weights_and_others_do_not(tmp_path):
    digests = []
    for seed in (0, 0, 1):
        model = tiny_llama(tmp_path)
        Finetune(**FAST).apply(model, training_context(model, seed))
        digests.append(weights_digest(model))
    assert digests[0] == digests[1] != digests[2]


def test_several_forwards_of_a_step_equal_one(tmp_path):
    losses = []
    for micro in (None, 2, 1):
        model = tiny_llama(tmp_path)
        losses.append(account(Finetune(**FAST, micro_sequences=micro).apply(model, training_context(model))))
    assert losses[1]["loss_end"] == pytest.approx(losses[0]["loss_end"], abs=1e-4)
    assert losses[2]["curve"][1]["loss"] == pytest.approx(losses[0]["curve"][1]["loss"], abs=1e-4)


def test_a_step_of_similar_lengths_is_padded_less(tmp_path, monkeypatch):
    read, plain = [], StageTrainer.training_step

    def reading(self, model, inputs, *given):
        read.append(inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])))
        return plain(self, model, inputs, *given)

    monkeypatch.setattr(StageTrainer, "training_step", reading)
    padded = {}
    for grouped in (False, True):
        model, read[:] = tiny_llama(tmp_path), []
        windows = [window[: 2 + place % 15].tolist() for place, window in enumerate(counting_windows(32, 200))]
        windows = [{"input_ids": window, "labels": window} for window in windows]
        data = TrainingSet(windows[:-8], windows[-8:], lambda rows: padded_batch(rows, 0), "of many lengths")
        Finetune(epochs=1, tokens=None, batch_sequences=4, evaluations=1, group_lengths=grouped).apply(
            model, StageContext(data=data)
        )
        assert sum(int(mask.sum()) for mask in read) == sum(
            len(window["input_ids"]) for window in windows[:-8]
        )  # each once
        padded[grouped] = sum(int((mask == 0).sum()) for mask in read)
    assert padded[True] < padded[False] / 3


def test_activations_computed_again_change_nothing(tmp_path):
    ends = []
    for again in (False, True):
        model = tiny_llama(tmp_path)
        report = Finetune(**FAST, checkpoint_blocks=again).apply(model, training_context(model))
        ends.append(account(report)["loss_end"])
    assert ends[0] == pytest.approx(ends[1], abs=1e-5)


@pytest.mark.parametrize(
    ("killed_at", "grouped"), [(1, False), (3, False), (4, False), (6, False), (11, False), (6, True), (11, True)]
)
def test_a_killed_run_goes_on_and_ends_at_the_same_bits(tmp_path, monkeypatch, killed_at, grouped):
    technique = Finetune(**FAST, group_lengths=grouped)  # steps 11 and 12 are of the second epoch
    undisturbed = tiny_llama(tmp_path)
    whole = account(technique.apply(undisturbed, training_context(undisturbed)))
    plain = StageTrainer.training_step

    def dying(self, *given):
        if self.state.global_step == killed_at:
            raise KeyboardInterrupt
        return plain(self, *given)

    monkeypatch.setattr(StageTrainer, "training_step", dying)
    folder, model = tmp_path / "work", tiny_llama(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        technique.apply(model, training_context(model, work_dir=folder))
    monkeypatch.setattr(StageTrainer, "training_step", plain)
    model = tiny_llama(tmp_path)
    resumed = account(technique.apply(model, training_context(model, work_dir=folder)))
    assert stable(resumed) == stable(whole)
    assert weights_digest(model) == weights_digest(undisturbed)


def test_a_half_written_checkpoint_is_left_out(tmp_path, monkeypatch):
    folder, model = tmp_path / "work", tiny_llama(tmp_path)
    Finetune(**FAST).apply(model, training_context(model, work_dir=folder))
    last = max(folder.glob("checkpoint-*"), key=lambda one: int(one.name[11:]))
    (last / "stage.json").unlink()
    model = tiny_llama(tmp_path)
    training = account(Finetune(**FAST).apply(model, training_context(model, work_dir=folder)))
    assert training["steps"] == 12 and [entry["step"] for entry in training["curve"]] == [0, 4, 8, 12]


def test_a_limit_of_minutes_pauses_and_the_same_stage_goes_on(tmp_path):
    whole_model = tiny_llama(tmp_path)
    whole = account(Finetune(**FAST).apply(whole_model, training_context(whole_model)))
    folder, model, pauses = tmp_path / "work", tiny_llama(tmp_path), 0
    while True:
        try:
            model = tiny_llama(tmp_path)
            report = Finetune(**FAST, max_minutes=1e-6).apply(model, training_context(model, work_dir=folder))
            break
        except TrainingPaused as pause:
            pauses += 1
            assert f"paused at step {pauses} of 12" in str(pause)
    assert pauses == 11
    assert stable(account(report))["loss_end"] == whole["loss_end"]
    assert weights_digest(model) == weights_digest(whole_model)


def test_a_work_folder_of_another_run_is_refused(tmp_path):
    folder, model = tmp_path / "work", tiny_llama(tmp_path)
    Finetune(**FAST).apply(model, training_context(model, work_dir=folder))
    with pytest.raises(TrainingError, match="holds checkpoints of another run"):
        Finetune(**FAST).apply(model, training_context(model, seed=1, work_dir=folder))


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    model = tiny_llama(tmp_path)
    with pytest.raises(TrainingError, match="no checkpoint can be written to .*choose another cache_dir"):
        Finetune(**FAST).apply(model, training_context(model, work_dir=tmp_path / "file" / "work"))


def test_no_disk_for_a_checkpoint_is_told_with_the_step(tmp_path, monkeypatch):
    model = tiny_llama(tmp_path)

    def full(self, *given, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.Trainer._save_checkpoint", full)
    with pytest.raises(TrainingError, match="at step 4 .No space left on device.: free space"):
        Finetune(**FAST).apply(model, training_context(model, work_dir=tmp_path / "work"))


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    model = tiny_llama(tmp_path)
    with pytest.raises(TrainingError, match="has 40 training examples, fewer than batch_sequences=41"):
        Finetune(**FAST | {"batch_sequences": 41}).apply(model, training_context(model))


def test_a_loss_that_is_no_number_ends_training_at_the_best_weights(tmp_path, monkeypatch):
    model = tiny_llama(tmp_path)
    plain, layer = StageTrainer.training_step, model.blocks[1].mlp.down_proj

    def poisoned(self, *given):
        if self.state.global_step == 5:
            layer.weight.data[0, 0] = torch.nan
        return plain(self, *given)

    monkeypatch.setattr(StageTrainer, "training_step", poisoned)
    training = account(Finetune(**FAST).apply(model, training_context(model)))
    assert training["stopped"] == "the loss is not finite at step 6, first in model.layers.1.mlp.down_proj"
    assert training["step_best"] == 4 and training["loss_end"] is None
    assert all(bool(one.isfinite().all()) for one in model.module.parameters())
    json.dumps(training, allow_nan=False)


def test_a_model_that_is_broken_already_is_told_with_its_layer(tmp_path):
    model = tiny_llama(tmp_path)
    model.blocks[0].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(TrainingError, match="before the first step, first in model.layers.0.mlp.up_proj: the stages"):
        Finetune(**FAST).apply(model, training_context(model))


def test_a_rising_loss_ends_training_early(tmp_path):
    model = tiny_llama(tmp_path)
    harmful = FAST | {"learning_rate": 3.0, "evaluations": 12, "patience": 2, "decay": "constant"}
    before = weights_digest(model)
    training = account(Finetune(**harmful).apply(model, training_context(model)))
    assert training["steps"] < 12 and "2 evaluations in a row" in training["stopped"]
    if training["step_best"] == 0:
        assert weights_digest(model) == before


def test_removed_weights_stay_zero_and_zeros_by_value_do_not(tmp_path):
    model = tiny_llama(tmp_path)
    Magnitude(ratio=0.5, include=["*mlp*"]).apply(model, training_context(model))
    layers = model.targets()
    dense = layers["model.layers.0.self_attn.q_proj"]
    dense.weight.data[0] = 0
    Finetune(**FAST, weight_decay=0.1).apply(model, training_context(model))
    for name, layer in layers.items():
        mask = removed(layer)
        assert (mask is not None) == ("mlp" in name)
        if mask is not None:
            assert bool((layer.weight[mask] == 0).all()) and bool((layer.weight[~mask] != 0).any())
    assert bool((dense.weight[0] != 0).any())


def test_without_preserve_sparsity_removed_weights_come_back_and_leave_the_mask(tmp_path):
    model = tiny_llama(tmp_path)
    Magnitude(ratio=0.5).apply(model, training_context(model))
    Finetune(**FAST, preserve_sparsity=False).apply(model, training_context(model))
    for layer in model.targets().values():
        mask = removed(layer)
        assert int((layer.weight == 0).sum()) < 0.1 * layer.weight.numel()
        assert mask is None or bool((layer.weight[mask] == 0).all())


@pytest.mark.parametrize(("dtype", "products"), [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32)])
def test_all_weights_of_a_16_bit_model_are_trained_in_fp32_under_autocast(tmp_path, monkeypatch, dtype, products):
    model, seen, logits = random_model("llama", str(tmp_path)).load(dtype, torch.device("cpu")), set(), set()
    plain = objective.mean_nll
    monkeypatch.setattr(objective, "mean_nll", lambda *given: logits.add(given[0].dtype) or plain(*given))
    layer = model.blocks[0].mlp.up_proj
    layer.register_forward_hook(lambda one, _, output: seen.add((one.weight.dtype, output.dtype)))
    Finetune(**FAST).apply(model, training_context(model))
    assert seen == {(torch.float32, products)} and layer.weight.dtype == dtype
    assert logits == {products}  # the loss makes no fp32 copies of them
    assert "forward" not in vars(model.module)  # what comes after computes as a loaded model does
