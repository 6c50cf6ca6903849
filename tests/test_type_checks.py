"""The runtime type checks are at work in every test: on shapes, on plain functions and on dataclasses."""

import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from conftest import TINY_SHAPE
from jaxtyping import Float, TypeCheckError
from torch import Tensor
from type_checks import checked, has_shape

from slimsweep.models.sources.random import RandomModel
from slimsweep.numerics.masks import keep_highest, parse_pattern


def test_arguments_of_the_package_are_checked():
    with pytest.raises(TypeCheckError):
        keep_highest(torch.ones(2, 3), torch.ones(3, dtype=torch.long))  # one count for each of the two units
    with pytest.raises(BeartypeCallHintViolation):
        parse_pattern(24)
    with pytest.raises(TypeCheckError):
        RandomModel(name=5, shape=TINY_SHAPE, cache_dir="")


def test_results_are_checked():
    with pytest.raises(BeartypeCallHintViolation):
        checked(_number, None)(2)
    with pytest.raises(TypeCheckError):
        checked(_square, beartype)(torch.ones(2, 3))


def test_shapes_are_found_inside_other_annotations():
    shape = Float[Tensor, "row"]
    assert all(map(has_shape, (shape, shape | None, dict[str, tuple[shape, int]], "shape", list["shape"])))
    assert not any(map(has_shape, (int, str | None, Tensor, dict[str, list[Tensor]])))


def _number(value: int) -> str:
    return value


def _square(value: Float[Tensor, "row column"]) -> Float[Tensor, "row row"]:
    return value
