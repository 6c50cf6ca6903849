import dataclasses

import pytest
import torch
from family_shapes import DECODERS, ENCODERS, random_model
from small_stacks import alone, encoder_decoder, pairs
from torch import nn

from slimsweep.blockwise.activations import Activations, Part
from slimsweep.blockwise.block_calls import Call
from slimsweep.blockwise.block_trainer import (
    BlockInputs,
    Descent,
    Reconstruction,
    SignDescent,
    block_inputs,
    inverse_squares,
    train,
)
from slimsweep.errors import ModelError
from slimsweep.models.batches import text_batch

CPU = torch.device("cpu")


def ids(sequences=5, tokens=12):
    return torch.randint(4, 250, (sequences, tokens), generator=torch.Generator().manual_seed(0))


def padded(sequences=5, tokens=12):
    """Sequences of different lengths, padded on the right with tokens that are no padding elsewhere."""
    lengths = torch.arange(tokens - sequences, tokens) + 1
    return {"input_ids": ids(sequences, tokens), "attention_mask": (torch.arange(tokens) < lengths[:, None]).long()}


def recorded(model, batch, monkeypatch, tokens=24, stop=None):
    """Each block's inputs, copied, and its outputs; two sequences of twelve tokens run at once."""
    monkeypatch.setattr("slimsweep.blockwise.activations.batch_tokens", lambda _: tokens)
    with torch.no_grad():
        activations = Activations(model, batch)
        for index in range(len(model.blocks[:stop])):
            inputs = block_inputs(model, activations, index, is_copied=True)
            activations.advance(index)
            yield Reconstruction(model.block_names[index], model.blocks[index], inputs, activations.hidden.clone())


def toy(inputs=None, targets=None, block=None):
    """A block of one linear layer without bias, and sequences that one call serves."""
    inputs = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(1)) if inputs is None else inputs
    block = block or nn.Linear(3, 3, bias=False)
    calls = [Call((), {})]
    parts = [Part(part, calls, len(part)) for part in inputs.split(2)]
    goal = torch.randn(3, 3, generator=torch.Generator().manual_seed(2))
    return Reconstruction("toy", block, BlockInputs(inputs, parts, 0), inputs @ goal.T if targets is None else targets)


def fit(task, descent, start=None, changed=lambda values: values, seed=0, **rest):
    start = {"weight": torch.zeros(3, 3)} if start is None else start
    return train(task, start, changed, descent, torch.Generator().manual_seed(seed), **rest)


@pytest.mark.parametrize("is_padded", [True, False])
@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_drawn_sequences_have_the_outputs_they_have_among_all(family, is_padded, tmp_path, monkeypatch):
    model = random_model(family, str(tmp_path)).load(torch.float32, CPU)
    batch = padded() if is_padded else text_batch(ids())
    for task in recorded(model, batch, monkeypatch):
        for chosen in ([0], [3, 1], [4, 0, 2], [0, 1, 2, 3, 4]):
            assert task.loss({}, torch.tensor(chosen)) < 1e-10


@pytest.mark.parametrize("name", ["bart", "t5", "t5_gated"])
def test_drawn_pairs_have_the_outputs_they_have_among_all(name, tmp_path, monkeypatch):
    model, batch = encoder_decoder(name, tmp_path), pairs([7, 4, 9, 3], [3, 6, 5, 2])
    tasks = list(recorded(model, batch, monkeypatch, tokens=18))
    assert len(tasks) == 5
    for task in tasks:
        for chosen in ([1], [3, 0], [2, 1, 0]):
            assert task.loss({}, torch.tensor(chosen)) < 1e-8 * float(task.targets.square().mean())


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_padding_does_not_count_in_the_loss(name, tmp_path, monkeypatch):
    model, batch = encoder_decoder(name, tmp_path), pairs()
    halved = {f"{part}.weight": layer.weight.detach() / 2 for part, layer in model.linears(model.blocks[3]).items()}
    together = list(recorded(model, batch, monkeypatch))[3]
    total = numbers = 0
    for place in range(3):
        task = list(recorded(model, alone(batch, place), monkeypatch))[3]
        total += task.loss(halved, torch.tensor([0])) * task.targets.numel()
        numbers += task.targets.numel()
    assert together.loss(halved, torch.arange(3)) == pytest.approx(total / numbers, rel=1e-4)


