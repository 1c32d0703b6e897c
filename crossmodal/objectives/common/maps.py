"""Shared by objectives on maps: which student map is compared with which teacher map, and at what size."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crossmodal.encoders import Spec


def pair_maps(
    name: str, student: Spec, teacher: Spec | None, chosen: Sequence[tuple[int, int]] | None
) -> list[tuple[int, int]]:
    """Pairs of map indices (student, teacher) to compare: those `chosen`, or all in order.

    Raises:
        ValueError: there is no teacher; the numbers of maps differ and none are chosen; or a chosen map does not exist.
            The message begins with the objective's `name`.
    """
    if teacher is None:
        raise ValueError(f"{name} compares maps with a teacher's, and none is named")
    ours, theirs = len(student.maps), len(teacher.maps)
    if chosen is None:
        if ours != theirs or not ours:
            raise ValueError(
                f"{name} compares maps in order, but the student has {ours} and the teacher {theirs}; name the pairs, "
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


def pair_grids(
    name: str, student: Spec, teacher: Spec | None, chosen: Sequence[tuple[int, int]] | None
) -> list[tuple[int, int]]:
    """Pairs of map indices (student, teacher) for dense objectives: those `chosen`, or those of the two coarsest grids.

    By default, the teacher's last map on each of its two coarsest grids is compared with the student's last map on the
    grid that is nearest in number of places. If that leaves out the student's last map, on which its embedding rests,
    this is compared with the teacher's coarsest grid as well.

    Raises:
        ValueError: there is no teacher, one side has no maps, or a chosen map does not exist. The message begins with
            the objective's `name`.
    """
    if chosen is not None or teacher is None or not (student.maps and teacher.maps):
        return pair_maps(name, student, teacher, chosen)
    last = {size[1:]: number for number, size in enumerate(teacher.maps)}  # a later map replaces an earlier one
    coarsest = sorted(last, key=math.prod)[:2]
    ours = {size[1:]: number for number, size in enumerate(student.maps)}
    nearest = {grid: min(ours, key=lambda own: abs(math.log(math.prod(own) / math.prod(grid)))) for grid in coarsest}
    pairs = {(ours[nearest[grid]], last[grid]) for grid in coarsest}
    if all(mine < len(student.maps) - 1 for mine, _ in pairs):
        pairs.add((len(student.maps) - 1, last[coarsest[0]]))
    return sorted(pairs)


def resize_to(item: Float[Tensor, "batch _ _ _"], size: tuple[int, int]) -> Float[Tensor, "batch _ height width"]:
    """A map on another grid: average-pooled if it is at least as large in both directions, otherwise bilinear."""
    height, width = item.shape[2:]
    if (height, width) == size:
        return item
    if height >= size[0] and width >= size[1]:
        return F.adaptive_avg_pool2d(item, size)
    return F.interpolate(item, size, mode="bilinear", align_corners=False)


def refuse_points(name: str, student: Spec, teacher: Spec | None, pairs: Sequence[tuple[int, int]]) -> None:
    """Refuses maps whose common sizes are all 1x1, for objectives that compare values across places.

    Raises:
        ValueError: all common sizes are 1x1. The message begins with the objective's `name`.
    """
    assert teacher is not None
    if all(common_size(student.maps[mine], teacher.maps[other]) == (1, 1) for mine, other in pairs):
        raise ValueError(
            f"{name} compares where maps are strong, but the common size of all pairs is 1x1; give the encoders larger "
            "images, or use an objective on embeddings"
        )


def common_size(first: tuple[int, int, int], second: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width at which two maps are compared: the smaller of each."""
    return min(first[1], second[1]), min(first[2], second[2])


def meet(
    first: Float[Tensor, "batch _ _ _"], second: Float[Tensor, "batch _ _ _"]
) -> tuple[Float[Tensor, "batch _ height width"], Float[Tensor, "batch _ height width"]]:
    """Average-pools the larger of two maps to the common size."""
    size = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    return _shrink(first, size), _shrink(second, size)


def _shrink(item: Tensor, size: tuple[int, int]) -> Tensor:
    return item if item.shape[2:] == size else F.adaptive_avg_pool2d(item, size)
