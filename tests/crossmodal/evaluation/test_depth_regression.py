"""Distances and normals: their scores against formulas in loops, and normals of planes."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossmodal import ENCODERS, SOURCES
from crossmodal.data.reader import open_view, read_pair
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.data.writer import write_shards
from crossmodal.encoders import Features
from crossmodal.evaluation import Network, Pairs, Subject
from crossmodal.evaluation.depth_regression import DepthRegression, DistanceErrors, Distances
from crossmodal.evaluation.normals import Angles, Directions, Normals, SurfaceNormals, normals_of
from modalities import MODALITIES, CropBox
from modalities.common.random import generator

FOCAL = 0.8


def drawn(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(*shape, generator=generator("places", name))


def plane(height: int, width: int, normal: tuple[float, float, float]) -> Tensor:
    """Metres at each pixel of the plane n . p = -2 m, by the ray of each pixel."""
    metres = torch.zeros(1, height, width)
    for row in range(height):
        for column in range(width):
            ray = (column + 0.5 - width / 2) / (FOCAL * width), (row + 0.5 - height / 2) / (FOCAL * width), 1.0
            metres[0, row, column] = -2 / sum(a * b for a, b in zip(normal, ray, strict=True))
    return metres


def unit(*numbers: float) -> tuple[float, float, float]:
    length = math.sqrt(sum(number**2 for number in numbers))
    return tuple(number / length for number in numbers)  # type: ignore[return-value]


def test_errors_of_distances_equal_loops_in_pieces_and_ignore_what_has_no_reading() -> None:
    truth = drawn(4, 1, 3, 5, name="t").exp() * (drawn(4, 1, 3, 5, name="k") > -0.5)
    answer = drawn(4, 1, 3, 5, name="a") * 0.5
    score = DistanceErrors(["abs_rel", "rmse", "delta"])
    for piece in (slice(0, 1), slice(1, 4)):
        score.add(answer[piece], truth[piece])
    relative, squared, within = [], [], []
    for ours, metres in zip(answer.flatten().tolist(), truth.flatten().tolist(), strict=True):
        if metres > 0:
            relative.append(abs(math.exp(ours) - metres) / metres)
            squared.append((math.exp(ours) - metres) ** 2)
            within.append(max(math.exp(ours) / metres, metres / math.exp(ours)) < 1.25)
    count = len(relative)
    assert 20 < count < 60
    expected = sum(relative) / count, math.sqrt(sum(squared) / count), sum(within) / count
    assert [*score.values().values()] == pytest.approx(expected, rel=1e-5)


def test_a_right_answer_has_no_error_and_no_reading_is_refused() -> None:
    truth = drawn(2, 1, 3, 3).exp()
    score = DistanceErrors(["abs_rel", "rmse", "delta"])
    with pytest.raises(ValueError, match="no place of the pictures has a truth"):
        score.values()
    score.add(truth.log(), truth)
    assert [*score.values().values()] == pytest.approx([0, 0, 1], abs=1e-6)


@pytest.mark.parametrize(
    "task", [Distances(View(MODALITIES.get("depth")()), ()), Directions(View(MODALITIES.get("depth")()), ())]
)
def test_the_loss_of_an_area_is_that_of_its_places_up_to_a_constant(task: Distances | Directions) -> None:
    truth = drawn(2, task.outputs, 4, 6).abs() * (drawn(2, 1, 4, 6, name="k") > 0)
    target, weight = task.targets(truth)
    one, other = (drawn(2, task.outputs, 2, 3, name=name) for name in "ab")
    losses = []
    for answer in (one, other):
        whole = task.loss(F.interpolate(answer, (4, 6)), target, weight)
        known = weight.expand_as(target) > 0
        squares = (F.interpolate(answer, (4, 6)) - target).square()[known].sum() / weight.sum()
        areas = task.loss(answer, *(F.adaptive_avg_pool2d(each, (2, 3)) for each in (target, weight)))
        torch.testing.assert_close(areas, whole)
        losses.append((whole, squares))
    torch.testing.assert_close(losses[0][0] - losses[1][0], losses[0][1] - losses[1][1])


@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("normal", [unit(0, 0, -1), unit(0.4, 0.2, -1), unit(-0.5, 0.3, -0.8)])
def test_normals_of_planes_are_exact(normal: tuple[float, float, float], window: int) -> None:
    found = normals_of(plane(12, 16, normal), FOCAL, window)
    reach = window // 2
    inner = found[:, reach:-reach, reach:-reach]
    torch.testing.assert_close(inner, torch.tensor(normal)[:, None, None].expand_as(inner), atol=1e-4, rtol=0)
    assert not found[:, :reach].any() and not found[:, :, -reach:].any()


def test_there_is_no_normal_beside_an_edge_or_a_hole() -> None:
    depth = torch.ones(1, 12, 16)
    depth[:, :, 8:] = 2.0
    depth[0, 2, 3] = 0.0
    known = normals_of(depth, FOCAL, 3).any(0)
    expected = torch.zeros(12, 16, dtype=torch.bool)
    expected[1:-1, 1:-1] = True
    expected[:, 7:9] = False
    expected[1:4, 2:5] = False
    assert torch.equal(known, expected)


def test_a_mirrored_crop_has_mirrored_normals() -> None:
    normal = unit(0.4, 0.2, -1)
    depth = MODALITIES.get("depth")(height=6, width=8)
    signal = SurfaceNormals(depth, FOCAL, 3, depth.fit).decode(depth.encode(plane(12, 16, normal)))
    found = SurfaceNormals(depth, FOCAL, 3, depth.fit).adapt(signal, CropBox(0.25, 0.25, 0.5, 0.5, flip=True))
    expected = torch.tensor([-normal[0], normal[1], normal[2]])[:, None, None].expand(3, 6, 8)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)  # of whole millimetres


def test_angles_by_eye() -> None:
    truth = torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, -1.0], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0]]).T[None, :, None]
    ten = math.radians(10)
    answer = torch.tensor([[0.0, 0.0, -7.0], [3.0, 0.0, 0.0], [math.sin(ten), 0, -math.cos(ten)], [1.0, 0, 0]]).T[
        None, :, None
    ]
    score = Angles(["angle", "within"])
    score.add(answer, truth)
    assert score.values() == {"angle": pytest.approx((0 + 90 + 10) / 3, abs=1e-3), "within": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"focal": 0.0}, "focal must be above 0"),
        ({"focal": 1.0, "window": 4}, "window must be odd and at least 3, got 4"),
    ],
)
def test_options_of_normals_that_do_not_fit_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Normals(**options)


def test_errors_are_better_if_lower() -> None:
    found = {metric.name: metric.higher_is_better for metric in DepthRegression(fine_tuned=()).metrics()}
    assert found["abs_rel.frozen@10"] is found["rmse.frozen@all"] is False and found["delta.frozen@50"]


def test_the_legend_has_the_colours_of_distances_from_near_red_to_far_blue() -> None:
    task = Distances(View(MODALITIES.get("depth")(min_m=0.5, max_m=8.0)), ())
    legend = task.legend()
    assert [*legend] == ["no truth", "0.5 m", "1 m", "2 m", "4 m", "8 m"] and legend["no truth"] == "#000000"
    red, _, blue = (task.picture(torch.tensor([[[math.log(metres)]]])) for metres in (0.5, 2.0, 8.0))
    assert legend["0.5 m"] == "#" + "".join(f"{round(255 * level):02x}" for level in red.flatten().tolist())
    assert red[0] > 2 * red[2] and blue[2] > blue[0] and len({*legend.values()}) == 6


def test_the_legend_has_the_colours_of_directions() -> None:
    depth = MODALITIES.get("depth")()
    legend = Directions(View(SurfaceNormals(depth, 1.0, 3, depth.fit)), ()).legend()
    assert legend == {"no truth": "#000000", "faces left": "#008080", "faces right": "#ff8080", "faces up": "#800080",
                      "faces down": "#80ff80", "faces the camera": "#808000"}  # fmt: skip


def test_a_decoder_of_distances_begins_with_the_mean_of_its_pictures(tmp_path: Path) -> None:
    source = SOURCES.get("synthetic")(modalities=("rgb", "depth"), train_pairs=6, test_pairs=4, size=16)
    for split in source.splits():
        write_shards(source.pairs(split), tmp_path / split, fields=source.fields(), classes=source.classes())
    parts = Shards.open(tmp_path / "train"), Shards.open(tmp_path / "test")
    view, encoder = open_view(parts[0], "rgb", size=16), ENCODERS.get("convnet")((3, 16, 16), 0, width=4, stages=2)
    pairs = Pairs(*parts, subjects={"student": Subject(view, encoder.spec)})
    nothing = Features(torch.zeros(1, 1), (), None)
    asked = DepthRegression(pictures=(None,), fine_tuned=(), steps=1, lr=1e-12)
    found = asked.measure(Network(encoder.eval(), view, nothing, nothing), pairs)

    depth = {"d": open_view(parts[0], "depth", size=16)}
    truths = [torch.cat([read_pair(part, depth, index).adapted["d"] for index in range(len(part))]) for part in parts]
    score = DistanceErrors(["abs_rel.frozen@all", "rmse.frozen@all", "delta.frozen@all"])
    score.add(truths[0][truths[0] > 0].log().mean().expand(truths[1].shape), truths[1])
    assert found == pytest.approx(score.values(), rel=1e-4)
