"""Objectives on relations between samples: the formulas in loops, invariances, refusals."""

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from crossmodal import OBJECTIVES
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective
from crossmodal.objectives.rkd import square_distances
from modalities.common.random import generator

ROWS = 5
MAPS = ((3, 4, 2),), ((2, 3, 3),)
STUDENT, TEACHER = Spec(6, MAPS[0], 0), Spec(8, MAPS[1], 0)
BATCH = Batch({}, torch.arange(ROWS), torch.full((ROWS,), -1))


def draw(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator("relational", name))


def given() -> tuple[Features, Features]:
    return (
        Features(draw("student", ROWS, 6), (draw("student map", ROWS, *MAPS[0][0]),), None),
        Features(draw("teacher", ROWS, 8), (draw("teacher map", ROWS, *MAPS[1][0]),), None),
    )


def build(name: str, **options: object) -> Objective:
    torch.manual_seed(0)
    return OBJECTIVES.get(name)(STUDENT, TEACHER, 40, **options).double()


def loss(name: str, student: Tensor | None = None, **options: object) -> Tensor:
    """Of the given features, or of another embedding of the student."""
    features = given()
    mine = features[0] if student is None else features[0]._replace(embedding=student)
    return build(name, **options)(mine, features[1], BATCH).loss


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other) / math.sqrt(float(one @ one) * float(other @ other))


def rotation(dim: int) -> Tensor:
    return torch.linalg.qr(draw("rotation", dim, dim)).Q


RELATIONAL = ("pkt", "sp", "rkd", "cc")


@pytest.mark.parametrize("name", RELATIONAL)
def test_directions_of_axes_and_scale_do_not_matter(name: str) -> None:
    student = given()[0].embedding
    turned = 3 * student @ rotation(student.shape[1])
    torch.testing.assert_close(loss(name, turned), loss(name))


@pytest.mark.parametrize("name", RELATIONAL)
def test_a_turned_and_scaled_teacher_is_a_perfect_student(name: str) -> None:
    teacher = given()[1]
    student = teacher._replace(embedding=0.1 * teacher.embedding @ rotation(8))
    objective = OBJECTIVES.get(name)(TEACHER, TEACHER, 40).double()
    found, other = (objective(item, teacher, BATCH).loss.item() for item in (student, given()[1]._replace(
        embedding=draw("other", ROWS, 8))))  # fmt: skip
    assert found == pytest.approx(0, abs=1e-9)
    assert other > 1e-4


# --- pkt ---


@pytest.mark.parametrize("compat", [None, "repdistiller"])
def test_pkt_equals_its_formula_in_loops(compat: str | None) -> None:
    def probabilities(rows: Tensor) -> list[dict[int, float]]:
        picked = range(ROWS)
        kernels = [
            {j: (cosine(rows[i], rows[j]) + 1) / 2 for j in picked if compat or j != i} for i in picked
        ]  # fmt: skip
        return [{j: value / sum(row.values()) for j, value in row.items()} for row in kernels]

    ours, theirs = (probabilities(item.embedding) for item in given())
    more = 1e-7 if compat else 0.0
    expected = sum(
        p * math.log((p + more) / (ours[i][j] + more)) for i, row in enumerate(theirs) for j, p in row.items()
    )
    assert loss("pkt", compat=compat).item() == pytest.approx(expected / ROWS, abs=1e-12)


def test_pkt_is_finite_where_embeddings_are_opposite() -> None:
    student = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.eye(2, dtype=torch.float64)
    objective = OBJECTIVES.get("pkt")(Spec(2, (), 0), Spec(2, (), 0), 40)
    found = objective(Features(student, (), None), Features(teacher, (), None), BATCH).loss
    assert torch.isfinite(torch.autograd.grad(found, student)[0]).all()
    assert torch.isfinite(found)


# --- sp ---


