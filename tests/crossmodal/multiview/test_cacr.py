"""CACR in plain loops, its limits and ranges, and its gradient with weights in the graph or held."""

import math
from collections.abc import Callable
from itertools import pairwise, permutations

import pytest
import torch
import torch.nn.functional as F
from drawn import DIM, PAIRS, ROWS, VIEWS, build, draw, show
from torch import Tensor

from crossmodal import MULTIVIEW
from crossmodal.multiview import Views

Rows = list[tuple[int, Tensor]]  # pairs and their vectors
EARLIER = [show(draw(f"earlier {step}", VIEWS, ROWS, DIM), index=torch.arange(ROWS) + 2 * step) for step in range(3)]


def cost(one: Tensor, two: Tensor) -> float:
    return float((one - two).square().sum())


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def of_view(views: Views, view: int) -> Rows:
    return list(zip(views.index.tolist(), views.keys[view], strict=True))


def in_loops(
    views: Views,
    *,
    t_plus: float = 1.0,
    t_minus: float = 2.0,
    tau_plus: float = 0.0,
    rbf_t: float | None = None,
    queued: dict[int, Rows] | None = None,
    held: Views | None = None,
) -> tuple[float, float]:
    """Attraction and repulsion; weights are those of the views `held`, where they are."""
    anchors = sorted({view for view, _ in views.pairings})
    attraction, repulsions = 0.0, []
    for anchor in anchors:
        partners = [other for view, other in views.pairings if view == anchor]
        positive = {}
        for row, query in enumerate(views.queries[anchor]):
            positive[row] = [cost(query, views.keys[other, row]) for other in partners]
            before = positive[row] if held is None else [cost(held.queries[anchor, row], held.keys[other, row])
                                                         for other in partners]  # fmt: skip
            weights = softmax([t_plus * c for c in before])
            attraction += sum(w * c for w, c in zip(weights, positive[row], strict=True)) / len(anchors) / ROWS
        for other in partners:
            each = []
            for row, (pair, query) in enumerate(zip(views.index.tolist(), views.queries[anchor], strict=True)):
                rows = of_view(views, other) + (queued or {}).get(other, [])
                apart = [cost(query, key) for number, key in rows if number != pair]
                before = apart
                if held is not None:
                    before = [cost(held.queries[anchor, row], key) for number, key in of_view(held, other)
                              if number != pair]  # fmt: skip
                weights = softmax([-t_minus * c for c in before])
                if rbf_t is not None:
                    each.append(sum(w * math.exp(-rbf_t * c) for w, c in zip(weights, apart, strict=True)))
                    continue
                far = sum(w * c for w, c in zip(weights, apart, strict=True))
                each.append(-(far - tau_plus * sum(positive[row]) / len(partners)) / (1 - tau_plus))
            repulsions.append(sum(each) / ROWS if rbf_t is None else math.log(sum(each) / ROWS))
    return attraction, sum(repulsions) / len(repulsions)


def now(vectors: Tensor | None = None, keys: Tensor | None = None, **given: object) -> Views:
    return show(draw("now", VIEWS, ROWS, DIM) if vectors is None else vectors, keys, **given)


def figures(views: Views, **options: object) -> tuple[float, float]:
    found = build("cacr", **options)(views).figures
    return found["attraction"].item(), found["repulsion"].item()


@pytest.mark.parametrize("pairings", [None, ((0, 1),), ((0, 1), (0, 2), (2, 0))], ids=["all", "one", "some"])
@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("options", [{}, {"t_plus": 3.0, "t_minus": 0.9}, {"tau_plus": 0.1}, {"rbf_t": 1.5}], ids=str)
def test_cacr_equals_its_formula_in_loops(options: dict[str, float], slow: bool, pairings: object) -> None:
    views = now(keys=draw("slow", VIEWS, ROWS, DIM) if slow else None, pairings=pairings)
    attraction, repulsion = in_loops(views, **options)
    objective = build("cacr", alpha=0.7, beta=1.3, cost="rbf" if "rbf_t" in options else "euclidean", **options)
    outcome = objective(views)
    assert outcome.loss.item() == pytest.approx(0.7 * attraction + 1.3 * repulsion, abs=1e-12)
    assert outcome.figures["attraction"].item() == pytest.approx(attraction, abs=1e-12)
    assert outcome.figures["repulsion"].item() == pytest.approx(repulsion, abs=1e-12)


