"""Which maps meet, and at what size."""

import pytest
import torch

from crossmodal.encoders import Spec
from crossmodal.objectives.common.maps import meet, pair_maps

TWO = Spec(4, ((2, 8, 8), (4, 4, 4)), 0)
THREE = Spec(4, ((2, 16, 16), (4, 8, 8), (8, 4, 4)), 0)


def test_all_maps_meet_in_order_where_there_are_equally_many() -> None:
    assert pair_maps("at", TWO, TWO, None) == [(0, 0), (1, 1)]


def test_chosen_maps_meet() -> None:
    assert pair_maps("at", TWO, THREE, [(0, 1), (1, 2)]) == [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    ("teacher", "chosen", "words"),
    [
        (THREE, None, r"at compares maps in order, but the student has 2 and the teacher 3; .*\[1, 2\]"),
        (THREE, [(0, 3)], r"from 0 to 1 and a teacher's from 0 to 2, got \[0, 3\]"),
        (THREE, [(-1, 0)], r"got \[-1, 0\]"),
        (THREE, [], "at least one pair"),
        (None, None, "at compares maps with a teacher's, and none is named"),
    ],
)
def test_maps_that_cannot_meet_are_refused(teacher: Spec | None, chosen: list | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pair_maps("at", TWO, teacher, chosen)


def test_the_larger_map_is_averaged_down_in_each_direction() -> None:
    first, second = torch.arange(8.0).reshape(1, 1, 2, 4), torch.ones(1, 3, 1, 8)
    ours, theirs = meet(first, second)
    torch.testing.assert_close(ours, torch.tensor([[[[2.0, 3.0, 4.0, 5.0]]]]))
    assert torch.equal(theirs, torch.ones(1, 3, 1, 4))