def test_gradients_of_padded_parts_equal_those_of_the_sequences_alone(tiny, monkeypatch):
    batch = padded(3)
    together = next(recorded(tiny, batch, monkeypatch))
    weights = {name: value.detach() / 2 for name, value in tiny.blocks[0].named_parameters() if "proj" in name}
    loss, slopes = together.gradients(weights, torch.tensor([2, 0]))
    total, numbers = dict.fromkeys(weights, 0), 0
    for place in (0, 2):
        length = int(batch["attention_mask"][place].sum())
        task = next(recorded(tiny, text_batch(batch["input_ids"][place : place + 1, :length]), monkeypatch))
        _, part = task.gradients(weights, torch.tensor([0]))
        numbers += task.targets.numel()
        total = {name: total[name] + slope * task.targets.numel() for name, slope in part.items()}
    for name, slope in slopes.items():
        assert torch.allclose(slope, total[name] / numbers, rtol=1e-3, atol=1e-7), name
    assert loss > 0


def test_rows_are_the_tokens_without_padding(tiny, monkeypatch):
    batch = padded(3)
    task = next(recorded(tiny, batch, monkeypatch))
    assert len(task.inputs.rows()) == int(batch["attention_mask"].sum())
    assert len(next(recorded(tiny, text_batch(ids(3)), monkeypatch)).inputs.rows()) == 36


def test_loss_and_gradient_by_hand():
    # Outputs 2 and 4 for targets 0: loss (4 + 16) / 2, slope of the weight 2 (2 x 1 + 4 x 2) / 2.
    inputs = torch.tensor([[[1.0], [2.0]]])
    task = toy(inputs, torch.zeros(1, 2, 1), nn.Linear(1, 1, bias=False))
    loss, slopes = task.gradients({"weight": torch.tensor([[2.0]])}, torch.tensor([0]))
    assert loss == 10 == task.loss({"weight": torch.tensor([[2.0]])}, torch.tensor([0]))
    assert slopes["weight"].item() == 10
    assert task.gradients({"weight": torch.tensor([[2.0]])}, torch.tensor([0]), 8.0)[1]["weight"].item() == 80


def test_sign_descent_with_a_falling_rate_by_hand():
    # The goal is far: four steps of 1/4, 3/16, 2/16 and 1/16 towards it.
    task = toy(torch.ones(2, 1, 1), torch.full((2, 1, 1), 100.0), nn.Linear(1, 1, bias=False))
    trained = fit(task, Descent.by_sign(4, 2, 0.25), {"weight": torch.zeros(1, 1)})
    assert trained.parameters["weight"].item() == 0.25 * (1 + 0.75 + 0.5 + 0.25)
    assert (trained.loss_before, trained.loss_after) == (10000, (100 - 0.625) ** 2)
    assert trained.kept_step == 4


def test_a_slope_of_zero_moves_nothing():
    value = torch.tensor([1.0, 1.0, 1.0], requires_grad=True)
    value.grad = torch.tensor([-3.0, 0.0, 1e-30])
    SignDescent([value], lr=0.5).step()
    assert value.tolist() == [1.5, 1.0, 0.5]


@pytest.mark.parametrize("descent", [Descent.by_sign(60, 2, 0.1), Descent.by_adam(60, 2, 0.1)])
def test_the_loss_falls_and_is_that_of_what_is_kept(descent):
    task = toy()
    trained = fit(task, descent)
    assert trained.loss_after < 0.05 * trained.loss_before
    assert trained.loss_after == task.loss(trained.parameters, torch.arange(6))
    assert trained.notes().keys() == {"before", "after", "kept_step"}


def test_it_is_never_worse_than_the_start():
    task, start = toy(), {"weight": torch.randn(3, 3, generator=torch.Generator().manual_seed(2))}  # the goal itself
    trained = fit(task, Descent.by_sign(5, 2, 1.0), start)
    assert trained.kept_step == 0
    assert trained.loss_after == trained.loss_before < 1e-12
    assert torch.equal(trained.parameters["weight"], start["weight"])


def test_no_steps_leave_the_start():
    start = {"weight": torch.ones(3, 3)}
    trained = fit(toy(), Descent.by_adam(0, 2, 0.1), start)
    assert trained.parameters["weight"] is start["weight"]
    assert trained.loss_after == trained.loss_before