@pytest.mark.parametrize("count", [12, 40])  # full, and partly filled
@pytest.mark.parametrize("rbf_t", [None, 2.0])
def test_the_last_keys_are_negatives_too_but_those_of_the_own_pair(rbf_t: float | None, count: int) -> None:
    queued = {view: [row for step in EARLIER for row in of_view(step, view)][-count:] for view in range(VIEWS)}
    expected = sum(in_loops(now(), queued=queued, rbf_t=rbf_t))
    objective = build("cacr", *EARLIER, queue=count, cost="euclidean" if rbf_t is None else "rbf")
    assert objective(now()).loss.item() == pytest.approx(expected, abs=1e-12)
    assert objective(now()).loss.item() != pytest.approx(sum(in_loops(now(), rbf_t=rbf_t)), abs=1e-3)


def test_t_goes_from_the_mean_to_the_hardest() -> None:
    positives, hardest, negatives, nearest = [], [], [], []
    vectors = now().queries
    for anchor in range(VIEWS):
        for row, query in enumerate(vectors[anchor]):
            own = [cost(query, vectors[other, row]) for other in range(VIEWS) if other != anchor]
            positives, hardest = positives + own, [*hardest, max(own)]
            for other in set(range(VIEWS)) - {anchor}:
                apart = [cost(query, key) for at, key in enumerate(vectors[other]) if at != row]
                negatives, nearest = negatives + apart, [*nearest, min(apart)]
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    assert figures(now(), t_plus=1e-6, t_minus=1e-6) == pytest.approx((mean(positives), -mean(negatives)), abs=2e-6)
    assert figures(now(), t_plus=1e4, t_minus=1e4) == pytest.approx((mean(hardest), -mean(nearest)), abs=1e-6)


def test_a_larger_t_never_lowers_attraction_or_repulsion() -> None:
    found = [figures(now(), t_plus=t, t_minus=t) for t in (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0)]
    for before, after in pairwise(found):
        assert before[0] < after[0] and before[1] < after[1]


def test_with_a_single_positive_loss_and_gradient_do_not_depend_on_t_plus() -> None:
    vectors = draw("now", 2, ROWS, DIM).requires_grad_()
    losses = [build("cacr", views=2, t_plus=t)(show(vectors)).loss for t in (0.0, 1.0, 50.0)]
    gradients = [torch.autograd.grad(loss, vectors)[0] for loss in losses]
    for loss, gradient in zip(losses, gradients, strict=True):
        torch.testing.assert_close(loss, losses[0])
        torch.testing.assert_close(gradient, gradients[0])


@pytest.mark.parametrize("weights", ["graph", "detached"])
def test_what_a_positives_cost_gets_is_its_weight_and_in_the_graph_what_its_weight_gains(weights: str) -> None:
    queries, keys = draw("now", VIEWS, ROWS, DIM), draw("slow", VIEWS, ROWS, DIM).requires_grad_()
    objective = build("cacr", t_plus=3.0, beta=0.0, weights=weights)
    (gradient,) = torch.autograd.grad(objective(now(queries, keys, pairings=((0, 1), (0, 2)))).loss, keys)
    for row, query in enumerate(queries[0]):
        costs = [cost(query, keys[other, row].detach()) for other in (1, 2)]
        pi = softmax([3 * c for c in costs])
        mean = sum(p * c for p, c in zip(pi, costs, strict=True))
        for other in (1, 2):
            slope = pi[other - 1] * (1 + 3 * (costs[other - 1] - mean) if weights == "graph" else 1)
            torch.testing.assert_close(gradient[other, row], -2 * query * slope / ROWS)


def differences(loss: Callable[[Tensor], float], at: Tensor, step: float = 1e-5) -> Tensor:
    found = torch.zeros_like(at)
    for place in range(at.numel()):
        moved = [at.clone(), at.clone()]
        moved[0].view(-1)[place] += step
        moved[1].view(-1)[place] -= step
        found.view(-1)[place] = (loss(moved[0]) - loss(moved[1])) / (2 * step)
    return found


