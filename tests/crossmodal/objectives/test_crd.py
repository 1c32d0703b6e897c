"""CRD against its formula in loops, against the published arithmetic, and its numbers."""

import contextlib
import json
import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from crossmodal import OBJECTIVES
from crossmodal.contrast import losses
from crossmodal.contrast.bank import Bank, draw_negatives
from crossmodal.contrast.options import Negatives
from crossmodal.contrast.pool import Choice, Relation
from crossmodal.contrast.scores import contrast
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective
from modalities.common.random import generator

PAIRS, DIM, TAU = 40, 7, 0.5
STUDENT, TEACHER = Spec(6, (), 0), Spec(8, (), 0)
BATCH = Batch({}, torch.tensor([3, 17, 8, 30]), torch.tensor([0, 1, 0, -1]), 3)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator("crd", *shape))


def build(*, seen: bool = True, **options: object) -> Objective:
    """The objective in double precision, its banks filled with what is not the live batch."""
    torch.manual_seed(0)
    options = {"directions": "both", **options}
    crd = OBJECTIVES.get("crd")(STUDENT, TEACHER, PAIRS, dim=DIM, temperature=TAU, **options).double()
    if seen:
        rows = [F.normalize(draw(PAIRS, dim)[:, :DIM], dim=1) for dim in (DIM, DIM + 1)]
        every = torch.arange(PAIRS)
        crd.sides.remember(every, every % 3, *rows[-len(crd.sides.pools) :])
    return crd


def given() -> tuple[Features, Features]:
    return Features(draw(4, 6), (), None), Features(draw(4, 8), (), None)


def in_loops(anchors: Tensor, matches: Tensor, rows: list[Tensor], *, count: int, z_over_n: float) -> float:
    """-log h(positive) - sum log(1 - h(negative)), h = e / (e + K Z / N), as the paper writes it, pair by pair."""
    total = 0.0
    for anchor, match, apart in zip(anchors, matches, rows, strict=True):
        e = math.exp(float(anchor @ match) / TAU)
        total -= math.log(e / (e + count * z_over_n))
        for row in apart:
            e = math.exp(float(anchor @ row) / TAU)
            total -= count / len(apart) * math.log(1 - e / (e + count * z_over_n))
    return total / len(anchors)


CLOSED = math.exp(1 / (2 * DIM * TAU**2))


