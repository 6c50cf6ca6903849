import torch
from tiny_training import FAST, text_batch_of, tiny_llama, training_context

from slimsweep.techniques.training.finetune import Finetune
from slimsweep.techniques.training.loop import train
from slimsweep.techniques.training.objective import TaskLoss
from slimsweep.techniques.training.trainer import StageTrainer, first_non_finite, last_checkpoint, token_count


def test_tokens_are_counted_without_padding_and_with_targets():
    ids = torch.zeros(2, 4, dtype=torch.long)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    assert token_count({"input_ids": ids}) == 8
    assert token_count({"input_ids": ids, "attention_mask": mask}) == 6
    assert token_count({"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids}) == 14


def test_the_first_layer_that_gives_no_number_is_named(tmp_path):
    model = tiny_llama(tmp_path)
    batch = text_batch_of([torch.arange(8)])
    assert first_non_finite(model, batch) == ""
    model.blocks[1].self_attn.v_proj.weight.data[0, 0] = torch.inf
    assert first_non_finite(model, batch) == ", first in model.layers.1.self_attn.v_proj"


def test_the_last_whole_checkpoint_is_found_and_parts_go(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step in (9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}" / "stage.json").write_text("{}")
    assert last_checkpoint(tmp_path).name == "checkpoint-10"
    assert not (tmp_path / "checkpoint-11").exists()


class ProjectedLoss(TaskLoss):
    """The loss of the task, and one of a module beside the model."""

    def __init__(self):
        self.modules = torch.nn.Linear(4, 4, bias=False)
        self.norms = []

    def loss(self, model, batch):
        gradient = self.modules.weight.grad
        self.norms.append(0.0 if gradient is None else float(gradient.norm()))
        return super().loss(model, batch) + self.modules.weight.square().sum()


def test_modules_of_an_objective_begin_each_step_without_gradients_and_learn(tmp_path):
    model, objective = tiny_llama(tmp_path), ProjectedLoss()
    before = objective.modules.weight.detach().clone()
    train(model, list(model.module.parameters()), objective, Finetune(**FAST), training_context(model))
    assert not any(objective.norms) and not torch.equal(objective.modules.weight, before)


def test_a_run_that_had_ended_early_trains_no_further(tmp_path, monkeypatch):
    harmful = FAST | {"learning_rate": 3.0, "evaluations": 12, "patience": 1, "decay": "constant"}
    model, folder = tiny_llama(tmp_path), tmp_path / "work"
    first = Finetune(**harmful).apply(model, training_context(model, work_dir=folder)).notes["training"]
    monkeypatch.setattr(StageTrainer, "training_step", None)  # a step more would fail
    model = tiny_llama(tmp_path)
    again = Finetune(**harmful).apply(model, training_context(model, work_dir=folder)).notes["training"]
    assert again["stopped"] == first["stopped"] and again["steps"] == first["steps"] < 12
