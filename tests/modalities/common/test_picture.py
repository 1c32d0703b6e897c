"""The size of pictures, and what a crop shows of them."""

from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from crossmodal.data.views import Crop
from modalities import CropBox
from modalities.common.picture import resize_crop
from modalities.common.random import generator
from modalities.depth import Depth
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

    halved = resize_crop(signal, CropBox(), (3, 4))

    torch.testing.assert_close(halved.mean((1, 2)), signal.mean((1, 2)), atol=0.05, rtol=0)
    picked = resize_crop(signal, CropBox(top=0.5, left=0.25, height=0.5, width=0.5), (3, 4), nearest=True)
    assert torch.equal(picked, signal[:, 3:, 2:6])


def rows_and_columns(height: int, width: int) -> torch.Tensor:
    """A picture whose pixels say where they are: row in the first channel, column in the second, from 1."""
    rows, columns = torch.meshgrid(torch.arange(1, height + 1), torch.arange(1, width + 1), indexing="ij")
    return torch.stack([rows, columns]).float()


def depth_of(picture: torch.Tensor, window: CropBox, **options: Any) -> torch.Tensor:
    """What a depth view, which picks pixels, sees of each channel."""
    view = Depth(**options)
    return torch.cat([view.adapt(channel[None], window) for channel in picture])


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        (48, 48, (1, 48), (9, 56)),  # the middle square of 48 x 64, as torchvision's CenterCrop(48)
        (48, 64, (1, 48), (1, 64)),
        (24, 32, (1, 48), (1, 64)),
        (16, 32, (9, 40), (1, 64)),  # the middle 32 rows
    ],
)
def test_a_whole_picture_shows_its_middle_region_of_the_view_s_proportions(height, width, rows, columns) -> None:
    picture = rows_and_columns(48, 64)

    seen = depth_of(picture, CropBox(), height=height, width=width)

    step = (rows[1] - rows[0] + 1) // height
    assert (seen[0, 0, 0] - rows[0]) * 2 in (step - 1, step) and (rows[1] - seen[0, -1, 0]) * 2 in (step - 1, step - 2)
    assert (seen[1, 0, 0] - columns[0]) * 2 in (step - 1, step)
    assert (seen[0].diff(dim=0) == step).all() and (seen[1].diff(dim=1) == step).all()  # not stretched either way


def test_torchvision_s_resize_and_centre_crop_see_the_same() -> None:
    picture = torch.rand(3, 60, 80, generator=generator("picture"))
    theirs = v2.functional.center_crop(v2.functional.resize(picture, [30], antialias=True), [30, 30])

    inside = (..., slice(1, -1))  # theirs resizes before it crops, so that the outermost columns see their neighbours
    torch.testing.assert_close(Rgb(size=30).adapt(picture, CropBox())[inside], theirs[inside], atol=1e-5, rtol=0)


def test_stretching_shows_the_whole_picture_in_a_square() -> None:
    seen = depth_of(rows_and_columns(48, 64), CropBox(), size=16, fit="stretch")

    assert (seen[0].diff(dim=0) == 3).all() and (seen[1].diff(dim=1) == 4).all()


@pytest.mark.parametrize("view", [(12, 16), (24, 32)])
def test_where_picture_and_view_have_the_same_proportions_both_fits_are_equal(view: tuple[int, int]) -> None:
    picture = torch.rand(3, 36, 48, generator=generator("picture"))
    window = Crop(scale=(0.2, 1.0), shift=0.1).draw(generator("window"))
    assert window.down != 0.5 and window.across != 0.5

    crop, stretch = (Rgb(height=view[0], width=view[1], fit=fit).adapt(picture, window) for fit in ("crop", "stretch"))

    assert torch.equal(crop, stretch)


def test_training_shows_every_part_of_a_wider_picture_and_nothing_outside_it() -> None:
    picture, crop = rows_and_columns(30, 60), Crop(scale=(0.3, 1.0), ratio=(1.0, 1.0))
    seen = [depth_of(picture, crop.draw(generator("look", i)), size=10)[1] for i in range(400)]

    columns = torch.stack(seen).flatten()
    assert columns.min() == 1 and columns.max() == 60
    left, right = ((columns <= 20).float().mean(), (columns > 40).float().mean())
    assert left > 0.15 and right > 0.15 and abs(left - right) < 0.05


def test_a_crop_that_leaves_the_region_over_the_picture_s_edge_shows_0_there_alone() -> None:
    picture, crop = rows_and_columns(30, 60), Crop(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, shift=0.2)
    for i in range(100):
        window = crop.draw(generator("look", i))
        seen = depth_of(picture, window, size=30)[1]
        lost = (seen[15] == 0).sum().item()
        beyond = max(0.0, -(window.across * 30 + 30 * window.left), window.across * 30 + 30 * window.left - 30)
        assert abs(lost - beyond) <= 1


@pytest.mark.parametrize("sides", [((24, 32), (48, 64)), ((20, 20), (40, 40))])
def test_aligned_views_of_one_width_over_height_see_the_same_places(sides) -> None:
    (small, large), crop = sides, Crop(scale=(0.3, 1.0))
    for i in range(20):
        window = crop.draw(generator("look", i))
        ours, theirs = (depth_of(rows_and_columns(120, 90), window, height=h, width=w) for h, w in (small, large))
        pooled = theirs.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).mean((2, 4))
        assert (pooled - ours).abs().max() <= 2.5  # pixels of 120 x 90


def test_an_unknown_fit_is_refused() -> None:
    view = Rgb()
    object.__setattr__(view, "fit", "squash")  # under test the type of the argument is refused before

    with pytest.raises(ValueError, match="fit must be one of crop, stretch, got 'squash'"):
        view.check_view()
