"""InfoNCE and NCE between views, and alignment and uniformity, in plain loops; where InfoNCE starts."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from drawn import DIM, ROWS, VIEWS, build, draw, show
from torch import Tensor

from crossmodal import MULTIVIEW
from crossmodal.contrast.options import Negatives
from crossmodal.multiview import Multiview, Pairings, Views

TAU = 0.5
PAIRINGS: dict[str, Pairings | None] = {"all": None, "first asks": ((0, 1),), "second asks": ((1, 0),)}
EARLIER = [show(draw(f"earlier {step}", VIEWS, ROWS, DIM), index=torch.arange(ROWS) + 2 * step) for step in range(3)]


def chances(views: Views, anchor: int, other: int, rows: list[tuple[int, Tensor]]) -> list[tuple[float, list[float]]]:
    """Of each anchor, exp(score) of its pair in another view and of the rows of other pairs."""
    heat = lambda one, two: math.exp(float(one @ two) / TAU)  # noqa: E731
    return [
        (heat(query, key), [heat(query, row) for number, row in rows if number != pair])
        for pair, query, key in zip(views.index.tolist(), views.queries[anchor], views.keys[other], strict=True)
    ]


def of_batch(views: Views, *seen: int) -> list[tuple[int, Tensor]]:
    return [(pair, row) for view in seen for pair, row in zip(views.index.tolist(), views.keys[view], strict=True)]


def infonce(views: Views, rows: dict[int, list[tuple[int, Tensor]]]) -> float:
    losses = [
        -math.log(own / (own + sum(apart)))
        for anchor, other in views.pairings
        for own, apart in chances(views, anchor, other, rows[other])
    ]
    return sum(losses) / len(losses)


def nce(views: Views, rows: dict[int, list[tuple[int, Tensor]]], *, count: int | None = None) -> float:
    """-ln h(own) - sum over K others of ln(1 - h), h = e / (e + K Z / N)."""
    total, ratio = 0.0, math.exp(1 / (2 * DIM * TAU**2))
    for anchor, other in views.pairings:
        for own, apart in chances(views, anchor, other, rows[other]):
            wanted = len(apart) if count is None else count
            noise = wanted * ratio
            apart_cost = sum(math.log(1 - e / (e + noise)) for e in apart) * wanted / len(apart)
            total -= math.log(own / (own + noise)) + apart_cost
    return total / len(views.pairings) / len(views.index)


@pytest.mark.parametrize("pairings", PAIRINGS)
@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("source", ["batch", "gathered"])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("every", [False, True, None])
def test_infonce_equals_its_formula_in_loops(
    every: bool | None, count: int, source: str, slow: bool, pairings: str
) -> None:
    keys = draw("slow", count, ROWS, DIM) if slow else None
    views = show(draw("now", count, ROWS, DIM), keys, pairings=PAIRINGS[pairings])
    seen = {view: range(count) if every is not False else (view,) for view in range(count)}
    expected = infonce(views, {view: of_batch(views, *seen[view]) for view in range(count)})
    objective = build("infonce", views=count, temperature=TAU, every_view=every, negatives=Negatives(source))
    assert objective(views).loss.item() == pytest.approx(expected, abs=1e-12)


def test_nce_equals_its_formula_in_loops() -> None:
    views = show(draw("now", VIEWS, ROWS, DIM), draw("slow", VIEWS, ROWS, DIM))
    expected = nce(views, {view: of_batch(views, view) for view in range(VIEWS)})
    objective = build("nce", temperature=TAU, negatives=Negatives("gathered"))
    assert objective(views).loss.item() == pytest.approx(expected, rel=1e-7)  # ln Z in float32


@pytest.mark.parametrize("count", [12, 40])  # full, and partly filled
@pytest.mark.parametrize("name", ["infonce", "nce"])
def test_negatives_of_a_queue_are_the_other_pairs_of_the_last_steps(name: str, count: int) -> None:
    views = show(draw("now", VIEWS, ROWS, DIM), draw("slow", VIEWS, ROWS, DIM))
    rows = {view: [item for step in EARLIER for item in of_batch(step, view)][-count:] for view in range(VIEWS)}
    expected = (infonce if name == "infonce" else nce)(views, rows)
    objective = build(name, *EARLIER, temperature=TAU, negatives=Negatives("queue", count=count))
    assert objective(views).loss.item() == pytest.approx(expected, rel=1e-7)  # ln Z in float32


def remembered() -> list[dict[int, Tensor]]:
    """What banks hold of the pairs of the earlier steps, by view."""
    found = []
    for view in range(VIEWS):
        rows: dict[int, Tensor] = {}
        for step in EARLIER:
            for pair, row in of_batch(step, view):
                rows[pair] = F.normalize(0.25 * rows[pair] + 0.75 * row, dim=0) if pair in rows else row
        found.append(rows)
    return found


@pytest.mark.parametrize("name", ["infonce", "nce"])
def test_pairs_that_a_bank_holds_meet_its_other_rows_and_new_pairs_their_batch(name: str) -> None:
    held, views = remembered(), show(draw("now", VIEWS, ROWS, DIM), index=torch.tensor([10, 3, 0, 11, 8]))
    known = torch.tensor([False, True, True, False, True])
    loss = infonce if name == "infonce" else partial(nce, count=20)
    match = torch.stack([torch.stack([held[view][pair] for pair in (3, 0, 8)]) for view in range(VIEWS)])
    old = show(views.queries[:, known], match, index=views.index[known])
    new = show(views.queries[:, ~known], index=views.index[~known])
    expected = known.sum() * loss(old, {view: list(held[view].items()) for view in range(VIEWS)})
    expected += (~known).sum() * loss(new, {view: of_batch(views, view) for view in range(VIEWS)})
    objective = build(name, *EARLIER, temperature=TAU, negatives=Negatives("bank", count=20, draw="all", momentum=0.25))
    assert objective(views).loss.item() == pytest.approx(expected.item() / ROWS, rel=1e-7)  # ln Z in float32


def test_apart_by_label_negatives_share_no_label() -> None:
    views = show(draw("now", VIEWS, ROWS, DIM))
    losses = []
    for anchor, other in views.pairings:
        for row in range(ROWS):
            label = views.label.tolist()
            apart = [(at, view) for view in range(VIEWS) for at in range(ROWS)
                     if at != row and not label[at] == label[row] >= 0]  # fmt: skip
            heat = lambda view, at, own=views.queries[anchor, row]: math.exp(float(own @ views.keys[view, at]) / TAU)  # noqa: E731
            own = heat(other, row)
            losses.append(-math.log(own / (own + sum(heat(view, at) for at, view in apart))))
    objective = build("infonce", temperature=TAU, negatives=Negatives(apart="label"))
    assert objective(views).loss.item() == pytest.approx(sum(losses) / len(losses), abs=1e-12)


def test_slow_keys_get_no_gradient_and_live_ones_do() -> None:
    queries, keys = (draw(name, 2, ROWS, DIM).requires_grad_() for name in ("now", "slow"))
    objective: Multiview = build("infonce", views=2)
    asked = objective(show(queries, keys, pairings=((0, 1),))).loss
    for_queries, for_keys = torch.autograd.grad(asked, (queries, keys))
    assert for_queries[0].abs().min() > 0 and not for_queries[1].any()
    assert for_keys.abs().min() > 0


def test_infonce_of_random_directions_starts_where_cmc_says() -> None:
    pairs, dim, count, tau = 20_000, 128, 16_384, 0.07
    objective = MULTIVIEW.get("infonce")(
        dim, ((0, 1), (1, 0)), pairs, temperature=tau, negatives=Negatives("bank", count=count)
    )
    every = torch.arange(pairs)
    objective.remember(every, every, draw("bank", pairs, 2, dim).float())
    index = torch.arange(512)
    views = Views(*[draw("now", 2, 512, dim).float()] * 2, ((0, 1), (1, 0)), index, index)
    assert objective(views).loss.item() == pytest.approx(math.log(count + 1) + 1 / (2 * dim * tau**2), abs=0.1)


@pytest.mark.parametrize("pairings", PAIRINGS)
@pytest.mark.parametrize("index", [[3, 1, 4, 0, 5], [3, 1, 3, 3, 1]])  # the second has pairs that come twice
@pytest.mark.parametrize("options", [{}, {"alpha": 1.0, "t": 3.0, "align": 0.5, "uniform": 2.0}])
def test_align_uniform_equals_its_formula_in_loops(options: dict[str, float], index: list[int], pairings: str) -> None:
    views = show(draw("now", VIEWS, ROWS, DIM), draw("slow", VIEWS, ROWS, DIM), pairings=PAIRINGS[pairings],
                 index=torch.tensor(index))  # fmt: skip
    alpha, t = options.get("alpha", 2.0), options.get("t", 2.0)
    distances = [float((one - two).norm()) ** alpha for view, other in views.pairings
                 for one, two in zip(views.queries[view], views.keys[other], strict=True)]  # fmt: skip
    anchors = {view for view, _ in views.pairings}
    uniform = 0.0
    for view in anchors:
        near = [math.exp(-t * float((one - two).square().sum())) for number, one in enumerate(views.queries[view])
                for other, two in enumerate(views.queries[view, :number]) if index[other] != index[number]]  # fmt: skip
        uniform += math.log(sum(near) / len(near)) / len(anchors)
    aligned = sum(distances) / len(distances)
    outcome = build("align_uniform", **options)(views)
    assert outcome.figures["alignment"].item() == pytest.approx(aligned, abs=1e-12)
    assert outcome.figures["uniformity"].item() == pytest.approx(uniform, abs=1e-12)
    expected = options.get("align", 1.0) * aligned + options.get("uniform", 1.0) * uniform
    assert outcome.loss.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("source", "every"), [("gathered", False), ("gathered", True), ("queue", False), ("bank", False)]
)
def test_what_a_pair_lacks_is_neither_anchor_nor_candidate(source: str, every: bool) -> None:
    present = torch.rand(VIEWS, ROWS, generator=torch.Generator().manual_seed(4)) < 0.6
    views = show(draw("now", VIEWS, ROWS, DIM), present=present)
    earlier = show(draw("earlier", VIEWS, ROWS, DIM), index=torch.arange(ROWS), present=present.flip(1))
    options = {"queue": {"count": 2 * ROWS}, "bank": {"count": 100, "momentum": 0.0}}
    negatives = Negatives(source, **options.get(source, {}))
    objective = build("infonce", earlier, temperature=TAU, negatives=negatives, every_view=every)
    shown, losses = views if source == "gathered" else earlier, []
    for anchor, other in views.pairings:
        rows = [
            (shown.index[place].item(), shown.keys[view, place])
            for view in (range(VIEWS) if every else [other])
            for place in shown.present[view].nonzero()[:, 0].tolist()  # type: ignore[index]
        ]
        for place, (live, apart) in enumerate(chances(views, anchor, other, rows)):
            own, others = live, apart
            pair = int(views.index[place])
            if source == "bank" and objective.memory()[f"view{other}_written"][pair]:
                match = objective.memory()[f"view{other}_rows"][pair]
                own = math.exp(float(views.queries[anchor, place] @ match) / TAU)
            elif source == "bank":  # which holds nothing of it, so that it meets the batch
                there = zip(views.index.tolist(), views.keys[other], present[other].tolist(), strict=True)
                seen = [(number, row) for number, row, is_there in there if is_there]
                others = chances(views, anchor, other, seen)[place][1]
            if present[anchor, place] and present[other, place]:
                losses.append(-math.log(own / (own + sum(others))))
    assert objective(views).loss.item() == pytest.approx(sum(losses) / len(losses))
    garbage = torch.where(present[..., None], views.queries, draw("garbage", VIEWS, ROWS, DIM))
    assert objective(show(garbage, present=present)).loss.item() == objective(views).loss.item()


@pytest.mark.parametrize("source", ["queue", "bank"])
def test_pools_remember_keys_and_not_queries(source: str) -> None:
    shown = show(draw("queries", VIEWS, ROWS, DIM), draw("keys", VIEWS, ROWS, DIM))
    held = build("infonce", shown, negatives=Negatives(source, count=ROWS)).memory()
    for view in range(VIEWS):
        place = shown.index if source == "bank" else slice(0, ROWS)
        torch.testing.assert_close(held[f"view{view}_rows"][place].double(), shown.keys[view])
