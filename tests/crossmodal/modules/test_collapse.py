"""What is watched of a pretraining, on vectors whose figures are known."""

import math

import pytest
import torch
import torch.nn.functional as F
from drawn import draw, show
from torch import Tensor

from crossmodal.modules.collapse import SEEN, warn, watch
from crossmodal.multiview import Pairings, Views


def figures(views: Views, *owners: str) -> dict[str, float]:
    return {name: value.item() for name, value in watch(views, owners or ["one"] * len(views.queries)).items()}


def many(queries: Tensor, keys: Tensor | None = None, pairings: Pairings | None = None) -> Views:
    count = torch.arange(queries.shape[1])
    return show(queries, keys, pairings=pairings, index=count, label=count)


def both(vectors: Tensor) -> Tensor:
    return vectors.expand(2, -1, -1)


def test_of_one_point_rank_and_spread_are_0_and_no_pair_is_found() -> None:
    found = figures(many(both(draw("one", 1, 8)).expand(2, 10, 8)))
    assert found == pytest.approx(
        {"rank": 0, "spread": 0, "positive": 1, "negative": 1, "found": 0, "chance": 0.1}, abs=1e-7
    )


def test_on_a_line_the_rank_is_1() -> None:
    line = torch.tensor([1.0, -1.0] * 4)[:, None] * draw("one", 1, 8)
    found = figures(many(both(line)))
    assert found["rank"] == pytest.approx(1)
    assert found["spread"] == pytest.approx(1)


@pytest.mark.parametrize("rank", [2, 5, 8])
def test_the_rank_is_the_number_of_directions_that_are_used_alike(rank: int) -> None:
    corners = torch.cat([torch.eye(8)[:rank], -torch.eye(8)[:rank]])
    found = figures(many(both(corners)))
    assert found["rank"] == pytest.approx(rank)
    assert found["spread"] == pytest.approx(1)
    assert found["found"] == 1


def test_the_rank_is_that_of_the_covariances_eigenvalues() -> None:
    vectors = draw("now", 3, 50, 8) * torch.linspace(0.2, 1, 8) + 0.1
    ranks, spreads = [], []
    for view in vectors:
        values = torch.linalg.eigvalsh(torch.cov(view.T, correction=0)).tolist()
        ranks.append(sum(values) ** 2 / sum(value**2 for value in values))
        spreads.append(sum(values) ** 0.5)
    found = figures(many(vectors, pairings=((0, 1), (2, 1))))
    assert found["rank"] == pytest.approx((ranks[0] + ranks[2]) / 2)
    assert found["spread"] == pytest.approx((spreads[0] + spreads[2]) / 2)


def test_everywhere_on_the_sphere_rank_is_nearly_dim_and_spread_nearly_1() -> None:
    found = figures(many(both(draw("everywhere", 200, 8))))
    assert 7 < found["rank"] < 8
    assert found["spread"] == pytest.approx(1, abs=0.02)
    assert found["negative"] == pytest.approx(0, abs=0.02)


def test_cosines_are_those_of_the_own_pair_and_of_others() -> None:
    queries, keys = draw("now", 3, 6, 4), draw("slow", 3, 6, 4)
    views, positive, negative, best = many(queries, keys, pairings=((0, 1), (2, 0))), [], [], []
    for view, other in views.pairings:
        for row in range(6):
            cosines = [float(queries[view, row] @ key) for key in keys[other]]
            positive.append(cosines[row])
            negative += cosines[:row] + cosines[row + 1 :]
            best.append(max(range(6), key=cosines.__getitem__) == row)
    found = figures(views)
    assert found["positive"] == pytest.approx(sum(positive) / 12)
    assert found["negative"] == pytest.approx(sum(negative) / 60)
    assert found["found"] == pytest.approx(sum(best) / 12)
    assert 0 < sum(best) < 12


def test_of_shuffled_pairs_no_more_than_chance_are_found() -> None:
    vectors = draw("now", 200, 16)
    shuffled = figures(many(torch.stack([vectors, vectors.roll(1, 0)])))
    assert shuffled["found"] == 0
    unrelated = figures(many(draw("unrelated", 2, 200, 16)))
    assert 0 < unrelated["found"] < 4 * unrelated["chance"]
    assert figures(many(both(vectors)))["found"] == 1


def test_of_a_large_batch_some_pairs_are_looked_at() -> None:
    assert figures(many(both(draw("large", 2 * SEEN, 8))))["chance"] == pytest.approx(1 / SEEN)


def test_of_a_batch_of_one_there_is_nothing_to_say() -> None:
    found = figures(many(draw("now", 2, 1, 4)))
    assert len(found) == 6 and all(map(math.isnan, found.values()))


