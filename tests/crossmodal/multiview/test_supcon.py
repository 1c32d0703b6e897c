"""SupCon, and InfoNCE with negatives of every view, in plain loops; its gradient, floor and edges."""

import math

import pytest
import torch
import torch.nn.functional as F
from drawn import DIM, ROWS, VIEWS, build, draw, show
from torch import Tensor

from crossmodal.contrast import losses
from crossmodal.multiview import Views

TAU = 0.5
FORMS = ("out", "in")


def neighbours(views: Views, anchor: int, pair: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Places, as (view, pair), of an anchor's positives and of all its candidates."""
    seen = [view for view in range(len(views.keys)) if view == anchor or (anchor, view) in views.pairings]
    places = [(view, other) for view in seen for other in range(len(views.index)) if (view, other) != (anchor, pair)]
    label = views.label.tolist()
    return [(view, other) for view, other in places
            if other == pair or (label[other] == label[pair] and label[pair] >= 0)], places  # fmt: skip


def in_loops(views: Views, form: str) -> list[float]:
    """The losses of the anchors that have a positive."""
    found = []
    for anchor in sorted({view for view, _ in views.pairings}) or range(len(views.keys)):
        for pair in range(len(views.index)):
            positives, places = neighbours(views, anchor, pair)
            score = {place: math.exp(float(views.queries[anchor, pair] @ views.keys[place]) / TAU) for place in places}
            shares = [score[place] / sum(score.values()) for place in positives]
            if form == "out" and shares:
                found.append(-sum(map(math.log, shares)) / len(shares))
            elif shares:
                found.append(-math.log(sum(shares) / len(shares)))
    return found


def loss(views: Views, form: str = "out", **options: object) -> Tensor:
    return build("supcon", views=len(views.queries), temperature=TAU, form=form, **options)(views).loss


SOME_MEET = {"all": None, "first asks": ((0, 1), (0, 2)), "none": (), "a chain": ((0, 1), (1, 0), (1, 2))}


@pytest.mark.parametrize("pairings", SOME_MEET)
@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_supcon_equals_its_formula_in_loops(form: str, slow: bool, pairings: str) -> None:
    keys = draw("slow", VIEWS, ROWS, DIM) if slow else None
    views = show(draw("now", VIEWS, ROWS, DIM), keys, pairings=SOME_MEET[pairings])
    losses = in_loops(views, form)
    assert loss(views, form).item() == pytest.approx(sum(losses) / len(losses), abs=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_of_an_anchor_is_that_of_the_paper(form: str) -> None:
    """Equations 4 and 5, whose X is 1 / |P| or the softmax over positives."""
    queries = draw("now", VIEWS, ROWS, DIM).requires_grad_()
    views = show(queries, queries.detach())
    (gradient,) = torch.autograd.grad(loss(views, form), queries)
    now = queries.detach()
    for anchor in range(VIEWS):
        for pair in range(ROWS):
            positives, places = neighbours(views, anchor, pair)
            score = {place: math.exp(float(now[anchor, pair] @ now[place]) / TAU) for place in places}
            expected = torch.zeros(DIM, dtype=torch.float64)
            for place in places:
                wanted = 0.0
                if place in positives:
                    among = sum(score[other] for other in positives)
                    wanted = 1 / len(positives) if form == "out" else score[place] / among
                expected += (score[place] / sum(score.values()) - wanted) * now[place] / TAU
            torch.testing.assert_close(gradient[anchor, pair], expected / (VIEWS * ROWS))


@pytest.mark.parametrize("name", ["supcon", "infonce"])
def test_two_views_without_shared_labels_are_nt_xent(name: str) -> None:
    views = show(draw("now", 2, ROWS, DIM), label=torch.arange(ROWS))
    rows, total = views.queries.flatten(0, 1), 0.0
    for row in range(2 * ROWS):
        apart = sum(math.exp(float(rows[row] @ rows[other]) / TAU) for other in range(2 * ROWS) if other != row)
        total -= math.log(math.exp(float(rows[row] @ rows[(row + ROWS) % (2 * ROWS)]) / TAU) / apart)
    found = build(name, views=2, temperature=TAU)(views).loss
    assert found.item() == pytest.approx(total / (2 * ROWS), abs=1e-12)


def test_for_every_anchor_the_logarithm_of_the_mean_is_never_above_the_mean_of_logarithms() -> None:
    scores, positive = 5 * draw("scores", 200, 9), draw("positive", 200, 9) > 0
    zero = torch.zeros((), dtype=torch.float64)
    out, inside = (head(scores.clone(), positive, None, zero)[0] for head in (losses.infonce, losses.infonce_in))
    single = positive.sum(1) <= 1
    assert single.any() and (~single).any()
    assert (inside[~single] < out[~single]).all()
    torch.testing.assert_close(inside[single], out[single])


def test_in_is_below_out_but_for_a_single_positive() -> None:
    views = show(draw("now", VIEWS, ROWS, DIM))
    assert loss(views, "in") < loss(views, "out")
    alone = show(draw("now", 2, ROWS, DIM), label=torch.full((ROWS,), -1))
    torch.testing.assert_close(loss(alone, "in"), loss(alone, "out"))


@pytest.mark.parametrize("form", FORMS)
def test_collapsed_classes_far_apart_end_at_the_logarithm_of_the_number_of_positives(form: str) -> None:
    label = torch.tensor([0, 0, 1, 1])
    poles = torch.eye(DIM, dtype=torch.float64)[0] * (1 - 2 * label[:, None])
    for count in (2, 3):
        collapsed = show(poles.expand(count, -1, -1), label=label)
        found = build("supcon", views=count, temperature=0.02, form=form)(collapsed).loss
        assert found.item() == pytest.approx(math.log(2 * count - 1), abs=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_anchors_without_a_positive_do_not_count(form: str) -> None:
    label = torch.tensor([0, 1, 0, -1, -1])
    vectors = draw("now", 1, ROWS, DIM).requires_grad_()
    views = show(vectors, pairings=(), label=label)
    losses = in_loops(show(vectors.detach(), pairings=(), label=label), form)
    assert len(losses) == 2
    assert loss(views, form).item() == pytest.approx(sum(losses) / 2, abs=1e-12)
    nothing = loss(show(vectors, pairings=(), label=torch.arange(ROWS)), form)
    assert nothing.item() == 0
    assert not torch.autograd.grad(nothing, vectors)[0].any()


@pytest.mark.parametrize("form", FORMS)
def test_another_row_of_the_same_pair_does_not_make_an_anchor_count(form: str) -> None:
    vectors, label = draw("now", 1, ROWS, DIM), torch.tensor([0, 1, 0, 2, 2])
    views = show(vectors, pairings=(), label=label, index=torch.tensor([0, 1, 2, 3, 3]))
    apart = [(0, 2, [1, 3, 4]), (2, 0, [1, 3, 4])]  # the only anchors with another pair of their label
    losses = []
    for anchor, positive, negatives in apart:
        score = [math.exp(float(vectors[0, anchor] @ vectors[0, place]) / TAU) for place in [positive, *negatives]]
        losses.append(-math.log(score[0] / sum(score)))
    assert loss(views, form).item() == pytest.approx(sum(losses) / 2, abs=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_pair_without_a_label_has_only_its_own_views(form: str) -> None:
    vectors = draw("now", VIEWS, ROWS, DIM)
    without, unique = (show(vectors, label=label) for label in (torch.full((ROWS,), -1), torch.arange(ROWS)))
    assert torch.equal(loss(without, form), loss(unique, form))
    assert not torch.equal(loss(without, form), loss(show(vectors, label=torch.full((ROWS,), 0)), form))


def test_the_base_temperature_multiplies_the_loss_by_the_temperature_over_it() -> None:
    views = show(draw("now", VIEWS, ROWS, DIM))
    torch.testing.assert_close(loss(views, base_temperature=0.07), loss(views) * TAU / 0.07)


def test_of_identical_vectors_all_candidates_are_equally_likely() -> None:
    same = F.normalize(torch.ones(VIEWS, ROWS, DIM, dtype=torch.float64), dim=-1)
    assert loss(show(same)).item() == pytest.approx(math.log(VIEWS * ROWS - 1))
