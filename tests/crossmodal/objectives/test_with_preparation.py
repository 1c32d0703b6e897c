"""Objectives with a preparation against their formulas in loops, in float64: AB, FSP and FT."""

from itertools import pairwise, product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmodal import OBJECTIVES
from crossmodal.encoders import Features, Spec
from crossmodal.modules.base import unreached
from crossmodal.objectives import Batch, Objective
from crossmodal.objectives.common.projections import BatchNorm
from modalities.common.random import generator

ROWS = 3
STUDENT = Spec(5, ((4, 6, 4), (6, 3, 2)), 0, stem=(3, 6, 4), preactivations=True)
TEACHER = Spec(7, STUDENT.maps, 0, stem=STUDENT.stem, preactivations=True)
WIDER = Spec(7, ((5, 6, 4), (8, 3, 2)), 0, stem=(4, 12, 8), preactivations=True)


def draw(spec: Spec, name: str) -> Features:
    random = generator("prepared", name)
    one = lambda *size: torch.randn(ROWS, *size, dtype=torch.float64, generator=random)  # noqa: E731
    before = tuple(one(*size) for size in spec.maps)
    assert spec.stem is not None
    return Features(one(spec.dim), tuple(item.relu() for item in before), None, one(*spec.stem).relu(), before)


def build(name: str, teacher: Spec = TEACHER, student: Spec = STUDENT, **options: Any) -> Objective:
    torch.manual_seed(0)
    return OBJECTIVES.get(name)(student, teacher, 40, **options).double()


def loss(objective: Objective, student: Features, teacher: Features) -> Tensor:
    return objective(student, teacher, Batch({}, torch.arange(ROWS), torch.zeros(ROWS, dtype=torch.long))).loss


# --- activation boundaries ---


def boundary(ours: Tensor, theirs: Tensor, margin: float) -> float:
    """The sum over all neurons of all samples, one neuron at a time."""
    found = 0.0
    for mine, other in zip(ours.flatten().tolist(), theirs.flatten().tolist(), strict=True):
        found += max(0.0, margin - mine) ** 2 if other > 0 else max(0.0, margin + mine) ** 2
    return found


@pytest.mark.parametrize(
    ("compat", "scales"),
    [(None, (1 / 96, 1 / 36)), ("paper", (1.0, 1.0)), ("repdistiller", (0.0015, 0.003))],
)
def test_ab_equals_its_formula_in_loops(compat: str | None, scales: tuple[float, float]) -> None:
    student, teacher = draw(STUDENT, "student"), draw(TEACHER, "teacher")
    maps = zip(student.preactivations, teacher.preactivations, scales, strict=True)
    expected = sum(scale * boundary(mine, other, 0.7) / ROWS for mine, other, scale in maps)
    assert loss(build("ab", margin=0.7, compat=compat), student, teacher).item() == pytest.approx(expected, abs=1e-9)


def test_ab_compares_other_channels_through_a_connector_of_all_places() -> None:
    objective, student, teacher = build("ab", WIDER), draw(STUDENT, "student"), draw(WIDER, "teacher")
    expected = 0.0
    for (conv, norm), mine, other in zip(
        objective.connectors, student.preactivations, teacher.preactivations, strict=True
    ):
        mixed = torch.einsum("bchw,dc->bdhw", mine, conv.weight[:, :, 0, 0])
        spread, mean = torch.var_mean(mixed, dim=(0, 2, 3), correction=0, keepdim=True)
        expected += boundary((mixed - mean) / (spread + 1e-5).sqrt(), other, 1.0) / other.numel()
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
    assert loss(objective, student, teacher).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("compat", [None, "paper", "repdistiller"])
def test_ab_is_nothing_beyond_the_margin_on_the_teachers_side(compat: str | None) -> None:
    teacher = draw(TEACHER, "teacher")
    decided = tuple(torch.where(item > 0, 1.0, -1.0).double() for item in teacher.preactivations)
    objective, student = build("ab", compat=compat), draw(STUDENT, "student")
    assert loss(objective, student._replace(preactivations=decided), teacher) == 0
    wrong = student._replace(preactivations=tuple(-item for item in decided))
    whole = {None: 2.0, "paper": 96.0 + 36, "repdistiller": 0.0015 * 96 + 0.003 * 36}[compat]
    assert loss(objective, wrong, teacher).item() == pytest.approx(4 * whole)


