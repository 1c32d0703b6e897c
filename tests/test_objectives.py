"""Every objective against its formula in loops, in float64; and what all of them promise."""

import contextlib
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from crossmodal import ENCODERS, OBJECTIVES
from crossmodal.contrast import nce as nce_module
from crossmodal.contrast.bank import Bank, draw_negatives
from crossmodal.contrast.nce import log_normaliser, nce, pick_scores
from crossmodal.encoders._base import Features, Spec
from crossmodal.objectives._base import Batch, Objective
from crossmodal.transfer import Term, Transfer
from modalities._random import generator

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
    return Batch({}, index, torch.arange(rows) % 5, seed)


def build(name: str, **options: object) -> Objective:
    torch.manual_seed(0)
    kind = OBJECTIVES.get(name)
    teacher = TEACHER if kind.uses_teacher else None
    return kind(STUDENT, teacher, PAIRS, **options).double()


def loss(objective: Objective, rows: int = 4, seed: int = 3) -> torch.Tensor:
    return objective(features(STUDENT, rows, "student"), features(TEACHER, rows, "teacher"), batch(rows, seed)).loss


# --- formulas in loops ---


@torch.no_grad()
def crd_direction_in_loops(anchors, others, bank, index, drawn, *, negatives, temperature, dim):
    """-log h(positive) - sum log(1 - h(negative)), h = e / (e + K Z / N), as the paper writes it, pair by pair."""
    z_over_n = math.exp(1 / (2 * dim * temperature**2))
    total = 0.0
    for row in range(len(anchors)):
        e = math.exp(float(anchors[row] @ others[row]) / temperature)
        total -= math.log(e / (e + negatives * z_over_n))
        for column in drawn[row].tolist():
            e = math.exp(float(anchors[row] @ bank[column]) / temperature)
            total -= math.log(1 - e / (e + negatives * z_over_n))
    return total / len(anchors)


@pytest.mark.parametrize("positive", ["live", "bank"])
def test_crd_equals_its_formula_in_loops(positive: str) -> None:
    objective = build("crd", dim=7, negatives=11, temperature=0.5, positive=positive)
    student, teacher, here = features(STUDENT, 4, "student"), features(TEACHER, 4, "teacher"), batch()
    ours, theirs = objective.project(student, teacher)
    drawn = draw_negatives(here.seed, here.index, PAIRS, 11)
    banks = objective.memory()
    expected = 0.0
    for anchors, live, bank in ((ours, theirs, banks["teacher_bank"]), (theirs, ours, banks["student_bank"])):
        others = live if positive == "live" else bank[here.index]
        expected += crd_direction_in_loops(
            anchors, others, bank, here.index, drawn, negatives=11, temperature=0.5, dim=7
        )
    assert objective(student, teacher, here).loss.item() == pytest.approx(expected, abs=1e-9)


@torch.no_grad()
def test_crd_over_all_pairs_is_the_mean_over_draws() -> None:
    """With more negatives than pairs the expectation is computed; every other pair drawn once weighs K / (N - 1)."""
    objective = build("crd", dim=7, negatives=100, temperature=0.5, positive="live")
    student, teacher, here = features(STUDENT, 4, "student"), features(TEACHER, 4, "teacher"), batch()
    ours, theirs = objective.project(student, teacher)
    others = [[j for j in range(PAIRS) if j != i] for i in here.index.tolist()]
    expected = 0.0
    for anchors, live, bank in (
        (ours, theirs, objective.memory()["teacher_bank"]),
        (theirs, ours, objective.memory()["student_bank"]),
    ):
        bias = math.log(100) + log_normaliser(7, 0.5)
        for row in range(4):
            expected += math.log1p(math.exp(bias - float(anchors[row] @ live[row]) / 0.5)) / 4
            for column in others[row]:
                score = float(anchors[row] @ bank[column]) / 0.5
                expected += 100 / (PAIRS - 1) * math.log1p(math.exp(score - bias)) / 4
    assert objective(student, teacher, here).loss.item() == pytest.approx(expected, abs=1e-9)


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
    assert loss(objective).item() == pytest.approx((forth + back) / 2, abs=1e-9)


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


def test_cross_entropy_without_labels_is_zero() -> None:
    here = Batch({}, torch.arange(4), torch.full((4,), -1))
    assert build("cross_entropy")(features(STUDENT, 4, "student"), None, here).loss.item() == 0