@pytest.mark.parametrize("rbf_t", [None, 2.0])
@pytest.mark.parametrize("weights", ["graph", "detached"])
def test_gradients_are_those_of_the_formula_with_weights_that_move_or_are_held(
    weights: str, rbf_t: float | None
) -> None:
    given, cost_name = draw("now", VIEWS, ROWS, DIM)[:, :, :3].clone(), "euclidean" if rbf_t is None else "rbf"
    unit = lambda vectors: now(F.normalize(vectors, dim=-1), pairings=((0, 1), (0, 2)))  # noqa: E731
    held = unit(given) if weights == "detached" else None
    expected = differences(lambda vectors: sum(in_loops(unit(vectors), rbf_t=rbf_t, held=held)), given)
    asked = given.requires_grad_()
    loss = build("cacr", dim=3, weights=weights, cost=cost_name)(unit(asked)).loss
    torch.testing.assert_close(torch.autograd.grad(loss, asked)[0], expected, atol=1e-7, rtol=1e-6)


def test_rbf_with_uniform_weights_is_alignment_and_uniformity_between_views() -> None:
    vectors, align, uniform = now().queries, 0.0, 0.0
    pairings = list(permutations(range(VIEWS), 2))
    for view, other in pairings:
        align += float((vectors[view] - vectors[other]).norm(dim=1).square().mean()) / len(pairings)
        distances = torch.cdist(vectors[view], vectors[other])[~torch.eye(ROWS, dtype=torch.bool)]
        uniform += math.log(float((-1.7 * distances.square()).exp().mean())) / len(pairings)
    found = figures(now(), cost="rbf", rbf_t=1.7, t_plus=0.0, t_minus=0.0)
    assert found == pytest.approx((align, uniform), abs=1e-12)


@pytest.mark.parametrize("t", [0.0, 1.0, 1e4])
def test_attraction_is_from_0_to_4_and_repulsion_from_minus_4_to_0(t: float) -> None:
    pole = draw("pole", 1, 1, DIM)
    together, against = pole.expand(VIEWS, ROWS, DIM), pole * torch.tensor([1.0, -1.0])[:, None, None]
    several = [draw(f"{seed}", VIEWS, ROWS, DIM) for seed in range(20)]
    several += [vectors[:, :1].expand(-1, ROWS, -1) for vectors in several]
    several += [vectors[:1].expand(VIEWS, -1, -1) for vectors in several]
    for vectors in (together, against.expand(2, ROWS, DIM), *several):
        attraction, repulsion = figures(show(vectors.clone()), t_plus=t, t_minus=t)
        assert 0 <= attraction <= 4 + 1e-12 and -4 - 1e-12 <= repulsion <= 0
    assert figures(show(together), t_plus=t, t_minus=t) == pytest.approx((0, 0), abs=1e-12)
    assert figures(show(against.expand(2, ROWS, DIM)), t_plus=t, t_minus=t) == pytest.approx((4, -4), abs=1e-12)


@pytest.mark.parametrize("cost_name", ["euclidean", "rbf"])
def test_an_anchor_without_a_negative_has_no_repulsion(cost_name: str) -> None:
    one = show(draw("now", VIEWS, 1, DIM))
    assert figures(one, cost=cost_name)[1] == 0
    twice = show(draw("now", VIEWS, 2, DIM), index=torch.tensor([3, 3]))  # one pair, drawn twice
    assert figures(twice, cost=cost_name, tau_plus=0.1 if cost_name == "euclidean" else 0.0)[1] == 0


def test_a_single_positive_is_worth_a_caution() -> None:
    caution = lambda pairings, **options: MULTIVIEW.get("cacr")(DIM, pairings, PAIRS, **options).cautions()  # noqa: E731
    pair, four = ((0, 1), (1, 0)), tuple(permutations(range(4), 2))
    assert len(caution(pair)) == 1 and "one positive, so attraction is plain alignment" in caution(pair)[0]
    assert len(caution(((0, 1), (0, 2), (1, 0)))) == 1
    assert caution(four) == caution(pair, t_plus=0.0) == []


@pytest.mark.parametrize("name", [name for name in MULTIVIEW.names() if name != "cacr"])
def test_others_have_no_caution(name: str) -> None:
    assert build(name, views=2).cautions() == []
