"""Every objective against its formula in loops, in float64; and what all of them promise."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from crossmodal import ENCODERS, OBJECTIVES
from crossmodal.contrast.options import Negatives
from crossmodal.encoders import Features, Spec
from crossmodal.modules.base import TrainingModule
from crossmodal.modules.transfer import Term, Transfer
from crossmodal.objectives import Batch, Learner, Objective, Outcome
from modalities.common.random import generator

MAPS = ((4, 6, 6), (6, 3, 3))
STUDENT = Spec(dim=6, maps=MAPS, classes=5, stem=(3, 6, 6), preactivations=True)
TEACHER = Spec(dim=8, maps=MAPS, classes=5, stem=(3, 6, 6), preactivations=True)
PAIRS = 40


def features(spec: Spec, rows: int, name: str, *, grad: bool = False) -> Features:
    random = generator("test", name)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=random).requires_grad_(grad)  # noqa: E731
    embedding, maps = draw(rows, spec.dim), tuple(draw(rows, *size) for size in spec.maps)
    logits, stem = draw(rows, spec.classes), draw(rows, *spec.stem)
    return Features(embedding, tuple(item.relu() for item in maps), logits, stem.relu(), maps)


def change(features: Features, how: Callable[[torch.Tensor], torch.Tensor]) -> Features:
    """The same function of every tensor."""
    return Features(
        how(features.embedding),
        tuple(map(how, features.maps)),
        how(features.logits),
        how(features.stem),
        tuple(map(how, features.preactivations)),
    )


def batch(rows: int = 4, seed: int = 3) -> Batch:
    index = torch.randperm(PAIRS, generator=generator("test", "index"))[:rows]
    labels = torch.randint(-1, 5, (rows, 1, 12, 12), generator=generator("test", "labels")).float()
    return Batch({"labels": labels}, index, torch.arange(rows) % 5, seed)


def build(name: str, **options: object) -> Objective:
    torch.manual_seed(0)
    kind = OBJECTIVES.get(name)
    teacher = TEACHER if kind.uses_teacher else None
    if name == "pixel_cross_entropy":
        options = {"classes": 5, **options}
    objective = kind(STUDENT, teacher, PAIRS, **options).double()
    if objective.needs_calibration:
        objective.calibrate(features(TEACHER, 16, "calibration"))
        objective.finish_calibration()
    return objective


def loss(objective: Objective, rows: int = 4, seed: int = 3) -> torch.Tensor:
    return objective(features(STUDENT, rows, "student"), features(TEACHER, rows, "teacher"), batch(rows, seed)).loss


# --- formulas in loops ---


def test_kd_equals_its_formula_in_loops() -> None:
    student, teacher = features(STUDENT, 4, "student"), features(TEACHER, 4, "teacher")
    expected = 0.0
    for ours, theirs in zip(student.logits.tolist(), teacher.logits.tolist(), strict=True):
        p = [math.exp(value / 3) / sum(math.exp(other / 3) for other in theirs) for value in theirs]
        q = [math.exp(value / 3) / sum(math.exp(other / 3) for other in ours) for value in ours]
        expected += 9 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 4
    assert build("kd", temperature=3.0)(student, teacher, batch()).loss.item() == pytest.approx(expected, abs=1e-9)


@torch.no_grad()
def test_infonce_equals_its_formula_in_loops() -> None:
    objective = build("infonce", temperature=0.3)
    ours, theirs = objective.project(features(STUDENT, 4, "student"), features(TEACHER, 4, "teacher"))
    scores = [[float(a @ b) / 0.3 for b in theirs] for a in ours]
    forth = sum(math.log(sum(math.exp(s) for s in scores[i])) - scores[i][i] for i in range(4)) / 4
    back = sum(math.log(sum(math.exp(scores[j][i]) for j in range(4))) - scores[i][i] for i in range(4)) / 4
    assert loss(objective).item() == pytest.approx((forth + back) / 2, rel=1e-7)  # 1 / 0.3 in float32


def search(anchor: torch.Tensor, match: torch.Tensor, rows: list[torch.Tensor]) -> float:
    """-log of the share of an anchor's match among it and the rows of other pairs, at temperature 0.3."""
    heat = [math.exp(float(anchor @ row) / 0.3) for row in (match, *rows)]
    return math.log(sum(heat) / heat[0])


