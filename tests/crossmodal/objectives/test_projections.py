"""Layers that heads are made of."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from crossmodal.encoders import Features
from crossmodal.objectives.common.projections import BatchNorm, ProjectionHeads


def test_heads_are_linear_and_of_unit_length_with_the_gradients_of_that() -> None:
    heads = ProjectionHeads(3, 2, 4).double()
    given = [torch.randn(5, dim, dtype=torch.float64, requires_grad=True) for dim in (3, 2)]
    with torch.no_grad():
        heads.teacher.bias.zero_()
        given[1][0] = 0.0  # has no direction, and stays where it is
    ours = heads(*(Features(item, (), None) for item in given))
    theirs = [F.normalize(head(item)) for head, item in zip((heads.student, heads.teacher), given, strict=True)]
    slopes = [torch.randn(5, 4, dtype=torch.float64) for _ in ours]
    wanted = (*given, *heads.parameters())
    grads = [torch.autograd.grad(found, wanted, slopes) for found in (ours, theirs)]
    for found, expected in zip((*ours, *grads[0]), (*theirs, *grads[1]), strict=True):
        torch.testing.assert_close(found, expected)


def test_batch_norm_is_torchs_in_training() -> None:
    ours, theirs = BatchNorm(3).double(), nn.BatchNorm2d(3).double()
    batch = torch.randn(4, 3, 5, 2, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
            norm.bias.copy_(torch.tensor([0.0, -1.0, 3.0]))
    torch.testing.assert_close(ours(batch), theirs(batch))
    grads = [torch.autograd.grad(norm(batch).pow(3).sum(), (batch, norm.weight, norm.bias)) for norm in (ours, theirs)]
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("rows", [1, 3])
def test_batch_norm_of_what_is_the_same_is_its_bias(rows: int) -> None:
    assert torch.equal(BatchNorm(2)(torch.full((rows, 2, 1, 1), 7.0)), torch.zeros(rows, 2, 1, 1))