def test_nce_gradient_is_h_minus_c() -> None:
    positive = torch.randn(3, dtype=torch.float64, generator=generator("p")).requires_grad_()
    negative = torch.randn(3, 9, dtype=torch.float64, generator=generator("n")).requires_grad_()
    nce(positive, negative, negatives=9, log_z=0.4).backward()
    h = lambda score: torch.sigmoid(score - math.log(9) - 0.4)  # noqa: E731
    torch.testing.assert_close(positive.grad, (h(positive.detach()) - 1) / 3)
    torch.testing.assert_close(negative.grad, h(negative.detach()) / 3)


# --- CRD's numbers ---


@pytest.mark.parametrize(("pairs", "negatives"), [(50_000, 16_384), (3_000, 16_384)])
def test_crd_starts_where_the_closed_form_says(pairs: int, negatives: int) -> None:
    """A direction: ln K + 1 + 1 / (2 d tau^2): 11.50 at K = 16,384, d = 128, tau = 0.07."""
    torch.manual_seed(0)
    objective = OBJECTIVES.get("crd")(Spec(64, (), 0), Spec(64, (), 0), pairs, negatives=negatives)
    random = generator("start")
    # features of unrelated networks: independent directions
    student = Features(torch.randn(64, 64, generator=random), (), None)
    teacher = Features(torch.randn(64, 64, generator=random), (), None)
    found = objective(student, teacher, Batch({}, torch.arange(64), torch.zeros(64, dtype=torch.int64), 1)).loss
    expected = math.log(negatives) + 1 + 1 / (2 * 128 * 0.07**2)
    assert found.item() / 2 == pytest.approx(expected, rel=0.02)


def test_nce_bound_reaches_the_known_information() -> None:
    """Jointly Gaussian scalars, correlation 0.9, I = 0.8304 nats: ln N + E ln h at the optimal critic."""
    random = generator("gauss")
    rho, count = 0.9, 400_000
    x = torch.randn(count, dtype=torch.float64, generator=random)
    y = rho * x + (1 - rho**2) ** 0.5 * torch.randn(count, dtype=torch.float64, generator=random)
    ratio = -0.5 * math.log(1 - rho**2) - (rho**2 * (x**2 + y**2) - 2 * rho * x * y) / (2 * (1 - rho**2))
    # the optimal score is the log density ratio and any constant, which is then ln (Z / N)
    apart = torch.full((count, 1), -math.inf, dtype=torch.float64)  # negatives that no critic takes for the pair
    for negatives, expected in ((1, -0.437), (4, 0.297), (16, 0.650), (256, 0.816)):
        loss_of_positives = nce(ratio + 0.7, apart, negatives=negatives, log_z=0.7)
        assert math.log(negatives) - loss_of_positives.item() == pytest.approx(expected, abs=0.01)


def test_crd_never_draws_the_pair_itself() -> None:
    index = torch.arange(50)
    drawn = draw_negatives(7, index, 50, 2000)
    assert not (drawn == index[:, None]).any()
    assert drawn.unique().tolist() == list(range(50))


def test_draws_are_uniform_over_the_other_pairs() -> None:
    counts = draw_negatives(1, torch.tensor([4]), 11, 100_000)[0].bincount(minlength=11)
    others = counts[counts > 0]
    assert len(others) == 10
    chi_square = ((others - 10_000) ** 2 / 10_000).sum().item()
    assert chi_square < 27.9  # 9 degrees of freedom, p = 0.001


def test_draws_follow_the_pair_not_its_place() -> None:
    drawn = draw_negatives(7, torch.tensor([3, 9, 5]), 50, 20)
    turned = draw_negatives(7, torch.tensor([5, 3, 9]), 50, 20)
    assert torch.equal(drawn[[2, 0, 1]], turned)


def test_picked_scores_equal_gathered_rows() -> None:
    anchors, rows = torch.randn(6, 8, dtype=torch.float64), torch.randn(30, 8, dtype=torch.float64)
    picked = torch.randint(30, (6, 5))
    torch.testing.assert_close(pick_scores(anchors, rows, picked), torch.einsum("bd,bkd->bk", anchors, rows[picked]))


def own_bytes(forward: Callable[[], torch.Tensor], *given: torch.Tensor) -> int:
    """Bytes that a forward keeps for its backward, beside the tensors it was given."""
    known = {tensor.untyped_storage().data_ptr() for tensor in given}
    kept: dict[int, torch.Tensor] = {}  # the tensors, so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    assert known & set(kept)  # the hooks saw what they should
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in known)