@torch.no_grad()
def test_infonce_with_a_queue_asks_the_teachers_head_anew() -> None:
    """Of the teacher's last embeddings; on the student's side is its batch alone, for its older ones have aged."""
    objective = build("infonce", temperature=0.3, negatives=Negatives("queue", count=6))
    earlier = features(STUDENT, 4, "earlier"), features(TEACHER, 4, "earlier teacher")
    there = Batch({}, torch.arange(4) + 2, torch.full((4,), -1))  # two of its pairs come again
    objective.remember(*objective(*earlier, there).memo)
    for weight in objective.parameters():
        weight.add_(0.1)
    student, teacher = features(STUDENT, 4, "student"), features(TEACHER, 4, "teacher")
    ours, theirs = objective.project(student, teacher)
    _, held = objective.project(*earlier)
    forth = [
        search(ours[i], theirs[i], [theirs[j] for j in range(4) if j != i] + [held[j] for j in range(4) if j + 2 != i])
        for i in range(4)
    ]
    back = [search(theirs[i], ours[i], [ours[j] for j in range(4) if j != i]) for i in range(4)]
    here = Batch({}, torch.arange(4), torch.full((4,), -1))
    assert objective(student, teacher, here).loss.item() == pytest.approx(sum(forth + back) / 8, rel=1e-7)


@torch.no_grad()
def test_infonce_with_a_bank_finds_what_the_bank_holds_of_the_pair() -> None:
    """With a live match both sides drift away from their banks, and nothing is learnt."""
    objective = build("infonce", temperature=0.3, negatives=Negatives("bank", draw="all"))
    random, every = generator("test", "held"), torch.arange(PAIRS)
    held = [F.normalize(torch.randn(PAIRS, 128, dtype=torch.float64, generator=random), dim=1) for _ in range(2)]
    objective.sides.remember(every, torch.full_like(every, -1), *held)
    ours, theirs = objective.project(features(STUDENT, 4, "student"), features(TEACHER, 4, "teacher"))
    forth, back = (
        [
            search(anchor, rows[pair], [rows[other] for other in range(PAIRS) if other != pair])
            for anchor, pair in zip(anchors, batch().index.tolist(), strict=True)
        ]
        for anchors, rows in ((ours, held[1]), (theirs, held[0]))
    )
    assert loss(objective).item() == pytest.approx(sum(forth + back) / 8, rel=1e-7)


@torch.no_grad()
def test_regression_equals_its_formula_in_loops() -> None:
    objective = build("regression")
    student, teacher = features(STUDENT, 4, "student"), features(TEACHER, 4, "teacher")
    predicted = objective.student_head(student.embedding)
    cosines = [float(a @ b) / (float(a @ a) * float(b @ b)) ** 0.5
               for a, b in zip(predicted, teacher.embedding, strict=True)]  # fmt: skip
    assert loss(objective).item() == pytest.approx(1 - sum(cosines) / 4, abs=1e-9)


def test_cross_entropy_counts_labelled_rows_only() -> None:
    student = features(STUDENT, 4, "student")
    here = Batch({}, torch.arange(4), torch.tensor([2, -1, 0, -1]))
    expected = sum(
        math.log(sum(math.exp(v) for v in student.logits[row].tolist())) - student.logits[row][label].item()
        for row, label in ((0, 2), (2, 0))
    )
    assert build("cross_entropy")(student, None, here).loss.item() == pytest.approx(expected / 2, abs=1e-9)


