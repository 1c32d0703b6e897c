"""Dense objectives against their formulas in loops, in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from crossmodal import OBJECTIVES
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective
from crossmodal.objectives.common.maps import pair_grids, resize_to
from crossmodal.objectives.common.normalisation import ChannelNormalisation
from modalities.common.random import generator

ROWS = 3
STUDENT = Spec(5, ((4, 8, 6), (6, 4, 3)), 0)
TEACHER = Spec(7, ((2, 16, 12), (5, 8, 6), (8, 4, 3)), 0)


def draw(spec: Spec, name: str, rows: int = ROWS) -> Features:
    random = generator("dense", name)
    maps = tuple(torch.randn(rows, *size, dtype=torch.float64, generator=random) for size in spec.maps)
    return Features(torch.randn(rows, spec.dim, dtype=torch.float64, generator=random), maps, None)


def build(name: str, teacher: Spec = TEACHER, **options: Any) -> Objective:
    torch.manual_seed(0)
    objective: Objective = OBJECTIVES.get(name)(STUDENT, teacher, 40, **options).double()
    if objective.needs_calibration:
        objective.calibrate(draw(teacher, "first", 20))
        objective.calibrate(draw(teacher, "second", 12))
        objective.finish_calibration()
    return objective


def batch(rows: int = ROWS, **inputs: Tensor) -> Batch:
    return Batch(inputs, torch.arange(rows), torch.zeros(rows, dtype=torch.long), 5)


def measured(number: int) -> Tensor:
    """The teacher's vectors of one map that the calibration saw."""
    both = torch.cat([draw(TEACHER, "first", 20).maps[number], draw(TEACHER, "second", 12).maps[number]])
    return both.movedim(1, -1).reshape(-1, both.shape[1])


# --- which maps ---


def test_by_default_the_two_coarsest_grids_of_the_teacher_are_compared() -> None:
    assert pair_grids("patch", STUDENT, TEACHER, None) == [(0, 1), (1, 2)]


def test_a_vit_has_one_grid_and_its_last_block_is_compared() -> None:
    tokens = Spec(7, ((7, 4, 4),) * 12, 0)
    assert pair_grids("patch", STUDENT, tokens, None) == [(1, 11)]


def test_the_student_s_last_map_is_always_compared() -> None:
    deeper = Spec(5, ((4, 8, 6), (6, 4, 3), (8, 2, 2)), 0)  # its last grid is coarser than the teacher's
    assert pair_grids("patch", deeper, TEACHER, None) == [(0, 1), (1, 2), (2, 2)]
    assert pair_grids("patch", deeper, Spec(7, ((7, 4, 4),) * 12, 0), None) == [(1, 11), (2, 11)]


def test_chosen_maps_are_compared() -> None:
    assert pair_grids("patch", STUDENT, TEACHER, [(1, 0)]) == [(1, 0)]


def test_encoders_without_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="the student has 0 and the teacher 3"):
        pair_grids("patch", Spec(5, (), 0), TEACHER, None)


def test_a_map_is_averaged_down_and_enlarged_bilinearly() -> None:
    item = torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]])
    assert resize_to(item, (1, 1)).item() == 3
    torch.testing.assert_close(resize_to(item, (2, 4))[0, 0, 0], torch.tensor([0.0, 0.5, 1.5, 2.0]))


# --- normalisation ---


def test_whitened_rows_have_identity_covariance() -> None:
    target = build("patch", dim=3).targets[1]
    rows = target(measured(2))
    torch.testing.assert_close(rows.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(rows.T @ rows / len(rows), torch.eye(3, dtype=torch.float64), atol=1e-9, rtol=0)


def test_whitening_keeps_the_components_with_the_largest_variance() -> None:
    target, rows = build("patch", dim=3).targets[1], measured(2)
    centred = rows - rows.mean(0)
    _, spreads, axes = torch.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:3].T / (spreads[:3] / math.sqrt(len(rows)))
    torch.testing.assert_close(target(rows).abs(), expected.abs(), atol=1e-8, rtol=0)