@torch.no_grad()
@pytest.mark.parametrize("positive", ["bank", "live"])
@pytest.mark.parametrize("directions", ["both", "student"])
def test_crd_equals_its_formula_in_loops(positive: str, directions: str) -> None:
    crd = build(negatives=Negatives(count=11, draw="sample"), positive=positive, directions=directions)
    ours, theirs = crd.project(*given())
    drawn, expected = draw_negatives(BATCH.seed, BATCH.index, PAIRS, 11), 0.0
    sides = ((ours, theirs, "teacher"), (theirs, ours, "student"))
    for anchors, live, side in sides[: 2 if directions == "both" else 1]:
        bank = crd.memory()[f"{side}_rows"]
        matches = live if positive == "live" else bank[BATCH.index]
        expected += in_loops(anchors, matches, [bank[columns] for columns in drawn], count=11, z_over_n=CLOSED)
    assert crd(*given(), BATCH).loss.item() == pytest.approx(expected, abs=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("apart", ["pair", "label"])
def test_over_all_pairs_crd_is_the_mean_over_draws(apart: str) -> None:
    """With more negatives than pairs the expectation is computed; every other pair weighs K over their number."""
    crd = build(negatives=Negatives(count=100, apart=apart))
    ours, theirs = crd.project(*given())
    expected = 0.0
    for anchors, side in ((ours, "teacher"), (theirs, "student")):
        bank = crd.memory()[f"{side}_rows"]
        rows = [
            torch.stack([bank[j] for j in range(PAIRS) if j != i and (apart == "pair" or j % 3 != label)])
            for i, label in zip(BATCH.index.tolist(), BATCH.label.tolist(), strict=True)
        ]
        expected += in_loops(anchors, bank[BATCH.index], rows, count=100, z_over_n=CLOSED)
    assert crd(*given(), BATCH).loss.item() == pytest.approx(expected, abs=1e-7)


@torch.no_grad()
def test_a_pair_is_contrasted_with_its_batch_until_it_is_remembered() -> None:
    crd = build(seen=False, negatives=Negatives(count=100))
    seen = torch.arange(0, PAIRS, 4)
    rows = [F.normalize(draw(len(seen), dim)[:, :DIM], dim=1) for dim in (DIM, DIM + 1)]
    crd.sides.remember(seen, seen % 3, *rows)
    ours, theirs = crd.project(*given())
    expected = 0.0
    for anchors, live, side in ((ours, theirs, "teacher"), (theirs, ours, "student")):
        bank, matches, apart = crd.memory()[f"{side}_rows"], [], []
        for row, pair in enumerate(BATCH.index.tolist()):
            is_seen = pair % 4 == 0
            matches.append(bank[pair] if is_seen else live[row])
            apart.append(bank[[j for j in seen.tolist() if j != pair]] if is_seen else live[torch.arange(4) != row])
        expected += in_loops(anchors, torch.stack(matches), apart, count=100, z_over_n=CLOSED)
    assert crd(*given(), BATCH).loss.item() == pytest.approx(expected, abs=1e-7)


def test_related_positives_leave_no_row_of_the_label_among_the_negatives() -> None:
    crd = build(positive="related", directions="student", negatives=Negatives(count=100))
    ours = crd.project(*given())[0].detach()
    bank, keys = crd.memory()["teacher_rows"], (torch.arange(PAIRS) % 3).tolist()
    match = crd.sides.of_teacher.choose(crd.sides.known(BATCH), BATCH.seed).match
    assert match is not None
    labels = BATCH.label.tolist()
    assert [keys[pair] for pair in match.tolist()[:3]] == labels[:3] and match[3] == BATCH.index[3]
    apart = [bank[[j for j in range(PAIRS) if j != pair and keys[j] != label]]
             for pair, label in zip(BATCH.index.tolist(), labels, strict=True)]  # fmt: skip
    expected = in_loops(ours, bank[match], apart, count=100, z_over_n=CLOSED)
    assert crd(*given(), BATCH).loss.item() == pytest.approx(expected, abs=1e-7)


def test_z_is_measured_once_when_all_rows_are_written() -> None:
    hundred = Negatives(count=100)
    crd, closed = build(seen=False, z="first", negatives=hundred), build(negatives=hundred)
    found = crd(*given(), BATCH)
    torch.testing.assert_close(found.loss, build(seen=False, negatives=hundred)(*given(), BATCH).loss)
    crd.remember(*found.memo)
    assert crd.memory()["log_z"].isnan().all()
    every, held = torch.arange(PAIRS), list(closed.sides.pools.values())
    crd.sides.remember(every, every % 3, *(pool.rows for pool in held))
    for pool, full in zip(crd.sides.pools.values(), held, strict=True):
        pool.rows.copy_(full.rows)
    crd.remember(*crd(*given(), BATCH).memo)
    measured = crd.memory()["log_z"].clone()
    for level, anchors, side in zip(measured, crd.project(*given()), ("teacher", "student"), strict=True):
        scores = [anchors[row] @ full / TAU for row, pair in enumerate(BATCH.index.tolist())
                  for full in crd.memory()[f"{side}_rows"]]  # fmt: skip
        assert level.item() == pytest.approx(torch.stack(scores).exp().mean().log().item(), abs=0.05)
    crd.remember(*crd(*given(), BATCH).memo)
    assert torch.equal(crd.memory()["log_z"], measured)


@pytest.mark.parametrize("options", [{"z": "learned"}, {"negatives": Negatives(draw="all")},
                                     {"negatives": Negatives(place="host")}, {"directions": "student"}])  # fmt: skip
def test_compat_refuses_what_it_would_change(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="compat: repdistiller sets z: first, both directions and a draw"):
        build(compat="repdistiller", **options)


def test_compat_wants_a_bank() -> None:
    with pytest.raises(ValueError, match=r"crd: compat .* need negatives of source bank, got queue"):
        OBJECTIVES.get("crd")(STUDENT, TEACHER, PAIRS, negatives=Negatives("queue"), compat="repdistiller")


def published(anchors: Tensor, bank: Tensor, picked: Tensor) -> Tensor:
    """The published arithmetic, by a gather of rows: exp, Z of this batch, 1e-7; column 0 is the positive."""
    scores = torch.exp(torch.einsum("bd,bkd->bk", anchors, bank[picked]) / TAU)
    pairs, negatives = len(bank), picked.shape[1] - 1
    p = scores / (scores.mean().detach() * pairs)
    noise = negatives / pairs
    losses = -(p[:, 0] / (p[:, 0] + noise + 1e-7)).log() - (noise / (p[:, 1:] + noise + 1e-7)).log().sum(1)
    return losses.mean()


def test_compat_is_the_published_arithmetic_with_its_gradients() -> None:
    crd = build(seen=False, negatives=Negatives(count=11), compat="repdistiller")
    student, teacher = given()
    drawn = draw_negatives(BATCH.seed, BATCH.index, PAIRS, 11, own=True)
    picked = torch.cat([BATCH.index[:, None], drawn], 1)
    found = crd(student, teacher, BATCH)
    ours, theirs = crd.project(student, teacher)
    expected = published(ours, crd.memory()["teacher_rows"], picked) + published(
        theirs, crd.memory()["student_rows"], picked
    )
    torch.testing.assert_close(found.loss, expected, rtol=1e-12, atol=0)
    for one, other in zip(*(torch.autograd.grad(loss, list(crd.parameters())) for loss in (found.loss, expected)),
                          strict=True):  # fmt: skip
        torch.testing.assert_close(one, other)
    first = crd.memory()["log_z"].clone()
    assert first.isnan().all()
    crd.remember(*found.memo)
    settled = crd.memory()["log_z"].clone()
    assert settled.isfinite().all()
    crd.remember(*crd(student, teacher, BATCH).memo)
    assert torch.equal(crd.memory()["log_z"], settled)


def test_compat_gives_the_numbers_of_the_published_code() -> None:
    """Over three steps with the banks' updates; written by `python benchmarks/crd.py CHECKOUT --golden`."""
    here = Path(__file__).parent
    benchmark = runpy.run_path(str(here.parents[2] / "benchmarks" / "crd.py"))
    expected = json.loads((here / "crd_published.json").read_text())
    bench = benchmark["Bench"](None, torch.device("cpu"))
    found = benchmark["golden"](bench, benchmark["twins"](bench, *benchmark["GOLDEN"])[1])
    assert len(found) == 3
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-6), name  # there, 0.07 is a float32


