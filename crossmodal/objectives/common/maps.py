"""What objectives on maps share: which map of the student meets which of the teacher, and at what size."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crossmodal.encoders import Spec


def pair_maps(
    name: str, student: Spec, teacher: Spec | None, chosen: Sequence[tuple[int, int]] | None
) -> list[tuple[int, int]]:
    """The numbers of student's and teacher's map in each comparison: those `chosen`, or all in order.

    Raises:
        ValueError: there is no teacher; or the networks have different numbers of maps and none are chosen, or maps
            that are chosen do not exist. The message begins with the objective's `name`.
    """
    if teacher is None:
        raise ValueError(f"{name} compares maps with a teacher's, and none is named")
    ours, theirs = len(student.maps), len(teacher.maps)
    if chosen is None:
        if ours != theirs or not ours:
            raise ValueError(
                f"{name} compares maps in order, but the student has {ours} and the teacher {theirs}; say which meet, "
                f"as in maps: [[0, 0], [{max(ours, 1) - 1}, {max(theirs, 1) - 1}]]"
            )
        return [(number, number) for number in range(ours)]
    for mine, other in chosen:
        if not (0 <= mine < ours and 0 <= other < theirs):
            raise ValueError(
                f"{name}: maps must be pairs of a student's map from 0 to {ours - 1} and a teacher's from 0 to "
                f"{theirs - 1}, got [{mine}, {other}]"
            )
    if not chosen:
        raise ValueError(f"{name}: maps must name at least one pair of maps")
    return list(chosen)


def refuse_points(name: str, student: Spec, teacher: Spec | None, pairs: Sequence[tuple[int, int]]) -> None:
    """Refuses pairs of maps that all meet in one point, for objectives that compare how values are spread over places.

    Raises:
        ValueError: they do. The message begins with the objective's `name`.
    """
    assert teacher is not None
    if all(common_size(student.maps[mine], teacher.maps[other]) == (1, 1) for mine, other in pairs):
        raise ValueError(
            f"{name} compares where maps are strong, but all of these meet at 1x1; give the encoders larger pictures, "
            "or take an objective on embeddings"
        )


def common_size(first: tuple[int, int, int], second: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width at which two maps meet: the smaller of each."""
    return min(first[1], second[1]), min(first[2], second[2])


def meet(
    first: Float[Tensor, "batch _ _ _"], second: Float[Tensor, "batch _ _ _"]
) -> tuple[Float[Tensor, "batch _ height width"], Float[Tensor, "batch _ height width"]]:
    """Two maps at their common size; the larger is averaged down."""
    size = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    return _shrink(first, size), _shrink(second, size)


def _shrink(item: Tensor, size: tuple[int, int]) -> Tensor:
    return item if item.shape[2:] == size else F.adaptive_avg_pool2d(item, size)