def test_the_generator_draws_the_sequences():
    found = [fit(toy(), Descent.by_sign(9, 2, 0.1), seed=seed).parameters["weight"] for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_batch_of_more_sequences_than_there_are_takes_all_of_them():
    found = [fit(toy(), Descent.by_sign(9, size, 0.1), seed=size).parameters["weight"] for size in (6, 100)]
    assert torch.allclose(*found)  # the order of their parts alone may differ


def test_parameters_stay_in_their_bounds():
    trained = fit(toy(), Descent.by_sign(20, 3, 0.5), project=lambda values: values["weight"].clamp_(-0.1, 0.2))
    assert trained.parameters["weight"].min() >= -0.1
    assert trained.parameters["weight"].max() <= 0.2


def test_a_loss_that_is_not_finite_ends_the_training_and_the_best_so_far_stays():
    calls = []

    def changed(values):
        calls.append(1)
        return {"weight": values["weight"] * (float("nan") if len(calls) == 5 else 1)}

    trained = fit(toy(), Descent.by_sign(20, 6, 0.1), changed=changed)  # one call for the start, then one a step
    assert trained.failed_step == 3
    assert trained.notes()["failed_step"] == 3
    assert trained.loss_after < trained.loss_before
    assert trained.parameters["weight"].isfinite().all()


def test_a_start_that_is_not_finite_is_an_error_that_names_the_block():
    with pytest.raises(ModelError, match="The block loss of toy is not finite before the first step"):
        fit(toy(), Descent.by_sign(1, 2, 0.1), {"weight": torch.full((3, 3), float("inf"))})


def test_half_precision_learns_from_small_slopes():
    task = dataclasses.replace(toy(), block=nn.Linear(3, 3, bias=False).to(torch.bfloat16))
    inputs = dataclasses.replace(task.inputs, hidden=task.inputs.hidden.bfloat16())
    task = dataclasses.replace(task, inputs=inputs, targets=task.targets.bfloat16())
    changed = lambda values: {"weight": values["weight"].to(torch.bfloat16)}  # noqa: E731
    trained = fit(task, Descent.by_sign(60, 3, 0.1), changed=changed)
    assert trained.loss_after < 0.05 * trained.loss_before


def test_slopes_below_the_least_fp16_number_train_too():
    # Inputs of 1e-4 and errors of 1e-4: slopes of 2e-8 / 3 are 0 in fp16, whose least number is 6e-8.
    inputs, targets = torch.full((6, 4, 3), 1e-4).half(), torch.full((6, 4, 3), 1e-4).half()
    task = toy(inputs, targets, nn.Linear(3, 3, bias=False).half())
    start = {"weight": torch.zeros(3, 3).half()}
    assert not task.gradients(start, torch.arange(6))[1]["weight"].any()
    trained = fit(task, Descent.by_sign(20, 6, 0.05), changed=lambda values: {"weight": values["weight"].half()})
    assert trained.loss_after < 0.2 * trained.loss_before


def test_weights_themselves_are_trained_behind_a_mask():
    """Regional optimization in a few lines: the weights of a pruned block, its removed ones staying zero."""
    task, keep = toy(), torch.tensor([[1.0, 1, 0], [0, 1, 1], [1, 1, 1]])
    start = {"weight": keep * 0.1}
    trained = fit(task, Descent.by_adam(80, 3, 0.1), start, lambda values: {"weight": values["weight"] * keep})
    assert trained.loss_after < trained.loss_before
    assert bool(((trained.parameters["weight"] * keep)[keep == 0] == 0).all())


def test_token_weights_by_hand():
    # Errors 1 and 3 of targets 1 and 10: relative errors 1 and 0.09; a target of zeros counts as the least.
    targets = torch.tensor([[[1.0], [10.0], [0.0]]])
    weights = inverse_squares(targets)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.01, 1000.0]]))
    assert inverse_squares(torch.zeros(1, 2, 1)).tolist() == [[1.0, 1.0]]
    inputs = torch.tensor([[[2.0], [7.0], [0.0]]])
    task = dataclasses.replace(toy(inputs, targets, nn.Linear(1, 1, bias=False)), token_weights=weights)
    everything, weight = torch.tensor([0]), {"weight": torch.tensor([[1.0]])}
    assert task.loss(weight, everything) == pytest.approx((1 + 0.09) / 3)
    loss, slopes = task.gradients(weight, everything)
    assert loss == pytest.approx((1 + 0.09) / 3)
    assert float(slopes["weight"]) == pytest.approx((2 * 1 * 2 + 2 * 0.01 * -3 * 7) / 3, rel=1e-5)