def test_running_z_follows_and_learned_z_has_a_gradient() -> None:
    crd = build(negatives=Negatives(count=11), z="running")
    levels = []
    for _ in range(3):
        crd.remember(*crd(*given(), BATCH).memo)
        levels.append(crd.memory()["log_z"].clone())
    assert not torch.equal(levels[0], levels[1]) and not torch.equal(levels[1], levels[2])
    crd = build(negatives=Negatives(count=11), z="learned")
    crd(*given(), BATCH).loss.backward()
    assert crd.learned.grad.abs().min() > 0
    torch.testing.assert_close(crd.learned.detach(), torch.full((2,), math.log(CLOSED)).double())


def test_in_one_direction_the_teacher_s_head_is_frozen_and_nothing_is_kept_of_the_student() -> None:
    crd = build(negatives=Negatives(count=11), directions="student")
    assert sorted(crd.memory()) == ["teacher_due", "teacher_rows", "teacher_written"]
    crd(*given(), BATCH).loss.backward()
    assert [name for name, weight in crd.named_parameters() if weight.requires_grad] == [
        "sides.heads.student.weight", "sides.heads.student.bias"]  # fmt: skip
    assert all(weight.grad is not None for weight in crd.parameters() if weight.requires_grad)


def test_from_banks_each_direction_reaches_its_own_side_only() -> None:
    crd = build(negatives=Negatives(count=11))
    student, teacher = given()
    meetings, _ = crd.sides.meet(student, teacher, BATCH)
    anchors, candidates = meetings[0]
    contrast(losses.nce, anchors, candidates, scale=crd.sides.scale, bias=crd.log_z[0]).backward()
    assert crd.sides.heads.student.weight.grad.any() and crd.sides.heads.teacher.weight.grad is None


@pytest.mark.parametrize("count", [16_384, 3_000])
def test_crd_starts_where_the_closed_form_says(count: int) -> None:
    """A direction: ln K + 1 + 1 / (2 d tau^2): 11.50 at K = 16,384, d = 128, tau = 0.07."""
    torch.manual_seed(0)
    options = {"negatives": Negatives(count=count), "compat": "repdistiller"}
    crd = OBJECTIVES.get("crd")(Spec(64, (), 0), Spec(64, (), 0), 50_000, **options)
    random = generator("start")
    # features of unrelated networks: independent directions
    sides = [Features(torch.randn(64, 64, generator=random), (), None) for _ in range(2)]
    found = crd(*sides, Batch({}, torch.arange(64), torch.zeros(64, dtype=torch.int64), 1)).loss
    assert found.item() / 2 == pytest.approx(math.log(count) + 1 + 1 / (2 * 128 * 0.07**2), rel=0.02)


