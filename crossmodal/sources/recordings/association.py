"""Association: which frames of two streams show the same moment, by their stamps."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64


@dataclass(frozen=True)
class Association:
    """Frames of two streams that belong together; each frame takes part at most once, and the order is kept.

    The lists are sorted by time.
    """

    first: Int64[np.ndarray, " pairs"]  # places in the first stream
    second: Int64[np.ndarray, " pairs"]  # places in the second stream
    difference_ns: Int64[np.ndarray, " pairs"]  # corrected stamp of the second less stamp of the first
    alone: int  # frames of the first stream without a frame of the second within the slop
    taken: int  # frames of the first stream whose nearest frame is nearer to another frame of the first


def associate(
    first_ns: Int64[np.ndarray, " firsts"], second_ns: Int64[np.ndarray, " seconds"], slop_ns: int
) -> Association:
    """Pairs of frames that are each the nearest of the other, at most `slop_ns` apart.

    Two frames of one stream never share a partner, and pairs never cross in time. Of two equally near frames, the
    earlier one is the nearest to a frame of the first stream, and the later one to a frame of the second: so frames
    that lie exactly between those of the other stream have partners.

    Args:
        first_ns: stamps of the first stream, in any order.
        second_ns: stamps of the second stream, on the clock of the first; see `correct`.
        slop_ns: greatest difference of a pair.
    """
    if not len(first_ns) or not len(second_ns):
        nothing = np.zeros(0, dtype=np.int64)
        return Association(nothing, nothing, nothing, alone=len(first_ns), taken=0)
    by_time, others = np.argsort(first_ns, kind="stable"), np.argsort(second_ns, kind="stable")
    mine, theirs = first_ns[by_time], second_ns[others]
    there, back = nearest(mine, theirs), nearest(theirs, mine, later=True)
    difference = theirs[there] - mine
    near: Bool[np.ndarray, " firsts"] = np.abs(difference) <= slop_ns
    mutual = back[there] == np.arange(len(mine))
    pairs = near & mutual
    return Association(
        by_time[pairs],
        others[there[pairs]],
        difference[pairs],
        alone=int((~near).sum()),
        taken=int((near & ~mutual).sum()),
    )


def nearest(
    stamps: Int64[np.ndarray, " stamps"], among: Int64[np.ndarray, " others"], *, later: bool = False
) -> Int64[np.ndarray, " stamps"]:
    """The place in the sorted `among`, which is not empty, that is nearest to each stamp.

    Args:
        stamps: nanoseconds.
        among: nanoseconds, ascending.
        later: of two that are equally near, whether the later one counts, or else the earlier one.
    """
    after = np.searchsorted(among, stamps).clip(max=len(among) - 1)
    before = (after - 1).clip(min=0)
    to_before, to_after = np.abs(stamps - among[before]), np.abs(among[after] - stamps)
    place = np.where(to_before < to_after if later else to_before <= to_after, before, after)
    return np.searchsorted(among, among[place])  # the first of equal stamps


def correct(
    stamps: Int64[np.ndarray, " frames"], *, offset_ms: float, drift_ppm: float, origin_ns: int
) -> Int64[np.ndarray, " frames"]:
    """Stamps on the clock of another stream: less an offset that grows with the time since `origin_ns`.

    Args:
        stamps: of the stream, nanoseconds.
        offset_ms: by how much this stream's clock is ahead at `origin_ns`, milliseconds.
        drift_ppm: by how much it runs faster, parts per million.
        origin_ns: the time that `offset_ms` is stated for.
    """
    ahead = offset_ms * 1e6 + (stamps - origin_ns) * (drift_ppm * 1e-6)
    return stamps - np.rint(ahead).astype(np.int64)


def backward_steps(stamps: Int64[np.ndarray, " frames"]) -> Int64[np.ndarray, " steps"]:
    """Places of the frames whose stamp lies before that of the frame stored before them."""
    return np.flatnonzero(np.diff(stamps) < 0) + 1


def thin(stamps: Int64[np.ndarray, " frames"], every_ns: int) -> Int64[np.ndarray, " some"]:
    """Places of frames that are at least `every_ns` apart, the first one included.

    Args:
        stamps: nanoseconds, ascending.
        every_ns: least time from one frame to the next.
    """
    taken, latest = [], None
    for place, stamp in enumerate(stamps.tolist()):
        if latest is None or stamp - latest >= every_ns:
            taken.append(place)
            latest = stamp
    return np.asarray(taken, dtype=np.int64)


def moved(poses: np.ndarray, metres: float, degrees: float) -> Int64[np.ndarray, " some"]:
    """Places of poses that lie `metres` from the last one taken, or are turned by `degrees` against it.

    Args:
        poses: matrices [poses, 4, 4] from camera to world, metres.
        metres: least distance; 0: the distance does not matter.
        degrees: least angle; 0: the angle does not matter.
    """
    taken: list[int] = []
    for place, pose in enumerate(poses):
        if taken:
            last = poses[taken[-1]]
            cosine = (np.trace(last[:3, :3].T @ pose[:3, :3]) - 1) / 2
            far = metres > 0 and np.linalg.norm(pose[:3, 3] - last[:3, 3]) >= metres
            turned = degrees > 0 and np.degrees(np.arccos(np.clip(cosine, -1, 1))) >= degrees
            if not far and not turned:
                continue
        taken.append(place)
    return np.asarray(taken, dtype=np.int64)