@pytest.mark.parametrize("of", ["embedding", "map"])
def test_sp_equals_its_formula_in_loops(of: str) -> None:
    def similarities(features: Features) -> list[list[float]]:
        rows = features.embedding if of == "embedding" else features.maps[-1].reshape(ROWS, -1)
        products = [[float(one @ other) for other in rows] for one in rows]
        return [[value / math.sqrt(sum(each**2 for each in row)) for value in row] for row in products]

    ours, theirs = (similarities(item) for item in given())
    expected = sum((ours[i][j] - theirs[i][j]) ** 2 for i in range(ROWS) for j in range(ROWS)) / ROWS
    assert loss("sp", of=of).item() == pytest.approx(expected, abs=1e-12)


def test_sp_of_maps_needs_maps() -> None:
    with pytest.raises(
        ValueError, match="sp: of: map needs maps on both sides, but the student has 1 and the teacher 0"
    ):
        OBJECTIVES.get("sp")(STUDENT, Spec(8, (), 0), 40, of="map")


# --- rkd ---


def huber(gap: float) -> float:
    return gap**2 / 2 if abs(gap) < 1 else abs(gap) - 0.5


def distances_in_loops(rows: Tensor) -> dict[tuple[int, int], float]:
    apart = {(i, j): math.dist(rows[i].tolist(), rows[j].tolist()) for i in range(ROWS) for j in range(ROWS) if i != j}
    mean = sum(apart.values()) / len(apart)
    return {pair: distance / mean for pair, distance in apart.items()}


def angles_in_loops(rows: Tensor) -> dict[tuple[int, int, int], float]:
    triplets = [(i, j, k) for i in range(ROWS) for j in range(ROWS) for k in range(ROWS) if len({i, j, k}) == 3]
    return {(i, j, k): cosine(rows[i] - rows[j], rows[k] - rows[j]) for i, j, k in triplets}


