import torch
from tiny_training import text_batch_of, tiny_llama

from slimsweep.techniques.training.objective import TaskLoss


def test_the_task_loss_is_that_of_the_task_and_trains_no_more_modules(tmp_path):
    model = tiny_llama(tmp_path)
    batch = text_batch_of([torch.arange(8), torch.arange(8, 16)])
    objective = TaskLoss()
    assert torch.equal(objective.loss(model, batch), model.task.loss(model.module, batch))
    assert objective.modules is None
