import math

import pytest

from slimsweep.evaluation.accuracy import Accuracy
from slimsweep.evaluation.base import Measurement
from slimsweep.evaluation.cost import Cost
from slimsweep.evaluation.memory import Memory
from slimsweep.evaluation.perplexity import Perplexity
from slimsweep.evaluation.semi_structured import SemiStructured
from slimsweep.evaluation.size import Size
from slimsweep.evaluation.speed import Speed


def test_numbers_that_are_not_finite_become_null_with_a_reason():
    measurement = Measurement({"a": math.inf, "b": math.nan, "c": 1.0, "d": 3}, {"a": "overflowed"})
    assert measurement.values == {"a": None, "b": None, "c": 1.0, "d": 3}
    assert measurement.reasons == {"a": "overflowed", "b": "not finite: nan"}


def test_a_null_always_has_a_reason():
    assert Measurement({"a": None}).reasons == {"a": "not measured"}


@pytest.mark.parametrize(
    ("metric", "tokens"),
    [
        (Perplexity(corpora="ptb", context_tokens=512), 2048),
        (Perplexity(corpora="ptb", context_tokens=4096), 4096),
        (Perplexity(corpora="ptb", context_tokens=512, batch_tokens=600), 600),
        (Accuracy(tasks="sentiment"), 2048),
        (Accuracy(tasks="sentiment", batch_tokens=256), 256),
        (Memory(tokens=300), 300),
        (Speed(prompt_tokens=64, new_tokens=8), 64),
        (SemiStructured(prompt_tokens=128), 128),
        (Cost(tokens=64), 0),
        (Size(), 0),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_a_metric_tells_what_its_largest_forward_takes(metric, tokens):
    assert metric.working_bytes(10) == 10 * tokens
