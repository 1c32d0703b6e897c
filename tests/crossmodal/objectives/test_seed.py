"""SEED in plain loops, its queue, its gradient, refusals."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossmodal import OBJECTIVES
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective
from modalities.common.random import generator

PAIRS, ROWS = 40, 4
STUDENT, TEACHER = Spec(6, (), 0), Spec(8, (), 0)
INDEX = torch.tensor([3, 17, 8, 30])


def draw(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator("seed", name))


def at(index: Tensor) -> Batch:
    return Batch({}, index, torch.full_like(index, -1))


def given() -> tuple[Features, Features]:
    return Features(draw("student", ROWS, 6), (), None), Features(draw("teacher", ROWS, 8), (), None)


def build(*earlier: Tensor, **options: object) -> Objective:
    """The objective after steps with pairs of these numbers."""
    torch.manual_seed(0)
    seed = OBJECTIVES.get("seed")(STUDENT, TEACHER, PAIRS, **options).double()
    for index in earlier:
        teacher = Features(draw(f"teacher {index.tolist()}", len(index), 8), (), None)
        student = Features(draw("earlier", len(index), 6), (), None)
        seed.remember(*seed(student, teacher, at(index)).memo)
    return seed


FIRST, SECOND = torch.tensor([1, 17, 2, 9]), torch.tensor([4, 5, 6, 7])


@torch.no_grad()
@pytest.mark.parametrize("piece", [1, 1 << 22])
def test_seed_equals_its_formula_in_loops(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over what the queue holds so far, but for pair 17's own older embedding."""
    monkeypatch.setattr("crossmodal.contrast.scores.PIECE", piece)
    seed = build(FIRST, SECOND, count=20, student_temperature=0.3, teacher_temperature=0.1)
    ours, theirs = seed.project(*given())
    queue = [(pair, F.normalize(row, dim=0)) for index in (FIRST, SECOND) for pair, row in zip(
        index.tolist(), draw(f"teacher {index.tolist()}", 4, 8), strict=True)]  # fmt: skip
    expected = 0.0
    for pair, mine, other in zip(INDEX.tolist(), ours, theirs, strict=True):
        rows = [other, *(row for number, row in queue if number != pair)]
        target = [math.exp(float(other @ row) / 0.1) for row in rows]
        found = [math.exp(float(mine @ row) / 0.3) for row in rows]
        expected -= sum(p / sum(target) * math.log(q / sum(found)) for p, q in zip(target, found, strict=True))
    assert seed(*given(), at(INDEX)).loss.item() == pytest.approx(expected / ROWS, rel=1e-12)


def test_seed_has_the_gradient_of_its_loss() -> None:
    seed, (student, teacher) = build(FIRST, SECOND, count=20), given()
    weight = seed.student_head.weight

    def total(embedding: Tensor, _: Tensor) -> Tensor:
        return seed(student._replace(embedding=embedding), teacher, at(INDEX)).loss

    assert torch.autograd.gradcheck(total, (student.embedding.requires_grad_(), weight))


def test_a_student_that_finds_alike_what_the_teacher_does_has_the_least_loss() -> None:
    seed, (_, teacher) = build(FIRST, SECOND, student_temperature=0.1, teacher_temperature=0.1), given()
    seed.student_head = torch.nn.Identity()
    found = Features(teacher.embedding.clone().requires_grad_(), (), None)
    loss = seed(found, teacher, at(INDEX)).loss
    gradient = torch.autograd.grad(loss, found.embedding)[0]
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))
    assert loss < seed(Features(-found.embedding, (), None), teacher, at(INDEX)).loss


def test_before_anything_is_remembered_seed_is_zero() -> None:
    assert build()(*given(), at(INDEX)).loss.item() == 0


def test_the_queue_holds_the_last_teacher_embeddings_unit_length_and_no_more_than_pairs() -> None:
    assert len(build().memory()["teacher_rows"]) == PAIRS
    seed = build(FIRST, SECOND, count=5)
    assert seed.memory()["teacher_index"].tolist() == [5, 6, 7, 9, 4]
    rows = seed.memory()["teacher_rows"]
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(5, dtype=torch.float64))


def test_a_queue_in_half_precision_gives_nearly_the_same() -> None:
    exact, half = (build(FIRST, SECOND, dtype=dtype) for dtype in ("float32", "float16"))
    assert half.memory()["teacher_rows"].dtype == torch.float16
    found, expected = (seed(*given(), at(INDEX)).loss for seed in (half, exact))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"student_temperature": 0.0}, r"seed needs finite temperatures above 0 .*student_temperature=0\.0"),
        ({"teacher_temperature": -1.0}, r"seed needs .*teacher_temperature=-1\.0"),
        ({"count": 0}, "seed needs .*count=0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(**options)


def test_seed_sends_no_gradient_to_the_teacher() -> None:
    objective, (student, teacher) = build(torch.tensor([1, 2])), given()
    embedding = teacher.embedding.clone().requires_grad_()
    objective(student, teacher._replace(embedding=embedding), at(INDEX)).loss.backward()
    assert embedding.grad is None