@pytest.mark.parametrize("pairs", [100, 10_000])
def test_picking_keeps_no_scores_for_backward(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nce_module, "DENSE_LIMIT", 20_000)  # 8 anchors at once, or 2
    anchors, rows = torch.randn(8, 4).requires_grad_(), torch.randn(pairs, 4)
    picked = torch.randint(pairs, (8, 5))
    assert own_bytes(lambda: pick_scores(anchors, rows, picked), anchors, rows, picked) == 0


@pytest.mark.parametrize("limit", [30, 60, 1000])  # one anchor at a time, two, all
def test_picked_scores_have_the_gradients_of_the_plain_product(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nce_module, "DENSE_LIMIT", limit)
    random = generator("pick")
    anchors = torch.randn(5, 8, dtype=torch.float64, generator=random).requires_grad_()
    rows = torch.randn(30, 8, dtype=torch.float64, generator=random).requires_grad_()
    picked = torch.randint(30, (5, 40), generator=random)  # some columns several times
    weight = torch.randn(5, 40, dtype=torch.float64, generator=random)
    ours, plain = pick_scores(anchors, rows, picked), (anchors @ rows.T).gather(1, picked)
    torch.testing.assert_close(ours, plain)
    for found, expected in zip(torch.autograd.grad((ours * weight).sum(), (anchors, rows)),
                               torch.autograd.grad((plain * weight).sum(), (anchors, rows)), strict=True):  # fmt: skip
        torch.testing.assert_close(found, expected)
    few = picked[:, :6]
    assert torch.autograd.gradcheck(lambda a, r: pick_scores(a, r, few), (anchors, rows))


def test_crd_directions_reach_their_own_side_only() -> None:
    objective = build("crd", dim=7, negatives=11)
    student = features(STUDENT, 4, "student", grad=True)
    teacher = features(TEACHER, 4, "teacher")
    here = batch()
    ours, theirs = objective.project(student, teacher)
    objective._direction(ours, theirs.detach(), objective.teacher_bank, here).backward()
    assert student.embedding.grad is not None and objective.heads.student.weight.grad is not None
    assert objective.heads.teacher.weight.grad is None


def test_bank_rows_move_by_momentum_and_others_stay() -> None:
    bank = Bank(6, 4, momentum=0.25, name="t")
    before = bank.rows.clone()
    new = F.normalize(torch.randn(2, 4), dim=1)
    bank.update(torch.tensor([4, 1]), new)
    for row, came in zip((4, 1), new, strict=True):
        torch.testing.assert_close(bank.rows[row], F.normalize(0.25 * before[row] + 0.75 * came, dim=0))
    assert torch.equal(bank.rows[[0, 2, 3, 5]], before[[0, 2, 3, 5]])


def test_bank_without_momentum_holds_what_came() -> None:
    bank = Bank(6, 4, momentum=0.0, name="t")
    new = F.normalize(torch.randn(1, 4), dim=1)
    bank.update(torch.tensor([2]), new)
    torch.testing.assert_close(bank.rows[2:3], new)