def test_ab_takes_the_maps_that_are_named() -> None:
    student, teacher = draw(STUDENT, "student"), draw(TEACHER, "teacher")
    expected = boundary(student.preactivations[1], teacher.preactivations[1], 1.0) / ROWS / 36
    assert loss(build("ab", maps=[(1, 1)]), student, teacher).item() == pytest.approx(expected)


# --- flow of the solution procedure ---


def halve(item: Tensor) -> Tensor:
    """The means of blocks of 2 x 2."""
    return (item[..., ::2, ::2] + item[..., 1::2, ::2] + item[..., ::2, 1::2] + item[..., 1::2, 1::2]) / 4


def flow(lower: Tensor, upper: Tensor) -> list[list[float]]:
    """One sample's matrix between two stages."""
    lower = lower if lower.shape[1:] == upper.shape[1:] else halve(lower)
    places = list(product(range(upper.shape[1]), range(upper.shape[2])))
    return [[sum(a[y, x].item() * b[y, x].item() for y, x in places) / len(places) for b in upper] for a in lower]


@pytest.mark.parametrize("compat", [None, "paper"])
def test_fsp_equals_its_formula_in_loops(compat: str | None) -> None:
    student, teacher = draw(STUDENT, "student"), draw(TEACHER, "teacher")
    assert student.stem is not None and teacher.stem is not None
    expected = 0.0
    stages = zip(pairwise((student.stem, *student.maps)), pairwise((teacher.stem, *teacher.maps)), strict=True)
    for (lower, upper), (theirs, above) in stages:
        for row in range(ROWS):
            ours, goal = flow(lower[row], upper[row]), flow(theirs[row], above[row])
            squares = [(a - b) ** 2 for one, two in zip(ours, goal, strict=True) for a, b in zip(one, two, strict=True)]
            expected += sum(squares) / ROWS / (1 if compat else len(squares))
    assert loss(build("fsp", compat=compat), student, teacher).item() == pytest.approx(expected, abs=1e-12)


def test_fsp_does_not_see_where_things_are() -> None:
    student, teacher = draw(STUDENT, "student"), draw(TEACHER, "teacher")
    assert student.stem is not None
    mirrored = student._replace(stem=student.stem.flip(3), maps=tuple(item.flip(3) for item in student.maps))
    torch.testing.assert_close(loss(build("fsp"), mirrored, teacher), loss(build("fsp"), student, teacher))
    assert loss(build("fsp"), mirrored, student) < 1e-20


# --- factor transfer ---


def pass_through(stack: nn.Sequential, item: Tensor) -> Tensor:
    """Convolution, norm where there is one, leaky ReLU, written out."""
    for layer in stack:
        if isinstance(layer, nn.Conv2d):
            item = F.conv2d(item, layer.weight, layer.bias, padding=1)
        elif isinstance(layer, BatchNorm):
            spread, mean = torch.var_mean(item, dim=(0, 2, 3), correction=0, keepdim=True)
            item = (item - mean) / (spread + 1e-5).sqrt()
        elif isinstance(layer, nn.LeakyReLU):
            item = torch.where(item > 0, item, 0.1 * item)
    return item


def unit(values: list[float]) -> list[float]:
    length = sum(value**2 for value in values) ** 0.5
    return [value / length for value in values]


@torch.no_grad()
def test_ft_equals_its_formula_in_loops() -> None:
    objective, student, teacher = build("ft", WIDER), draw(STUDENT, "student"), draw(WIDER, "teacher")
    ours = pass_through(objective.translator, student.maps[-1])
    theirs = pass_through(objective.paraphraser.encoder, teacher.maps[-1])
    assert ours.shape == theirs.shape == (ROWS, 4, 3, 2)
    expected = 0.0
    for mine, other in zip(ours, theirs, strict=True):
        pairs = zip(unit(mine.flatten().tolist()), unit(other.flatten().tolist()), strict=True)
        expected += sum(abs(a - b) for a, b in pairs) / ROWS
    assert loss(objective, student, teacher).item() == pytest.approx(expected, abs=1e-12)


@torch.no_grad()
def test_ft_as_published_compares_where_factors_are_strong() -> None:
    objective, student, teacher = build("ft", compat="repdistiller"), draw(STUDENT, "student"), draw(TEACHER, "teacher")
    ours = pass_through(objective.translator, student.maps[-1])
    theirs = pass_through(objective.paraphraser.encoder, teacher.maps[-1])
    expected = 0.0
    for mine, other in zip(ours, theirs, strict=True):
        strong = [unit([sum(x**2 for x in place) for place in side.flatten(1).T.tolist()]) for side in (mine, other)]
        expected += sum(abs(a - b) for a, b in zip(*strong, strict=True)) / ROWS / 6
    assert loss(objective, student, teacher).item() == pytest.approx(expected, abs=1e-12)


