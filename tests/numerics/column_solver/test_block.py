import pytest
import torch

from slimsweep.numerics.column_solver.block import ColumnBlock


def test_tensors_of_a_block_must_agree_in_their_columns():
    weight, square = torch.zeros(3, 5), torch.eye(3)
    ColumnBlock(weight, weight > 0, weight.clone(), square, torch.ones(3))
    with pytest.raises(Exception, match="scale"):
        ColumnBlock(weight, weight > 0, weight.clone(), square, torch.ones(4))