def test_standardised_channels_have_mean_zero_and_deviation_one() -> None:
    rows = build("patch", normalise="standardise").targets[0](measured(1))
    torch.testing.assert_close(rows.mean(0), torch.zeros(5, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(rows.square().mean(0), torch.ones(5, dtype=torch.float64), atol=1e-9, rtol=0)


def test_centred_channels_keep_their_scale() -> None:
    rows = measured(1)
    torch.testing.assert_close(build("patch", normalise="centre").targets[0](rows), rows - rows.mean(0))


def test_a_channel_that_does_not_vary_is_not_blown_up() -> None:
    target = ChannelNormalisation(3, "whiten", None).double()
    rows = torch.randn(50, 3, dtype=torch.float64, generator=generator("flat")) * torch.tensor([1.0, 1.0, 0.0])
    target.add(rows)
    target.finish()
    assert target(rows + 1e-6).abs().max() < 5


def test_a_teacher_that_does_not_vary_is_refused() -> None:
    target = ChannelNormalisation(3)
    target.add(torch.ones(4, 3, 2, 2))
    with pytest.raises(ValueError, match="the same everywhere"):
        target.finish()


def test_before_calibration_the_loss_is_not_a_number() -> None:
    objective = OBJECTIVES.get("patch")(STUDENT, TEACHER, 40).double()
    assert objective(draw(STUDENT, "s"), draw(TEACHER, "t"), batch()).loss.isnan()


# --- formulas ---


@torch.no_grad()
@pytest.mark.parametrize("loss", ["cosine", "smooth_l1", "mse"])
def test_patch_equals_its_formula_in_loops(loss: str) -> None:
    objective, student, teacher = build("patch", loss=loss, dim=3), draw(STUDENT, "s"), draw(TEACHER, "t")
    means = []
    for (mine, other), head, target in zip(objective.maps, objective.heads, objective.targets, strict=True):
        weight, bias = head.layers.weight[:, :, 0, 0], head.layers.bias
        values = []
        for row in range(ROWS):
            for y in range(student.maps[mine].shape[2]):
                for x in range(student.maps[mine].shape[3]):
                    ours = weight @ student.maps[mine][row, :, y, x] + bias
                    theirs = (teacher.maps[other][row, :, y, x] - target.mean) @ target.matrix
                    if loss == "cosine":
                        values.append(1 - float(ours @ theirs / (ours.norm() * theirs.norm())))
                        continue
                    gaps = (ours - theirs).abs().tolist()
                    square = [g * g for g in gaps]
                    smooth = [g * g / 2 if g < 1 else g - 0.5 for g in gaps]
                    values += square if loss == "mse" else smooth
        means.append(sum(values) / len(values))
    assert objective(student, teacher, batch()).loss.item() == pytest.approx(sum(means) / 2, abs=1e-9)


@torch.no_grad()
def test_patch_is_zero_for_the_teacher_itself_through_the_right_head() -> None:
    objective, teacher = OBJECTIVES.get("patch")(TEACHER, TEACHER, 40, dim=None).double(), draw(TEACHER, "t")
    objective.calibrate(draw(TEACHER, "first", 20))
    objective.finish_calibration()
    for head, target in zip(objective.heads, objective.targets, strict=True):
        head.layers.weight.copy_(target.matrix.T[:, :, None, None])
        head.layers.bias.copy_(-target.mean @ target.matrix)
    assert objective(teacher, teacher, batch()).loss.item() == pytest.approx(0, abs=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("against", ["places", "pictures"])
def test_patch_contrast_equals_its_formula_in_loops(against: str) -> None:
    objective = build("patch_contrast", against=against, places=4, temperature=0.5, dim=3)
    student, teacher, here, means = draw(STUDENT, "s"), draw(TEACHER, "t"), batch(), []
    for number, (mine, other) in enumerate(objective.maps):
        target, head = objective.targets[number], objective.heads[number]
        places = objective._draw(here, number)
        queries, candidates, own = [], [], []
        for row in range(ROWS):
            for place in places[row].tolist():
                y, x = divmod(place, student.maps[mine].shape[3])
                queries.append(head(student.maps[mine][row, :, y, x][None, :, None, None])[0, :, 0, 0])
                own.append(row if against == "pictures" else len(own))
                if against == "places":
                    candidates.append((teacher.maps[other][row, :, y, x] - target.mean) @ target.matrix)
            if against == "pictures":
                candidates.append((teacher.embedding[row] - target.mean) @ target.matrix)
        losses = []
        for query, right in zip(queries, own, strict=True):
            heat = [math.exp(float(query @ c / (query.norm() * c.norm())) / 0.5) for c in candidates]
            losses.append(-math.log(heat[right] / sum(heat)))
        means.append(sum(losses) / len(losses))
    assert objective(student, teacher, here).loss.item() == pytest.approx(sum(means) / 2, abs=1e-9)


def test_the_places_of_a_picture_differ_and_depend_on_the_pair_and_the_step() -> None:
    objective, here = build("patch_contrast", places=6), batch()
    places = objective._draw(here, 0)
    assert all(len({*row}) == 6 for row in places.tolist())
    assert len({tuple(row) for row in places.tolist()}) == ROWS
    turned = Batch({}, here.index.flip(0), here.label, here.seed)
    assert torch.equal(objective._draw(turned, 0), places.flip(0))
    assert not torch.equal(objective._draw(Batch({}, here.index, here.label, here.seed + 1), 0), places)


@torch.no_grad()
def test_gram_equals_its_formula_in_loops() -> None:
    objective, student, teacher, means = build("gram"), draw(STUDENT, "s"), draw(TEACHER, "t"), []
    for mine, other in objective.maps:
        values = []
        for row in range(ROWS):
            ours, theirs = student.maps[mine][row].flatten(1).T, teacher.maps[other][row].flatten(1).T
            for a in range(len(ours)):
                for b in range(len(ours)):
                    own = float(ours[a] @ ours[b] / (ours[a].norm() * ours[b].norm()))
                    values.append((own - float(theirs[a] @ theirs[b] / (theirs[a].norm() * theirs[b].norm()))) ** 2)
        means.append(sum(values) / len(values))
    assert objective(student, teacher, batch()).loss.item() == pytest.approx(sum(means) / 2, abs=1e-9)


def test_gram_bounds_its_grid() -> None:
    assert build("gram", side=3).grids == [(3, 3), (3, 3)]


@torch.no_grad()
def test_gram_does_not_see_a_rotation_of_the_channels() -> None:
    objective, student, teacher = build("gram"), draw(STUDENT, "s"), draw(TEACHER, "t")
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=generator("turn")))[0]
    turned = student._replace(maps=(torch.einsum("bchw,cd->bdhw", student.maps[0], turn), student.maps[1]))
    expected = objective(student, teacher, batch()).loss
    torch.testing.assert_close(objective(turned, teacher, batch()).loss, expected)


@torch.no_grad()
def test_pixel_cross_entropy_equals_its_formula_in_loops() -> None:
    truth = torch.randint(-1, 4, (ROWS, 1, 8, 6), generator=generator("truth")).double()
    objective: Objective = OBJECTIVES.get("pixel_cross_entropy")(STUDENT, None, 40, classes=4, maps=[0]).double()
    weight = torch.randn(4, 4, 1, 1, dtype=torch.float64, generator=generator("w"))
    objective.decoder.heads[0].weight.copy_(weight)
    student, losses, right = draw(STUDENT, "s"), [], []
    for row in range(ROWS):
        for y in range(8):
            for x in range(6):
                if (label := int(truth[row, 0, y, x])) >= 0:
                    logits = (weight[:, :, 0, 0] @ student.maps[0][row, :, y, x]).tolist()
                    losses.append(math.log(sum(map(math.exp, logits))) - logits[label])
                    right.append(logits[label] == max(logits))
    outcome = objective(student, None, batch(labels=truth))
    assert outcome.loss.item() == pytest.approx(sum(losses) / len(losses), abs=1e-9)
    assert outcome.figures["accuracy"].item() == pytest.approx(sum(right) / len(right), abs=1e-6)


def test_pixel_cross_entropy_without_labels_is_zero() -> None:
    objective: Objective = OBJECTIVES.get("pixel_cross_entropy")(STUDENT, None, 40, classes=4).double()
    nothing = torch.full((ROWS, 1, 8, 6), -1.0, dtype=torch.float64)
    assert objective(draw(STUDENT, "s"), None, batch(labels=nothing)).loss.item() == 0


# --- refusals ---


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("patch", {"dim": 0}, "dim must be at least 1"),
        ("patch", {"maps": [(0, 7)]}, r"a teacher's from 0 to 2, got \[0, 7\]"),
        ("patch_contrast", {"temperature": 0.0}, "temperature above 0"),
        ("patch_contrast", {"places": 0}, "places of at least 1"),
        ("gram", {"side": 1}, "side must be at least 2"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(name, **options)


@pytest.mark.parametrize("name", ["patch", "patch_contrast", "gram"])
def test_dense_objectives_need_a_teacher(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} compares maps with a teacher's, and none is named"):
        OBJECTIVES.get(name)(STUDENT, None, 40)
