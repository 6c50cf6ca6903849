import pytest

from slimsweep.techniques.training.finetune import Finetune


def test_a_budget_in_tokens_or_epochs_gives_steps():
    assert Finetune(tokens=1000, batch_sequences=4).steps([50] * 100) == 5
    assert Finetune(tokens=1, batch_sequences=4).steps([50] * 100) == 1
    assert Finetune(tokens=None, epochs=2, batch_sequences=4).steps([50] * 10) == 5
    assert Finetune(tokens=None, epochs=0.1, batch_sequences=4).steps([50] * 100) == 2


def test_forwards_of_a_step():
    assert Finetune(batch_sequences=8, micro_sequences=2).forwards == 4
    assert Finetune(batch_sequences=8).forwards == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tokens": None}, "give one of them, and null for the other"),
        ({"epochs": 1}, "give one of them"),
        ({"tokens": None, "epochs": 0}, "epochs=0"),
        ({"micro_sequences": 3}, "does not divide batch_sequences=8"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"warmup_fraction": 1}, "warmup_fraction=1"),
        ({"decay": "step"}, "cosine, linear or constant"),
        ({"max_minutes": -1}, "max_minutes=-1"),
        ({"patience": 0, "evaluations": 0}, "evaluations=0.*; patience=0"),
    ],
)
def test_bad_values_are_told(fields, words):
    with pytest.raises(ValueError, match=words):
        Finetune(**fields)


def test_what_decides_no_result_is_in_no_key():
    from slimsweep.pipeline.keys import identity

    plain = identity(Finetune())
    assert identity(Finetune(max_minutes=5)) == plain != identity(Finetune(micro_sequences=4))  # sums round otherwise
    assert identity(Finetune(learning_rate=0.5))["fields"] == {"learning_rate": 0.5}


def test_the_trainers_arguments_are_those_of_the_schedule(tmp_path):
    schedule = Finetune(batch_sequences=8, micro_sequences=2, evaluations=4, warmup_fraction=0.1)
    arguments = schedule.arguments(40, tmp_path, 3, "cpu", False)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (2, 4)
    assert (arguments.max_steps, arguments.eval_steps, arguments.save_steps, arguments.warmup_steps) == (40, 10, 10, 4)
    assert arguments.seed == 3 and arguments.use_cpu and not arguments.bf16 and arguments.report_to == []