@pytest.mark.parametrize("piece", [1, 60, 1 << 20])
@pytest.mark.parametrize("weights", [(25.0, 50.0), (1.0, 0.0), (0.0, 2.0)])
def test_rkd_equals_its_formula_in_loops(
    weights: tuple[float, float], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossmodal.objectives.rkd.PIECE", piece)
    expected = 0.0
    for weight, relation in zip(weights, (distances_in_loops, angles_in_loops), strict=True):
        ours, theirs = (relation(item.embedding) for item in given())
        expected += weight * sum(huber(ours[key] - theirs[key]) for key in ours) / len(ours)
    assert loss("rkd", distance=weights[0], angle=weights[1]).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("piece", [1, 60])
def test_rkd_has_the_gradient_of_its_angles_whatever_their_pieces(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossmodal.objectives.rkd.PIECE", piece)
    student = draw("student", ROWS, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: 7 * loss("rkd", rows, distance=0.0, angle=1.0), student)


def test_rkd_takes_equal_samples_for_equal_in_single_precision() -> None:
    """Rounding must give them no distance: a small one would turn into any angle and any gradient."""
    rows = torch.randn(20, 2048, generator=generator("equal")).repeat(3, 1) + 5
    student = rows.clone().requires_grad_()
    squares = square_distances(rows)
    equal = torch.arange(60) % 20 == (torch.arange(60) % 20)[:, None]
    assert torch.equal(squares == 0, equal)
    expected = torch.cdist(rows.double(), rows.double()).square().float()
    torch.testing.assert_close(squares, expected, rtol=1e-5, atol=1e-6)
    objective = OBJECTIVES.get("rkd")(Spec(2048, (), 0), TEACHER, 60)
    teacher = torch.randn(60, 8, generator=generator("unequal"))
    found = objective(Features(student, (), None), Features(teacher, (), None), BATCH).loss
    gradient = torch.autograd.grad(found, student)[0]
    assert torch.isfinite(gradient).all()
    assert gradient.norm() < 10


@pytest.mark.parametrize(("distance", "angle"), [(-1.0, 1.0), (1.0, -1.0), (0.0, 0.0)])
def test_rkd_needs_a_weight(distance: float, angle: float) -> None:
    with pytest.raises(ValueError, match=f"rkd: distance and angle must be .*, got {distance} and {angle}"):
        build("rkd", distance=distance, angle=angle)


@pytest.mark.slow
def test_rkd_needs_no_tensor_of_the_third_power_of_the_batch() -> None:
    """Peak memory of forward and backward, beyond that of a small batch, in a process of its own."""
    code = """
import resource, torch
from crossmodal import OBJECTIVES
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch
rkd = OBJECTIVES.get("rkd")(Spec(64, (), 0), Spec(64, (), 0), 512)
for rows in (8, 512):
    student, teacher = torch.randn(2, rows, 64).requires_grad_()
    batch = Batch({}, torch.arange(rows), torch.arange(rows))
    rkd(Features(student, (), None), Features(teacher.detach(), (), None), batch).loss.backward()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, after = map(int, told.split())
    assert after - before < 100 * 1024  # KiB; one tensor of 512^3 numbers is 512 MiB


# --- cc ---


@torch.no_grad()
@pytest.mark.parametrize("heads", ["none", "student", "both"])
def test_cc_equals_its_formula_in_loops(heads: str) -> None:
    objective = build("cc", gamma=0.7, order=3, heads=heads, dim=4)

    def correlation(one: Tensor, other: Tensor) -> float:
        return math.exp(-1.4) * sum((1.4 * cosine(one, other)) ** power / math.factorial(power) for power in range(4))

    ours, theirs = (head(item.embedding) for head, item in zip(
        (objective.student_head, objective.teacher_head), given(), strict=True))  # fmt: skip
    gaps = [correlation(ours[i], ours[j]) - correlation(theirs[i], theirs[j]) for i in range(ROWS) for j in range(ROWS)]
    assert objective(*given(), BATCH).loss.item() == pytest.approx(sum(gap**2 for gap in gaps) / ROWS**2, rel=1e-12)


@torch.no_grad()
def test_the_series_of_cc_is_a_gaussian_in_the_end() -> None:
    found = build("cc", gamma=2.0, order=40)._correlations(given()[0].embedding)
    unit = given()[0].embedding / given()[0].embedding.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found, (-2 * torch.cdist(unit, unit).square()).exp())


@torch.no_grad()
@pytest.mark.parametrize("heads", [None, "student"])
def test_published_cc_equals_its_formula_in_loops(heads: str | None) -> None:
    objective = build("cc", compat="repdistiller", heads=heads)
    ours, theirs = (head(item.embedding).tolist() for head, item in zip(
        (objective.student_head, objective.teacher_head), given(), strict=True))  # fmt: skip
    assert len(ours[0]) == (8 if heads else 128)
    residuals = [[abs(a - b) for a, b in zip(one, other, strict=True)] for one, other in zip(ours, theirs, strict=True)]
    expected = sum(residuals[i][d] * residuals[i + 1][d] for i in range(ROWS - 1) for d in range(len(ours[0])))
    assert objective(*given(), BATCH).loss.item() == pytest.approx(expected / (ROWS - 1), rel=1e-12)


@pytest.mark.parametrize("compat", [None, "repdistiller"])
@pytest.mark.parametrize("heads", ["student", "both"])
def test_only_heads_on_both_sides_solve_cc_without_a_student(heads: str, compat: str | None) -> None:
    """On features that know nothing of each other, heads on both sides make the loss vanish: so they are no default."""
    student, teacher = Features(draw("many", 64, 6), (), None), Features(draw("apart", 64, 8), (), None)
    objective = build("cc", heads=heads, compat=compat, dim=4)
    optimiser = torch.optim.Adam(objective.parameters(), lr=0.05)
    values = []
    for _ in range(300):
        found = objective(student, teacher, BATCH).loss
        optimiser.zero_grad()
        found.backward()
        optimiser.step()
        values.append(found.item())
    remains = values[-1] / values[0]
    assert remains < 0.01 if heads == "both" else remains > 0.2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": 0.0}, "cc needs a finite gamma above 0, .* got gamma=0.0"),
        ({"order": 0}, "cc needs .*order=0"),
        ({"dim": 0}, "cc needs .*dim=0"),
        (
            {"compat": "repdistiller", "heads": "none"},
            "cc: compat subtracts .* has 6 numbers and the teacher's 8; set",
        ),
    ],
)
def test_cc_refuses_what_it_cannot_compute(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build("cc", **options)