@pytest.mark.parametrize("bad", ["point", "shuffled"])
@pytest.mark.parametrize("crops", [1, 2])
def test_of_several_encoders_the_one_that_fails_is_named(crops: int, bad: str) -> None:
    rows, owners = draw("now", 200, 16), [name for name in ("rgb", "depth", "audio") for _ in range(crops)]
    vectors = rows.repeat(3 * crops, 1, 1)
    vectors[2 * crops :] = rows[:1] if bad == "point" else rows.roll(1, 0)
    said = warn(figures(many(vectors), *owners))
    chance = [f"{other} and audio: pairs are found no better than by chance" for other in ("rgb", "depth")]
    if bad == "point":
        chance = ["audio: all vectors are nearly one point", *chance, *["audio: pairs are found no"] * (crops - 1)]
    assert sorted(text[:20] for text in said) == sorted(text[:20] for text in chance)
    assert warn(figures(many(rows.repeat(3 * crops, 1, 1)), *owners)) == []


def test_of_pairs_that_lack_a_view_the_others_are_watched() -> None:
    vectors, there = draw("now", 2, 6, 4), torch.tensor([[True] * 6, [False, True, True, False, True, True]])
    views = many(vectors)
    found = figures(Views(views.queries, views.keys, views.pairings, views.index, views.label, there), "rgb", "depth")
    alone = figures(many(vectors[:, there[1]]), "rgb", "depth")
    assert found["spread.rgb"] == pytest.approx(figures(many(vectors), "rgb", "depth")["spread.rgb"])
    shared = alone.keys() - {"spread.rgb", "rank.rgb"}
    assert {name: found[name] for name in shared} == pytest.approx({name: alone[name] for name in shared})
    assert found["chance.rgb.depth"] == 1 / 4


def test_views_that_do_not_meet_have_no_cosines_but_a_rank() -> None:
    vectors = draw("now", 1, 6, 4)
    found, twice = figures(many(vectors, pairings=())), figures(many(both(vectors[0])))
    assert found == pytest.approx({name: twice[name] for name in ("rank", "spread")})


def test_nothing_that_is_watched_has_a_gradient() -> None:
    assert not any(value.requires_grad for value in watch(many(draw("now", 2, 6, 4).requires_grad_()), "ab").values())


# --- warnings ---

GOOD = {"rank": 9.0, "spread": 0.9, "positive": 0.8, "negative": 0.0, "found": 0.7, "chance": 0.01}


def test_a_pretraining_that_goes_well_is_not_warned_of() -> None:
    assert warn(GOOD) == []
    assert warn(figures(many(both(draw("now", 200, 16))))) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"spread": 0.04, "rank": 1.0}, "nearly one point (collapse)"),
        ({"rank": 1.9}, "nearly on a line (effective rank below 2"),
        ({"found": 0.02}, "found no better than by chance"),
        ({"negative": 0.76}, "hardly closer than others (a margin of cosines below 0.05)"),
    ],
)
def test_what_looks_wrong_is_named_once(changed: dict[str, float], words: str) -> None:
    (said,) = warn(GOOD | changed)
    assert words in said


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (F.normalize(draw("one", 1, 16) + 0.01 * draw("little", 200, 16), dim=1), ["collapse"]),
        (draw("one", 1, 16).expand(200, 16), ["collapse", "by chance"]),
        (torch.tensor([1.0, -1.0] * 100)[:, None] * draw("one", 1, 16), ["on a line", "by chance"]),
    ],
    ids=["near a point", "a point", "a line"],
)
def test_constructed_failures_are_named(vectors: Tensor, words: list[str]) -> None:
    said = warn(figures(many(both(vectors))))
    assert len(said) == len(words)
    for text, word in zip(said, words, strict=True):
        assert word in text


@pytest.mark.parametrize("rows", [1, 2])
def test_of_two_pairs_that_are_found_no_chance_is_told(rows: int) -> None:
    said = warn(figures(many(both(torch.eye(4)[:rows]))))
    assert not any("chance" in text for text in said)


def test_where_no_views_meet_nothing_is_said_of_chance() -> None:
    assert warn(figures(many(draw("now", 1, 6, 4), pairings=()))) == []


def test_a_pair_that_is_twice_in_a_batch_is_found_and_no_negative_of_itself() -> None:
    vectors = F.normalize(torch.eye(4, 8) + 0.1, dim=1)[[0, 1, 2, 3, 1]]
    views = show(both(vectors), None, index=torch.tensor([0, 1, 2, 3, 1]), label=torch.arange(5))
    found, once = figures(views), figures(many(both(vectors[:4])))
    assert found["found"] == once["found"] == 1
    assert found["negative"] == pytest.approx(once["negative"])  # all negatives are alike here
    alone = show(both(vectors[[1, 1]]), None, index=torch.tensor([1, 1]), label=torch.arange(2))
    assert math.isnan(figures(alone)["found"]) and math.isnan(figures(alone)["negative"])
