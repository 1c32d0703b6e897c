"""The size of pictures, and what a crop shows of them."""

from typing import Any

import pytest
import torch

from modalities import Window
from modalities.common.picture import resize_crop
from modalities.common.random import generator
from modalities.rgb import Rgb


def test_without_a_size_a_view_is_a_square_of_64_pixels_and_says_so() -> None:
    assert Rgb().size == 64 and Rgb().shape == (3, 64, 64)
    assert Rgb() == Rgb(size=64) != Rgb(height=64, width=64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 64, "height": 48, "width": 64},
         "either size, for a square, or both height and width, got size=64, height=48, width=64"),
        ({"size": 64, "width": 48}, "got size=64, width=48"),
        ({"height": 48}, "either size, for a square, or both height and width, got height=48"),
        ({"width": 48}, "got width=48"),
        ({"height": 48, "width": 0}, "width must be from 1 to inf, got 0"),
    ],
)  # fmt: skip
def test_a_size_is_one_number_or_both_height_and_width(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rgb(**options)


def test_height_and_width_are_not_mistaken_for_each_other() -> None:
    signal = torch.rand(1, 6, 8, generator=generator("picture"))

    halved = resize_crop(signal, Window(), (3, 4))

    torch.testing.assert_close(halved.mean((1, 2)), signal.mean((1, 2)), atol=0.05, rtol=0)
    picked = resize_crop(signal, Window(top=0.5, left=0.25, height=0.5, width=0.5), (3, 4), nearest=True)
    assert torch.equal(picked, signal[:, 3:, 2:6])