def test_cross_entropy_without_labels_is_zero_and_its_accuracy_of_nothing() -> None:
    here, student = Batch({}, torch.arange(4), torch.full((4,), -1)), features(STUDENT, 4, "student")
    outcome = build("cross_entropy")(student, None, here)
    assert outcome.loss.item() == 0
    assert outcome.figures["accuracy"].isnan()


def test_the_accuracy_of_cross_entropy_is_of_labelled_rows() -> None:
    student = features(STUDENT, 4, "student")
    right = student.logits.argmax(1)
    label = torch.stack([right[0], torch.tensor(-1), (right[2] + 1) % student.logits.shape[1], right[3]])
    outcome = build("cross_entropy")(student, None, Batch({}, torch.arange(4), label))
    assert outcome.figures["accuracy"].item() == pytest.approx(2 / 3)


# --- what every objective promises ---


@pytest.fixture(params=OBJECTIVES.names())
def objective(request: pytest.FixtureRequest) -> Objective:
    return build(request.param)


def test_forward_changes_nothing(objective: Objective) -> None:
    before = {name: tensor.clone() for name, tensor in {**objective.state_dict(), **objective.memory()}.items()}
    first, state = loss(objective), torch.get_rng_state()
    assert torch.equal(loss(objective), first)
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in {**objective.state_dict(), **objective.memory()}.items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_gradients_are_those_of_the_loss(name: str) -> None:
    objective = build(name)
    teacher, here = features(TEACHER, 3, "teacher"), batch(3)

    def total(embedding: torch.Tensor, logits: torch.Tensor, stem: torch.Tensor, *maps: torch.Tensor) -> torch.Tensor:
        positive = tuple(item.relu() for item in maps)
        return objective(Features(embedding, positive, logits, stem, maps), teacher, here).loss

    student = features(STUDENT, 3, "student", grad=True)
    given = (student.embedding, student.logits, student.stem.detach().requires_grad_(), *student.preactivations)
    assert torch.autograd.gradcheck(total, given, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", ["infonce", "rkd"])
def test_a_second_derivative_is_refused_where_gradients_come_with_the_loss(name: str) -> None:
    student = features(STUDENT, 4, "student", grad=True)
    found = build(name)(student, features(TEACHER, 4, "teacher"), batch()).loss
    (slope,) = torch.autograd.grad(found.square(), student.embedding, create_graph=True)
    with pytest.raises(RuntimeError, match="trying to differentiate twice"):
        slope.sum().backward()


def test_order_of_the_batch_does_not_matter(objective: Objective) -> None:
    student, teacher, here = features(STUDENT, 4, "student"), features(TEACHER, 4, "teacher"), batch()
    turn = torch.tensor([2, 0, 3, 1])
    turned = objective(
        change(student, lambda item: item[turn]),
        change(teacher, lambda item: item[turn]),
        Batch({"labels": here.inputs["labels"][turn]}, here.index[turn], here.label[turn], here.seed),
    ).loss
    torch.testing.assert_close(turned, objective(student, teacher, here).loss)


def assert_finite(loss: torch.Tensor, student: Features, objective: Objective) -> None:
    """Of a loss and its gradients."""
    assert torch.isfinite(loss)
    given = (student.embedding, *student.maps, student.logits, student.stem, *student.preactivations)
    heads = [weight for weight in objective.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(loss, [*given, *heads], allow_unused=True)
    reached = [gradient for gradient in gradients if gradient is not None]
    assert reached and all(gradient.isfinite().all() for gradient in reached)


def test_loss_and_gradients_stay_finite_in_half_precision(objective: Objective) -> None:
    objective.float()
    student, teacher = features(STUDENT, 4, "student"), features(TEACHER, 4, "teacher")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        own = change(student, lambda each: (each * 1e3).bfloat16().requires_grad_())
        found = objective(own, change(teacher, lambda each: (each * 1e3).bfloat16()), batch()).loss
    assert found.dtype == torch.float32
    assert_finite(found, own, objective)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_collapsed_and_zero_features_stay_finite(objective: Objective, value: float) -> None:
    own = change(features(STUDENT, 3, "any"), lambda item: torch.full_like(item, value, requires_grad=True))
    other = change(features(TEACHER, 3, "any"), lambda item: torch.full_like(item, value))
    assert_finite(objective(own, other, batch(3)).loss, own, objective)


def test_memo_is_remembered_and_memory_is_live(objective: Objective) -> None:
    outcome = objective(features(STUDENT, 4, "student"), features(TEACHER, 4, "teacher"), batch())
    before = {name: tensor.clone() for name, tensor in objective.memory().items()}
    if outcome.memo:
        objective.remember(*outcome.memo)
    changed = [name for name, tensor in objective.memory().items() if not torch.equal(tensor, before[name])]
    assert changed == list(before)  # all of it where there is any, nothing where there is none


# --- refusals ---


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("crd", {"temperature": 0.0}, "temperature from 0.001, .*temperature=0.0"),
        ("crd", {"positive": "related", "negatives": Negatives("queue")}, "negatives of source bank, got queue"),
        ("kd", {"temperature": -1.0}, "temperature must be above 0 and finite, got -1.0"),
        ("infonce", {"temperature": 0.0}, "infonce needs a finite temperature from 0.001"),
        ("crd", {"temperature": math.nan}, "crd needs a finite temperature from 0.001"),
        ("cross_entropy", {"smoothing": 1.0}, "smoothing must be from 0 to below 1, got 1.0"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(name, **options)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "option",
    ["kd.temperature", "dkd.temperature", "dkd.target", "dkd.others", "dist.temperature", "dist.inter", "dist.intra",
     "seed.student_temperature", "seed.teacher_temperature", "cc.gamma", "vid.variance", "at.power", "ab.margin",
     "rkd.distance", "rkd.angle"],
)  # fmt: skip
def test_options_that_are_not_finite_are_refused(option: str, value: float) -> None:
    name, _, key = option.partition(".")
    with pytest.raises(ValueError, match=f"finite.* got .*{value}"):
        build(name, **{key: value})


@pytest.mark.parametrize("name", [name for name in OBJECTIVES.names() if OBJECTIVES.get(name).uses_teacher])
def test_a_missing_teacher_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="teacher"):
        OBJECTIVES.get(name)(STUDENT, None, PAIRS)


def test_kd_refuses_other_classes() -> None:
    with pytest.raises(ValueError, match="same classes; got a student with 5 and a teacher with 9"):
        OBJECTIVES.get("kd")(STUDENT, Spec(8, (), 9), PAIRS)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, "at least one objective"),
        ({"kd": -1.0}, "weight of objective 'kd' must be at least 0 and finite, got -1"),
        ({"kd": math.nan}, "weight of objective 'kd' must be at least 0 and finite, got nan"),
        ({"kd": 0.0, "dist": 0.0}, r"all weights are 0 \(kd, dist\), so nothing is trained; raise that of an objec"),
    ],
)
def test_transfer_refuses_a_sum_that_trains_nothing(weights: dict[str, float], words: str) -> None:
    student = ENCODERS.get("convnet")((1, 16, 16), 0, width=4)
    with pytest.raises(ValueError, match=words):
        Transfer(student, "depth", {name: Term(build(name), weight, "rgb") for name, weight in weights.items()})


def test_what_is_minimised_is_the_weighted_sum_and_the_log_has_the_terms_unweighted() -> None:
    module = TrainingModule({"one": Learner(), "two": Learner()}, {"one": 0.25, "two": 3.0})
    losses = module.add_up({"one": Outcome(torch.tensor(2.0)), "two": Outcome(torch.tensor(5.0))})
    assert {name: value.item() for name, value in losses.figures().items()} == {"loss": 15.5, "one": 2.0, "two": 5.0}
