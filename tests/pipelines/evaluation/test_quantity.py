"""Targets of a quantity that a network is trained on."""

import pytest
import torch

from pipelines.evaluation.learning import _standardised


def test_targets_do_not_depend_on_the_unit_and_what_never_varies_is_0() -> None:
    known = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.3, 0.0]) + 5
    found = _standardised(known)
    assert torch.equal(found[:, 2], torch.zeros(50))
    torch.testing.assert_close(found[:, :2].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, :2].std(0), torch.ones(2), atol=1e-5, rtol=0)
    for unit in (2.0**-40, 2.0**40):  # nanometres for metres, say
        assert torch.equal(_standardised(known * unit), found)


def test_rounding_of_a_constant_is_no_target() -> None:
    known = torch.full((7, 1), 0.1)
    known[3] = torch.nextafter(known[3], known[3] + 1)
    assert _standardised(known).abs().max() == pytest.approx(0)
