"""Objectives on maps against their formulas in loops, in float64: attention, neuron selectivity, hints, information."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from crossmodal import OBJECTIVES
from crossmodal.encoders._base import Features, Spec
from crossmodal.objectives._base import Batch, Objective
from modalities._random import generator

ROWS = 3
STUDENT = Spec(5, ((4, 6, 4), (6, 3, 2)), 0)
TEACHER = Spec(7, ((3, 6, 4), (5, 3, 2)), 0)
LARGER = Spec(7, ((3, 12, 8), (5, 6, 4)), 0)  # a teacher whose maps are twice as large


def draw(spec: Spec, name: str) -> Features:
    random = generator("test", name)
    maps = tuple(torch.randn(ROWS, *size, dtype=torch.float64, generator=random).relu() for size in spec.maps)
    return Features(torch.randn(ROWS, spec.dim, dtype=torch.float64, generator=random), maps, None)


def build(name: str, teacher: Spec = TEACHER, student: Spec = STUDENT, **options: Any) -> Objective:
    torch.manual_seed(0)
    return OBJECTIVES.get(name)(student, teacher, 40, **options).double()


def loss(objective: Objective, student: Features, teacher: Features) -> Tensor:
    return objective(student, teacher, Batch({}, torch.arange(ROWS), torch.zeros(ROWS, dtype=torch.long))).loss


def with_maps(features: Features, *maps: Tensor) -> Features:
    return features._replace(maps=maps)


def turned(features: Features) -> Features:
    """The same maps with their channels in another order."""
    return with_maps(features, *(item.flip(1).roll(1, dims=1) for item in features.maps))


def halve(item: Tensor) -> Tensor:
    """The means of blocks of 2 x 2."""
    return (item[..., ::2, ::2] + item[..., 1::2, ::2] + item[..., ::2, 1::2] + item[..., 1::2, 1::2]) / 4


# --- attention ---


def attention(item: Tensor, power: int) -> list[float]:
    """Of one sample's map, place by place."""
    channels, height, width = item.shape
    strength = [sum(abs(item[c, y, x].item()) ** power for c in range(channels))
                for y in range(height) for x in range(width)]  # fmt: skip
    length = math.sqrt(sum(value**2 for value in strength))
    return [value / length for value in strength]


@pytest.mark.parametrize("power", [1, 2, 3])
def test_at_equals_its_formula_in_loops(power: int) -> None:
    student, teacher = draw(STUDENT, "student"), draw(TEACHER, "teacher")
    expected = 0.0
    for mine, other in zip(student.maps, teacher.maps, strict=True):
        for ours, theirs in zip(mine, other, strict=True):
            pairs = zip(attention(ours, power), attention(theirs, power), strict=True)
            expected += math.sqrt(sum((q - p) ** 2 for q, p in pairs)) / 2 / ROWS
    assert loss(build("at", power=power), student, teacher).item() == pytest.approx(expected, abs=1e-12)


def test_at_as_published_is_the_mean_of_squares() -> None:
    student, teacher = draw(STUDENT, "student"), draw(TEACHER, "teacher")
    expected = 0.0
    for mine, other in zip(student.maps, teacher.maps, strict=True):
        places = mine.shape[2] * mine.shape[3]
        for ours, theirs in zip(mine, other, strict=True):
            pairs = zip(attention(ours, 2), attention(theirs, 2), strict=True)
            expected += sum((q - p) ** 2 for q, p in pairs) / places / ROWS
    assert loss(build("at", compat="repdistiller"), student, teacher).item() == pytest.approx(expected, abs=1e-12)


def test_at_averages_attention_down_and_as_published_the_map() -> None:
    student, teacher = draw(STUDENT, "student"), draw(LARGER, "teacher")
    strength = tuple(halve(item.square().sum(1, keepdim=True)).sqrt() for item in teacher.maps)
    small = Spec(7, tuple((1, *size[1:]) for size in STUDENT.maps), 0)
    torch.testing.assert_close(
        loss(build("at", LARGER), student, teacher), loss(build("at", small), student, with_maps(teacher, *strength))
    )
    published, halved = build("at", LARGER, compat="repdistiller"), with_maps(teacher, *map(halve, teacher.maps))
    torch.testing.assert_close(
        loss(published, student, teacher), loss(build("at", compat="repdistiller"), student, halved)
    )


@pytest.mark.parametrize("compat", [None, "repdistiller"])
def test_at_does_not_see_order_sign_or_scale_of_channels(compat: str | None) -> None:
    student, teacher, objective = draw(STUDENT, "student"), draw(TEACHER, "teacher"), build("at", compat=compat)
    same = with_maps(student, *(-3 * item for item in turned(student).maps))
    torch.testing.assert_close(loss(objective, same, teacher), loss(objective, student, teacher))


def test_at_is_nothing_for_equal_attention_and_half_the_root_of_two_for_attention_apart() -> None:
    spec = Spec(5, ((1, 1, 2),), 0)
    left, right = (draw(spec, "any")._replace(maps=(torch.tensor([[[[a, 1.0 - a]]]]).expand(ROWS, 1, 1, 2).double(),))
                   for a in (1.0, 0.0))  # fmt: skip
    objective = build("at", spec, spec)
    assert loss(objective, left, left) == 0
    assert loss(objective, left, right).item() == pytest.approx(math.sqrt(2) / 2)


# --- refusals ---


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("at", {"power": 0.5}, "at needs power of at least 1, got 0.5"),
        ("at", {"maps": [(0, 2)]}, r"at: maps must be pairs .* teacher's from 0 to 1, got \[0, 2\]"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(name, **options)


@pytest.mark.parametrize("name", ["at"])
def test_maps_that_cannot_be_compared_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} compares maps in order, but the student has 2 and the teacher 1"):
        build(name, Spec(7, TEACHER.maps[:1], 0))
    with pytest.raises(ValueError, match=f"{name} compares where maps are strong, but all of these meet at 1x1"):
        build(name, Spec(7, ((3, 1, 1), (5, 1, 1)), 0))