class WritesBackwards(TorchDispatchMode):
    """Writes to an index from its last to its first, as CUDA may."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.index_put_.default:
            rows, indices, values, *rest = args
            args = (rows, [index.flip(0) for index in indices], values.flip(0), *rest)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("order", [contextlib.nullcontext, WritesBackwards])
def test_of_a_repeated_index_the_last_occurrence_counts_in_whatever_order_rows_are_written(
    order: Callable[[], contextlib.AbstractContextManager],
) -> None:
    bank = Bank(6, 4, momentum=0.25, name="t")
    index, rows = torch.tensor([4, 1, 4, 2, 1, 4]), torch.randn(6, 4, generator=generator("repeated"))
    expected, before = bank.rows.clone(), bank.rows.clone()
    for pair, row in zip(index.tolist(), rows, strict=True):
        expected[pair] = F.normalize(0.25 * before[pair] + 0.75 * row, dim=0)
    with order():
        bank.update(index, rows)
    torch.testing.assert_close(bank.rows, expected)


def test_crd_is_blind_to_a_common_rotation() -> None:
    objective = build("crd", dim=7, negatives=100)
    ours, theirs = objective.project(features(STUDENT, 4, "student"), features(TEACHER, 4, "teacher"))
    turn = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64)).Q
    before = objective._direction(ours, theirs, objective.teacher_bank, batch())
    objective.teacher_bank.rows = objective.teacher_bank.rows @ turn
    torch.testing.assert_close(
        objective._direction(ours @ turn, theirs @ turn, objective.teacher_bank, batch()), before
    )


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
    # a live positive stops the gradient on its far side, which no numerical derivative can see
    objective = build(name, **({"positive": "bank"} if "positive" in OBJECTIVES.options(name) else {}))
    teacher, here = features(TEACHER, 3, "teacher"), batch(3)

    def total(embedding: torch.Tensor, logits: torch.Tensor, stem: torch.Tensor, *maps: torch.Tensor) -> torch.Tensor:
        positive = tuple(item.relu() for item in maps)
        return objective(Features(embedding, positive, logits, stem, maps), teacher, here).loss

    student = features(STUDENT, 3, "student", grad=True)
    given = (student.embedding, student.logits, student.stem.detach().requires_grad_(), *student.preactivations)
    assert torch.autograd.gradcheck(total, given, eps=1e-6, atol=1e-5)


def test_order_of_the_batch_does_not_matter(objective: Objective) -> None:
    student, teacher, here = features(STUDENT, 4, "student"), features(TEACHER, 4, "teacher"), batch()
    turn = torch.tensor([2, 0, 3, 1])
    turned = objective(
        change(student, lambda item: item[turn]),
        change(teacher, lambda item: item[turn]),
        Batch({}, here.index[turn], here.label[turn], here.seed),
    ).loss
    torch.testing.assert_close(turned, objective(student, teacher, here).loss)


def test_loss_stays_finite_in_half_precision(objective: Objective) -> None:
    objective.float()
    student, teacher = features(STUDENT, 4, "student"), features(TEACHER, 4, "teacher")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wide = [change(item, lambda each: (each * 1e3).bfloat16()) for item in (student, teacher)]
        found = objective(wide[0], wide[1], batch()).loss
    assert found.dtype == torch.float32
    assert torch.isfinite(found)


def test_collapsed_and_zero_features_stay_finite(objective: Objective) -> None:
    for value in (0.0, 1.0):
        same = [change(features(spec, 3, "any"), lambda item, value=value: torch.full_like(item, value))
                for spec in (STUDENT, TEACHER)]  # fmt: skip
        assert torch.isfinite(objective(same[0], same[1], batch(3)).loss)


def test_memo_is_remembered_and_memory_is_live(objective: Objective) -> None:
    outcome = objective(features(STUDENT, 4, "student"), features(TEACHER, 4, "teacher"), batch())
    before = {name: tensor.clone() for name, tensor in objective.memory().items()}
    objective.remember(*outcome.memo)
    changed = [name for name, tensor in objective.memory().items() if not torch.equal(tensor, before[name])]
    assert changed == list(before)  # all of it where there is any, nothing where there is none


# --- refusals ---


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("crd", {"temperature": 0.0}, "temperature above 0.*temperature=0.0"),
        ("crd", {"momentum": 1.0}, "momentum from 0 to below 1.*momentum=1.0"),
        ("kd", {"temperature": -1.0}, "temperature must be above 0, got -1.0"),
        ("infonce", {"temperature": 0.0}, "infonce needs temperature above 0"),
        ("cross_entropy", {"smoothing": 1.0}, "smoothing must be from 0 to below 1, got 1.0"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(name, **options)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES.names() if OBJECTIVES.get(name).uses_teacher])
def test_a_missing_teacher_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="teacher"):
        OBJECTIVES.get(name)(STUDENT, None, PAIRS)


def test_kd_refuses_other_classes() -> None:
    with pytest.raises(ValueError, match="same classes; got a student with 5 and a teacher with 9"):
        OBJECTIVES.get("kd")(STUDENT, Spec(8, (), 9), PAIRS)


def test_transfer_refuses_an_empty_sum_and_negative_weights() -> None:
    student = ENCODERS.get("convnet")((1, 16, 16), 0, width=4)
    with pytest.raises(ValueError, match="at least one objective"):
        Transfer(student, "depth", {})
    with pytest.raises(ValueError, match="weight of objective 'kd' must be at least 0, got -1"):
        Transfer(student, "depth", {"kd": Term(build("kd"), -1.0, "rgb")})
