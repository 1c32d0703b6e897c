"""Objectives on maps against their formulas in loops, in float64: attention, neuron selectivity, hints, information."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from crossmodal import ENCODERS, OBJECTIVES
from crossmodal.encoders import Features, Spec
from crossmodal.models import Card, Head, load_model, save_model
from crossmodal.objectives import Batch, Objective
from modalities.common.random import generator

ROWS = 3
STUDENT = Spec(5, ((4, 6, 4), (9, 3, 2)), 0)  # fewer channels than places, and more
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


# --- neuron selectivity ---


def channels(item: Tensor) -> list[list[float]]:
    """Of one sample's map, each of unit length."""
    rows = item.flatten(1).tolist()
    return [[value / math.sqrt(sum(each**2 for each in row)) for value in row] for row in rows]


def squared_distance(first: list[float], second: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(first, second, strict=True))


def kernel(name: str, first: list[float], second: list[float], variance: float) -> float:
    product = sum(a * b for a, b in zip(first, second, strict=True))
    distance = squared_distance(first, second)
    return {"linear": product, "polynomial": product**2, "gaussian": math.exp(-distance / (2 * variance))}[name]


@pytest.mark.parametrize("name", ["linear", "polynomial", "gaussian"])
def test_nst_equals_its_formula_in_loops(name: str) -> None:
    student, teacher = draw(STUDENT, "student"), draw(TEACHER, "teacher")
    expected = 0.0
    for mine, other in zip(student.maps, teacher.maps, strict=True):
        for sample in range(ROWS):
            ours, theirs = channels(mine[sample] + 0.1), channels(other[sample] + 0.1)  # no channel of zeros
            variance = sum(squared_distance(a, b) for a in ours for b in theirs) / len(ours) / len(theirs)
            mean = lambda left, right, v=variance: (  # noqa: E731
                sum(kernel(name, a, b, v) for a in left for b in right) / len(left) / len(right)
            )
            expected += (mean(ours, ours) + mean(theirs, theirs) - 2 * mean(ours, theirs)) / ROWS
    lifted = [with_maps(each, *(item + 0.1 for item in each.maps)) for each in (student, teacher)]
    assert loss(build("nst", kernel=name), *lifted).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["linear", "polynomial", "gaussian"])
def test_nst_does_not_see_order_or_scale_of_channels(name: str) -> None:
    student, teacher, objective = draw(STUDENT, "student"), draw(TEACHER, "teacher"), build("nst", kernel=name)
    same = with_maps(student, *(3 * item for item in turned(student).maps))
    torch.testing.assert_close(loss(objective, same, teacher), loss(objective, student, teacher))
    twin = build("nst", STUDENT, kernel=name)
    assert loss(twin, student, turned(student)).item() == pytest.approx(0, abs=1e-12)
    assert loss(twin, student, draw(STUDENT, "other")) > 1e-3


@pytest.mark.parametrize("name", ["linear", "polynomial", "gaussian"])
def test_nst_of_orthogonal_channels_is_known(name: str) -> None:
    """One channel each, at places apart: k(x, x) is 1 and v is 2, so 1 + 1 - 2 k with k = 0 or exp(-1/2)."""
    spec = Spec(5, ((1, 1, 2),), 0)
    left, right = (draw(spec, "any")._replace(maps=(torch.tensor([[[[a, 1.0 - a]]]]).expand(ROWS, 1, 1, 2).double(),))
                   for a in (1.0, 0.0))  # fmt: skip
    expected = 2 - 2 * math.exp(-1 / 2) if name == "gaussian" else 2
    assert loss(build("nst", spec, spec, kernel=name), left, right).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["linear", "polynomial", "gaussian"])
def test_nst_of_zeros_is_finite(name: str) -> None:
    maps = [torch.zeros(ROWS, *size, dtype=torch.float64, requires_grad=True) for size in STUDENT.maps]
    student = with_maps(draw(STUDENT, "any"), *maps)
    for teacher, spec in ((student, STUDENT), (draw(TEACHER, "teacher"), TEACHER)):
        found = loss(build("nst", spec, kernel=name), student, teacher)
        found.backward()
        assert torch.isfinite(found)
    assert all(torch.isfinite(item.grad).all() for item in maps)


