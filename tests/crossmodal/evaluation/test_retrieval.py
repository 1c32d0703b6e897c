"""Queries and galleries of both directions, with embeddings small enough to follow by hand."""

from dataclasses import replace

import pytest
import torch
from embedded import draw, labelled, seen

from crossmodal.evaluation.retrieval import Retrieval


def test_chance_is_the_share_of_k_among_test_pairs() -> None:
    found = Retrieval((1, 5)).chance(replace(labelled(), heads=("crd",)))
    assert {name: share for name, share in found.items() if name.endswith(".R@1")} == {
        "map.to_teacher.R@1": 1 / 4, "map.to_student.R@1": 1 / 4,
        "crd.to_teacher.R@1": 1 / 4, "crd.to_student.R@1": 1 / 4,
    }  # fmt: skip
    assert [share for name, share in found.items() if name.endswith(".R@5")] == [1.0] * 4


def test_chance_of_a_class_is_by_its_share_of_test_pairs() -> None:
    found = Retrieval((1,)).chance(labelled())  # test pairs of two, one and no class
    assert found["map.to_teacher.class-R@1"] == pytest.approx((2 / 4 + 2 / 4 + 1 / 4) / 3)
    assert not any("class" in name for name in Retrieval((1,), by_label=False).chance(labelled()))


def test_each_direction_of_retrieval_has_its_own_queries() -> None:
    ours, theirs = torch.eye(3)[[0, 1, 0]], torch.eye(3)[[0, 1, 2]]  # the last student embedding is that of the first
    network = replace(seen(draw("train", 6, 3), ours), spaces={"heads": (ours, theirs)})
    assert Retrieval((1,)).measure(network, labelled(classes=())) == {
        "heads.to_teacher.R@1": pytest.approx(2 / 3),
        "heads.to_student.R@1": pytest.approx((1 / 2 + 1 + 1 / 3) / 3),  # as near are two, one and three
    }