def test_nce_bound_reaches_the_known_information() -> None:
    """Jointly Gaussian scalars, correlation 0.9, I = 0.8304 nats: ln N + E ln h at the optimal critic."""
    random = generator("gauss")
    rho, count = 0.9, 400_000
    x = torch.randn(count, dtype=torch.float64, generator=random)
    y = rho * x + (1 - rho**2) ** 0.5 * torch.randn(count, dtype=torch.float64, generator=random)
    ratio = -0.5 * math.log(1 - rho**2) - (rho**2 * (x**2 + y**2) - 2 * rho * x * y) / (2 * (1 - rho**2))
    # the optimal score is the log density ratio and any constant, which is then ln (Z / N)
    for negatives, expected in ((1, -0.437), (4, 0.297), (16, 0.650), (64, 0.777), (256, 0.816), (1024, 0.827),
                                (4096, 0.830)):  # fmt: skip
        apart = torch.full((count, 1), -math.inf, dtype=torch.float64)  # that no critic takes for the pair
        scores = torch.cat([(ratio + 0.7)[:, None], apart], 1)
        each, _ = losses.nce(scores, None, None, torch.tensor(0.7).double(), negatives=negatives)
        bound = math.log(negatives) - each.mean().item()
        assert bound == pytest.approx(expected, abs=0.01)
        assert bound <= 0.8304 + 0.005


@torch.no_grad()
def test_crd_is_blind_to_a_common_rotation() -> None:
    crd = build(negatives=Negatives(count=100))
    turn, before = torch.linalg.qr(draw(DIM, DIM)).Q, crd(*given(), BATCH).loss
    for layer in (crd.sides.heads.student, crd.sides.heads.teacher):
        layer.weight.copy_(turn.T @ layer.weight)
        layer.bias.copy_(turn.T @ layer.bias)
    for pool in crd.sides.pools.values():
        pool.remembered["rows"] = pool.remembered["rows"] @ turn
    torch.testing.assert_close(crd(*given(), BATCH).loss, before)


def inputs(device: str) -> tuple[Features, Features, Batch]:
    student = Features(torch.randn(64, STUDENT.dim, device=device, requires_grad=True), (), None)
    teacher = Features(torch.randn(64, TEACHER.dim, device=device), (), None)
    index = torch.arange(64, device=device)
    return student, teacher, Batch({}, index, index % 3, 1)


def take_step(crd: Objective, *given: Features | Batch) -> None:
    """Forward, backward and the banks' update."""
    outcome = crd(*given)
    outcome.loss.backward()
    crd.remember(*outcome.memo)


class Launches(TorchDispatchMode):
    """Counts what a GPU would launch a kernel for, one at least: not views, nor memory that nothing is written to.

    Numbers are asked for on the CPU alone, which `test_no_step_waits_for_a_gpu` sees to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not (func.is_view or any(word in func._schema.name for word in ("empty", "_local_scalar")))
        return func(*args, **(kwargs or {}))


def pretend_full(crd: Objective) -> None:
    """All rows of its banks count as written."""
    for name, item in crd.memory().items():
        if name.endswith("_due"):
            item.zero_()


@pytest.mark.parametrize(("options", "most"), [({}, 116), ({"draw": "sample"}, 130)])
def test_a_step_takes_few_operators(options: dict, most: int) -> None:
    """On a GPU each is a launch, and the launches are what a step's time is."""
    crd = OBJECTIVES.get("crd")(STUDENT, TEACHER, 500, dim=DIM, negatives=Negatives(count=300, **options))
    pretend_full(crd)
    given = inputs("cpu")
    with Launches() as launches:
        take_step(crd, *given)
    assert most / 2 < launches.count <= most