class Sizes(TorchDispatchMode):
    """Notes the numbers that each tensor made under it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.found += [item.numel() for item in (result if isinstance(result, tuple | list) else [result])
                       if isinstance(item, Tensor)]  # fmt: skip
        return result


@pytest.mark.parametrize("size", [(64, 16, 16), (256, 2, 2)], ids=["more places", "more channels"])
@pytest.mark.parametrize("name", ["linear", "polynomial"])
def test_nst_makes_no_tensor_larger_than_the_maps(name: str, size: tuple[int, int, int]) -> None:
    spec, kept = Spec(5, (size,), 0), []
    student, teacher, objective = draw(spec, "student"), draw(spec, "teacher"), build("nst", spec, spec, kernel=name)
    student.maps[0].requires_grad_()
    with Sizes() as sizes, saved_tensors_hooks(lambda item: kept.append(item.numel()) or item, lambda item: item):
        loss(objective, student, teacher).backward()
    whole = student.maps[0].numel()  # channels by channels by places, as the published code has it, is 64 or 256 wholes
    assert max(sizes.found) == whole
    assert 0 < sum(kept) < 12 * whole


# --- hints ---


def test_fitnet_equals_its_formula_in_loops() -> None:
    student, teacher, objective = draw(STUDENT, "student"), draw(TEACHER, "teacher"), build("fitnet")
    expected = 0.0
    for mine, other, regressor in zip(student.maps, teacher.maps, objective.regressors, strict=True):
        weight, hint = regressor.conv.weight[:, :, 0, 0].tolist(), other.transpose(0, 1).flatten(1).tolist()
        places = mine.transpose(0, 1).flatten(1).T.tolist()  # all of the batch; each has the student's channels
        for channel, wanted in zip(weight, hint, strict=True):
            value = [sum(w * v for w, v in zip(channel, place, strict=True)) for place in places]
            mean = sum(value) / len(value)
            variance = sum((v - mean) ** 2 for v in value) / len(value)
            predicted = [max(0.0, (v - mean) / math.sqrt(variance + 1e-5)) for v in value]
            expected += sum((p - w) ** 2 for p, w in zip(predicted, wanted, strict=True)) / len(value) / len(weight)
    assert loss(objective, student, teacher).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("activation", "is_above"), [("relu", True), ("none", False)])
def test_fitnet_predicts_values_below_zero_where_asked_to(activation: str, is_above: bool) -> None:
    student, teacher = draw(STUDENT, "student"), draw(TEACHER, "teacher")
    predicted, _ = build("fitnet", activation=activation).regressors[0](student.maps[0], teacher.maps[0])
    assert (predicted.min() >= 0).item() is is_above


@torch.no_grad()
def test_fitnet_on_embeddings_equals_its_formula_in_loops() -> None:
    student, teacher, objective = draw(STUDENT, "student"), draw(TEACHER, "teacher"), build("fitnet", on="embedding")
    expected = 0.0
    for row, wanted in zip(student.embedding.tolist(), teacher.embedding.tolist(), strict=True):
        for weight, bias, want in zip(
            objective.head.weight.tolist(), objective.head.bias.tolist(), wanted, strict=True
        ):
            value = sum(w * v for w, v in zip(weight, row, strict=True)) + bias
            expected += (value - want) ** 2 / TEACHER.dim / ROWS
    assert loss(objective, student, teacher).item() == pytest.approx(expected, abs=1e-12)
    ours, theirs = objective.project(student, teacher)
    torch.testing.assert_close(ours, F.normalize(objective.head(student.embedding)))
    torch.testing.assert_close(theirs, F.normalize(teacher.embedding))
    assert build("fitnet").project(student, teacher) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "kernel", "met"),
    [
        ((6, 4), (6, 4), (1, 1), (6, 4)),
        ((12, 8), (6, 4), (3, 3), (6, 4)),  # as published
        ((6, 4), (12, 8), (4, 4), (12, 8)),  # as published
        ((18, 6), (6, 2), (5, 5), (6, 2)),
        ((4, 8), (1, 2), (7, 7), (1, 2)),
        ((2, 3), (6, 9), (5, 5), (6, 9)),
        ((7, 7), (4, 4), (1, 1), (4, 4)),  # neither is a multiple: the larger is averaged down
        ((4, 8), (8, 4), (1, 1), (4, 4)),
        ((4, 8), (4, 4), (1, 1), (4, 4)),
    ],
)
def test_fitnet_meets_at_the_teachers_size_where_a_stride_leads_there(
    ours: tuple[int, int], theirs: tuple[int, int], kernel: tuple[int, int], met: tuple[int, int]
) -> None:
    student, teacher = Spec(5, ((2, *ours),), 0), Spec(5, ((3, *theirs),), 0)
    regressor = build("fitnet", teacher, student).regressors[0]
    predicted, wanted = regressor(draw(student, "student").maps[0], draw(teacher, "teacher").maps[0])
    assert regressor.conv.kernel_size == kernel
    assert predicted.shape == wanted.shape == (ROWS, 3, *met)


def test_a_hint_can_be_one_pair_of_maps() -> None:
    student, teacher = draw(STUDENT, "student"), draw(TEACHER, "teacher")
    one = build("fitnet", maps=[(1, 0)])
    predicted, wanted = one.regressors[0](student.maps[1], teacher.maps[0])
    torch.testing.assert_close(loss(one, student, teacher), F.mse_loss(predicted, wanted))


# --- information ---


def surprise(wanted: float, predicted: float, rho: float) -> float:
    variance = math.log(1 + math.exp(rho)) + 1e-5
    return ((wanted - predicted) ** 2 / variance + math.log(variance)) / 2


def spread(objective: Objective) -> None:
    """Variances that differ from channel to channel."""
    for rho in objective.rhos:
        rho.data += torch.arange(len(rho)) / 3


@torch.no_grad()
def test_vid_equals_its_formula_in_loops() -> None:
    student, teacher, objective = draw(STUDENT, "student"), draw(LARGER, "teacher"), build("vid", LARGER)
    spread(objective)
    expected = 0.0
    for mine, other, mean, rho in zip(student.maps, teacher.maps, objective.means, objective.rhos, strict=True):
        wanted = halve(other)
        _, channels, height, width = wanted.shape
        for row, channel, y, x in itertools.product(range(ROWS), range(channels), range(height), range(width)):
            value = mine[row, :, y, x]
            for layer in (mean[0], mean[2], mean[4]):
                value = layer.weight[:, :, 0, 0] @ (value.relu() if layer is not mean[0] else value)
            term = surprise(wanted[row, channel, y, x].item(), value[channel].item(), rho[channel].item())
            expected += term / ROWS / channels / height / width
    assert loss(objective, student, teacher).item() == pytest.approx(expected, abs=1e-12)


@torch.no_grad()
def test_vid_on_embeddings_equals_its_formula_in_loops() -> None:
    student, teacher, objective = draw(STUDENT, "student"), draw(TEACHER, "teacher"), build("vid", on="embedding")
    spread(objective)
    first, second, third = (objective.means[0][place].weight[:, :, 0, 0] for place in (0, 2, 4))
    expected, predictions = 0.0, []
    for row, wanted in zip(student.embedding, teacher.embedding, strict=True):
        predictions.append(third @ (second @ (first @ row).relu()).relu())
        for want, value, rho in zip(wanted, predictions[-1], objective.rhos[0], strict=True):
            expected += surprise(want.item(), value.item(), rho.item()) / TEACHER.dim / ROWS
    assert loss(objective, student, teacher).item() == pytest.approx(expected, abs=1e-12)
    ours, theirs = objective.project(student, teacher)
    torch.testing.assert_close(ours, F.normalize(torch.stack(predictions)))
    torch.testing.assert_close(theirs, F.normalize(teacher.embedding))
    assert build("vid").project(student, teacher) is None


@pytest.mark.parametrize("variance", [0.01, 5.0, 2000.0])
def test_vid_starts_at_the_variance_asked_for_and_is_least_at_the_mean_squared_error(variance: float) -> None:
    student, teacher = draw(STUDENT, "student"), draw(TEACHER, "teacher")
    objective = build("vid", on="embedding", variance=variance)
    torch.testing.assert_close(F.softplus(objective.rhos[0]) + 1e-5, torch.full((TEACHER.dim,), variance).double())
    predicted = objective.means[0](student.embedding[:, :, None, None])[:, :, 0, 0]
    errors = (predicted - teacher.embedding).square().mean(0).detach()
    objective.rhos[0].data.copy_((errors - 1e-5).expm1().log())
    found = loss(objective, student, teacher)
    torch.testing.assert_close(found, (1 + errors.log()).mean() / 2)  # the entropy of a Gaussian, less its constant
    found.backward()
    torch.testing.assert_close(objective.rhos[0].grad, torch.zeros(TEACHER.dim).double())


# --- what comes back, and what needs aligned views ---


@pytest.mark.parametrize("name", ["fitnet", "vid"])
def test_exported_heads_on_chosen_maps_come_back(name: str, tmp_path: Path) -> None:
    encoder, options = ENCODERS.get("convnet")((1, 8, 8), 0, width=4, stages=2), {"maps": [(1, 0)]}
    head = build(name, TEACHER, encoder.spec, **options).float()
    card = Card("convnet", {"width": 4, "stages": 2}, (1, 8, 8), [], "depth", {"size": 8, "fit": "crop"},
                {"one": Head(name, options, "rgb", TEACHER)})  # fmt: skip
    save_model(tmp_path, card, encoder, {"one": head})
    back = load_model(tmp_path).heads["one"]
    assert back.maps == [(1, 0)]
    assert all(torch.equal(value, head.state_dict()[key]) for key, value in back.state_dict().items())


@pytest.mark.parametrize("name", ["fitnet", "vid"])
def test_maps_need_alignment_and_embeddings_do_not(name: str) -> None:
    assert build(name).needs_alignment
    assert not build(name, on="embedding").needs_alignment


# --- refusals ---


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("at", {"power": 0.5}, "at needs a finite power of at least 1, got 0.5"),
        ("fitnet", {"on": "embedding", "maps": [(0, 0)]}, "fitnet: maps needs on: maps, got on: embedding"),
        ("vid", {"on": "embedding", "maps": [(0, 0)]}, "vid: maps needs on: maps, got on: embedding"),
        ("vid", {"variance": 0.0}, "vid needs a finite variance above 1e-05, got 0.0"),
        ("at", {"maps": [(0, 2)]}, r"at: maps must be pairs .* teacher's from 0 to 1, got \[0, 2\]"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(name, **options)


@pytest.mark.parametrize("name", ["at", "nst", "fitnet", "vid"])
def test_unequal_numbers_of_maps_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} compares maps in order, but the student has 2 and the teacher 1"):
        build(name, Spec(7, TEACHER.maps[:1], 0))


@pytest.mark.parametrize("name", ["at", "nst"])
def test_maps_without_extent_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} compares where maps are strong, but the common size .* is 1x1"):
        build(name, Spec(7, ((3, 1, 1), (5, 1, 1)), 0))


def test_the_width_of_nst_s_gaussian_is_a_constant_for_gradients() -> None:
    spec = Spec(5, ((3, 1, 4),), 0)
    ours, theirs = (draw(spec, name).maps[0] + 0.1 for name in ("student", "teacher"))
    ours.requires_grad_()
    loss(build("nst", spec, spec, kernel="gaussian"), with_maps(draw(spec, "student"), ours),
         with_maps(draw(spec, "teacher"), theirs)).backward()  # fmt: skip
    again = ours.detach().clone().requires_grad_()
    s, t = (F.normalize(item.flatten(2), dim=2) for item in (again, theirs))
    square = lambda left, right: (left[:, :, None] - right[:, None]).square().sum(3)  # noqa: E731
    width = 2 * square(s, t).mean((1, 2), keepdim=True).detach()
    kernel = lambda left, right: (-square(left, right) / width).exp().mean((1, 2))  # noqa: E731
    (kernel(s, s) + kernel(t, t) - 2 * kernel(s, t)).mean().backward()
    torch.testing.assert_close(ours.grad, again.grad)