@torch.no_grad()
def test_ft_averages_the_larger_factors_down() -> None:
    larger = Spec(7, ((5, 6, 4), (6, 6, 4)), 0)
    objective, student, teacher = build("ft", larger), draw(STUDENT, "student"), draw(WIDER, "teacher")
    big = torch.randn(ROWS, 6, 6, 4, dtype=torch.float64, generator=generator("big"))
    ours = objective.translator(student.maps[-1]).flatten(1)
    theirs = halve(objective.paraphraser.encoder(big)).flatten(1)
    expected = (F.normalize(ours, dim=1) - F.normalize(theirs, dim=1)).abs().sum() / ROWS
    torch.testing.assert_close(loss(objective, student, teacher._replace(maps=(teacher.maps[0], big))), expected)


@torch.no_grad()
def test_the_paraphraser_is_prepared_by_finding_the_map_again() -> None:
    objective, teacher = build("ft", WIDER), draw(WIDER, "teacher")
    prepared = objective.preparation()
    assert prepared is objective.paraphraser and not objective.only_prepares
    found = pass_through(objective.paraphraser.decoder, pass_through(objective.paraphraser.encoder, teacher.maps[-1]))
    pairs = zip(found.flatten().tolist(), teacher.maps[-1].flatten().tolist(), strict=True)
    expected = sum((a - b) ** 2 for a, b in pairs) / found.numel()
    outcome = prepared(None, teacher, Batch({}, torch.arange(ROWS), torch.zeros(ROWS, dtype=torch.long)))
    assert outcome.loss.item() == pytest.approx(expected, abs=1e-12)


def test_ft_sends_no_gradient_to_the_paraphraser() -> None:
    objective, student = build("ft"), draw(STUDENT, "student")
    last = student.maps[-1].requires_grad_()
    total = loss(objective, student._replace(maps=(student.maps[0], last)), draw(TEACHER, "teacher"))
    assert {id(weight) for weight in unreached(objective, total)} == {id(w) for w in objective.paraphraser.parameters()}


# --- when ---


@pytest.mark.parametrize("name", ["ab", "fsp"])
def test_boundaries_and_flow_are_minimised_before_beside_or_both(name: str) -> None:
    for when, prepares, stays in (("before", True, False), ("beside", False, True), ("both", True, True)):
        objective = build(name, when=when)
        assert (objective.preparation() is objective, not objective.only_prepares) == (prepares, stays)
    assert build(name).only_prepares  # as published


# --- refusals ---


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ab", {"margin": 0.0}, "ab needs a finite margin above 0, got 0.0"),
        ("ft", {"rate": 0.1}, "ft: rate must give at least one factor for 6 teacher channels, got 0.1"),
        ("ab", {"maps": [(0, 2)]}, r"ab: maps must be pairs .* teacher's from 0 to 1, got \[0, 2\]"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(name, **options)


def test_ft_as_published_refuses_maps_of_one_place() -> None:
    point = Spec(7, ((5, 3, 2), (6, 1, 1)), 0)
    build("ft", point)
    with pytest.raises(
        ValueError, match=r"ft: compat: repdistiller compares factors by place, .* 1x1; set compat: null"
    ):
        build("ft", point, compat="repdistiller")


SILENT = Spec(7, STUDENT.maps, 0)


@pytest.mark.parametrize(
    ("name", "student", "teacher", "words"),
    [
        ("ab", STUDENT, SILENT, "ab compares maps before their last non-linearity, and the teacher's encoder does not"),
        ("ab", SILENT, TEACHER, "and the student's encoder does not return them; use one that does, such as convnet"),
        ("ab", Spec(7, (), 0), TEACHER, "ab compares maps in order, but the student has 0 and the teacher 2"),
        ("ft", STUDENT, Spec(7, (), 0), "ft compares last maps, but the student has 2 and the teacher 0 maps; use an"),
        ("fsp", STUDENT, SILENT, "the teacher's encoder does not return that input"),
        ("fsp", Spec(7, (), 0, (3, 6, 4)), TEACHER, "the student's encoder does not return any map; use one that does"),
        ("fsp", STUDENT, WIDER, r"fsp compares .* got a student with \[3, 4, 6\] and a teacher with \[4, 5, 8\]. Chan"),
    ],
)
def test_networks_that_cannot_be_compared_are_refused(name: str, student: Spec, teacher: Spec, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(name, teacher, student)