class Apart(TorchDispatchMode):
    """Refuses what travels between a device and the CPU, but for numbers that an operator takes along."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func._schema.name in ("aten::_to_copy", "aten::copy_"):
            assert all(item.device == found.device for item in args if isinstance(item, Tensor)), func
        if func._schema.name == "aten::index_put_":  # to rows[index], CUDA copies a bare number from the CPU
            assert args[2].ndim > 0, func
        assert func._schema.name != "aten::lift_fresh" or found.device.type == "cpu"  # torch.tensor(..., device=...)
        return found


class Largest(TorchDispatchMode):
    """The most rows that travel at once."""

    rows = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func._schema.name in ("aten::_to_copy", "aten::copy_") and found.ndim == 2:
            self.rows = max(self.rows, len(found))
        return found


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_of_a_bank_in_host_memory_only_drawn_rows_travel(dtype: str) -> None:
    held = Bank(Relation(), 5000, DIM, Negatives("bank", count=300, place="host", dtype=dtype), name="t").to("meta")
    drawn = Choice(lambda piece: (None, None), torch.arange(4), torch.arange(300))
    with Largest() as largest:
        rows = held.candidates(torch.empty(4, DIM, device="meta"), drawn).rows
    assert rows.device.type == "meta" and held.rows.device.type == "cpu"
    assert largest.rows == 300


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"negatives": Negatives(count=30, draw="sample")},
        {"negatives": Negatives(count=300, draw="sample")},
        {"negatives": Negatives(draw="all")},
        {"negatives": Negatives(count=300, apart="label"), "z": "running"},
        {"negatives": Negatives("queue", count=300), "z": "learned"},
        {"negatives": Negatives("gathered")},
        {"negatives": Negatives(count=300), "positive": "related"},
        {"negatives": Negatives(count=300), "compat": "repdistiller"},
    ],
)
def test_no_step_waits_for_a_gpu(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device meta has no numbers to wait for: it refuses to tell one, or how many there are of anything."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which meta does not know
    crd = OBJECTIVES.get("crd")(STUDENT, TEACHER, 5000, dim=DIM, **options).to("meta")
    given = inputs("meta")
    with Apart():
        take_step(crd, *given)
        take_step(crd, *given)  # a bank asks a few times a pass whether it is full, and here not yet
        pretend_full(crd)
        take_step(crd, *given)


def test_running_z_keeps_nine_tenths_of_itself() -> None:
    crd = build(negatives=Negatives(count=11), z="running")
    first = crd(*given(), BATCH).memo
    crd.remember(*first)
    before = crd.memory()["log_z"].clone()
    measured = first[-1][0]
    assert torch.equal(before, measured)  # the first measurement as it is
    crd.remember(*first[:-1], first[-1] + 1)
    torch.testing.assert_close(crd.memory()["log_z"], 0.9 * before + 0.1 * (measured + 1))


def test_each_bank_learns_its_own_side_of_the_batch() -> None:
    crd = build(seen=False, negatives=Negatives(count=11, momentum=0.0))
    crd.remember(*crd(*given(), BATCH).memo)
    for rows, side in zip(crd.project(*given()), ("student", "teacher"), strict=True):
        torch.testing.assert_close(crd.memory()[f"{side}_rows"][BATCH.index].double(), rows.detach())


@torch.no_grad()
def test_negatives_that_are_apart_by_group_share_no_group_whatever_their_labels() -> None:
    crd = build(negatives=Negatives(count=100, apart="group"))  # which knows i % 3 as the group of pair i
    batch = replace(BATCH, group=BATCH.index % 3, label=torch.full_like(BATCH.label, 7))
    ours, theirs = crd.project(*given())
    expected = 0.0
    for anchors, side in ((ours, "teacher"), (theirs, "student")):
        bank = crd.memory()[f"{side}_rows"]
        rows = [bank[[j for j in range(PAIRS) if j % 3 != i % 3]] for i in BATCH.index.tolist()]
        expected += in_loops(anchors, bank[BATCH.index], rows, count=100, z_over_n=CLOSED)
    assert crd(*given(), batch).loss.item() == pytest.approx(expected, abs=1e-7)


def test_z_is_the_mean_over_all_parts_of_a_step() -> None:
    crd = build(negatives=Negatives(count=11), z="first")
    memo = crd(*given(), BATCH).memo
    levels = torch.tensor([[1.0, 4.0], [1.0, 4.0], [3.0, 5.0], [3.0, 5.0]]).double()
    crd.remember(*memo[:-1], levels)
    torch.testing.assert_close(crd.memory()["log_z"], levels.exp().mean(0).log())
