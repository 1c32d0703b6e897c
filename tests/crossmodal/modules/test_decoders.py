"""Decoders: sizes, standardised maps, and the sum that the linear one is."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossmodal.metrics.probe import FLOOR
from crossmodal.modules.decoders import NAMES, build_decoder
from modalities.common.random import generator

SIZES = [(6, 4, 6), (10, 2, 3), (3, 8, 12)]


def maps(batch: int = 3, name: str = "maps") -> list[Tensor]:
    random = generator("decoders", name)
    return [torch.randn(batch, *size, generator=random) * 3 + 5 for size in SIZES]


def built(name: str, outputs: int = 5):
    torch.manual_seed(0)
    return build_decoder(name, SIZES, outputs, width=12)


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_answers_at_the_finest_grid_and_trains_every_weight(name: str) -> None:
    decoder = built(name)
    answer = decoder(maps())
    assert answer.shape == (3, 5, 8, 12)
    (answer * torch.randn(answer.shape, generator=generator("weights"))).sum().backward()
    if name == "linear":
        assert all(weight.grad.abs().sum() > 0 for weight in decoder.parameters())
    assert all(weight.grad is not None for weight in decoder.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_every_map_matters_and_samples_do_not_mix(name: str) -> None:
    decoder = built(name)
    for weight in decoder.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    given = maps()
    whole = decoder(given)
    torch.testing.assert_close(decoder([each[1:2] for each in given]), whole[1:2])
    for number in range(len(SIZES)):
        changed = [
            each + torch.randn(each.shape, generator=generator("x")) * (place == number)
            for place, each in enumerate(given)
        ]
        assert (decoder(changed) - whole).abs().amax() > 1e-3


def test_maps_are_standardised_by_the_training_maps_in_pieces() -> None:
    decoder, given = built("linear"), maps(8)
    given[0][:, 2] = 7.0  # a channel that never varies
    decoder.measure([[each[:3] for each in given], [each[3:] for each in given]])
    for layer, picture in zip(decoder.standardise, given, strict=True):
        rows = picture.movedim(1, -1).flatten(0, 2)
        spread = rows.std(0, unbiased=False)
        torch.testing.assert_close(layer.centre, rows.mean(0))
        torch.testing.assert_close(layer.spread, spread.clamp(min=FLOOR * spread.mean().item()), atol=1e-4, rtol=1e-4)
    found = decoder.standardise[1](given[1])
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.square().mean((0, 2, 3)), torch.ones(10))


def test_maps_that_never_vary_are_only_centred() -> None:
    decoder = build_decoder("linear", [(2, 2, 2)], 3)
    decoder.measure([[torch.full((2, 2, 2, 2), 4.0)]])
    assert torch.equal(decoder.standardise[0](torch.full((1, 2, 2, 2), 5.0)), torch.ones(1, 2, 2, 2))


def test_the_linear_decoder_is_a_sum_of_resized_linear_maps() -> None:
    decoder, given = built("linear"), maps()
    for weight in decoder.parameters():
        torch.nn.init.normal_(weight)
    decoder.measure([given])
    expected = torch.zeros(3, 5, 8, 12)
    for layer, head, picture in zip(decoder.standardise, decoder.heads, given, strict=True):
        whole = F.interpolate(layer(picture), (8, 12), mode="bilinear", align_corners=False)
        expected += torch.einsum("oc,bchw->bohw", head.weight[:, :, 0, 0], whole)
        expected += 0 if head.bias is None else head.bias[:, None, None]
    torch.testing.assert_close(decoder(given), expected, atol=1e-4, rtol=1e-4)


def test_coarser_levels_of_the_pyramid_are_added_to_finer_ones() -> None:
    decoder, given = build_decoder("fpn", SIZES, 5, width=8), maps()
    levels: dict[int, Tensor] = {}
    enlarged = lambda picture, size: F.interpolate(picture, size, mode="bilinear", align_corners=False)  # noqa: E731
    for number, coarser in ((1, None), (0, 1), (2, 0)):  # from 2 x 3 over 4 x 6 to 8 x 12
        levels[number] = decoder.lateral[number](given[number])
        if coarser is not None:
            levels[number] = levels[number] + enlarged(levels[coarser], SIZES[number][1:])
    whole = [enlarged(decoder.smooth[number](levels[number]), (8, 12)) for number in range(3)]
    torch.testing.assert_close(decoder(given), decoder.head(whole[0] + whole[1] + whole[2]))


def test_the_linear_decoder_begins_without_an_opinion_and_the_order_of_fpn_is_by_size() -> None:
    assert not built("linear")(maps()).any()
    grids = [math.prod(SIZES[number][1:]) for number in built("fpn").order]
    assert grids == sorted(grids)


@pytest.mark.parametrize(
    ("name", "sizes", "width", "words"),
    [
        ("mlp", SIZES, 8, "decoder must be one of linear, conv, fpn, got 'mlp'"),
        ("conv", SIZES, 0, "width must be at least 1, got 0"),
        ("linear", [], 8, "a decoder needs at least one map"),
    ],
)
def test_wrong_decoders_are_refused(name: str, sizes: list[tuple[int, int, int]], width: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_decoder(name, sizes, 3, width=width)
