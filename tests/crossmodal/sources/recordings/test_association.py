"""Association of stamps, against loops and planted clocks."""

import numpy as np
import pytest

from crossmodal.sources.recordings.association import associate, backward_steps, correct, moved, thin

MS = 1_000_000


def by_loops(first: list[int], second: list[int], slop: int) -> set[tuple[int, int]]:
    """Pairs of places that are each the nearest of the other; see `associate` for those that are equally near."""

    def nearest(stamp: int, among: list[int], sign: int = 1) -> int:
        return min(range(len(among)), key=lambda place: (abs(among[place] - stamp), sign * among[place], place))

    return {
        (place, there)
        for place, stamp in enumerate(first)
        for there in [nearest(stamp, second)]
        if nearest(second[there], first, -1) == place and abs(second[there] - stamp) <= slop
    }


@pytest.mark.parametrize("seed", range(20))
def test_frames_are_associated_as_by_loops(seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second = (random.permutation(random.integers(0, 200, 40)) for _ in range(2))
    found = associate(first, second, 6)
    expected = by_loops(first.tolist(), second.tolist(), 6)
    assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == expected
    assert len(found.first) + found.alone + found.taken == len(first)
    assert (found.difference_ns == second[found.second] - first[found.first]).all()


@pytest.mark.parametrize("seed", range(5))
def test_no_frame_is_used_twice_and_pairs_never_cross(seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second = np.sort(random.integers(0, 10**9, 300)), np.sort(random.integers(0, 10**9, 200))
    found = associate(first, second, 10**9)
    assert len({*found.first.tolist()}) == len({*found.second.tolist()}) == len(found.first) > 50
    assert (np.diff(found.first) > 0).all()
    assert (np.diff(found.second) > 0).all()


@pytest.mark.parametrize("offset_ms", [0.0, 7.0, 33.0])
def test_a_planted_clock_is_corrected_to_the_nanosecond_and_losses_are_counted(offset_ms: float) -> None:
    random = np.random.default_rng(1)
    true = np.arange(3000, dtype=np.int64) * 33_333_333
    first, second = (true[random.random(3000) > 0.05] for _ in range(2))
    ahead = second + round(offset_ms * MS) + np.rint(second * 50e-6).astype(np.int64)
    back = correct(ahead, offset_ms=offset_ms, drift_ppm=50.0, origin_ns=round(offset_ms * MS))
    found = associate(first, back, 5 * MS)
    both = np.intersect1d(first, second)
    assert len(found.first) == len(both)
    assert (first[found.first] == both).all()
    assert np.abs(back - second).max() < 10_000  # the drift of the correction's own drift
    assert found.alone == len(first) - len(both)


@pytest.mark.parametrize("shift", [-15, 15])
def test_frames_half_way_between_those_of_the_other_stream_have_partners(shift: int) -> None:
    stamps = np.arange(0, 3000, 30)
    assert len(associate(stamps, stamps + shift, 15).first) >= 99


def test_nothing_goes_with_nothing() -> None:
    stamps, none = np.arange(3), np.zeros(0, dtype=np.int64)
    assert (associate(stamps, none, 5).alone, associate(none, stamps, 5).alone) == (3, 0)


def test_a_clock_that_jumps_back_is_found() -> None:
    assert backward_steps(np.asarray([1, 2, 2, 5, 3, 4, 1])).tolist() == [4, 6]


def test_thinned_frames_are_apart() -> None:
    stamps = np.asarray([0, 4, 10, 11, 19, 20, 35])
    assert thin(stamps, 10).tolist() == [0, 2, 5, 6]
    assert thin(stamps, 0).tolist() == [*range(7)]


def test_a_camera_that_stands_still_gives_one_frame() -> None:
    poses = np.tile(np.eye(4), (6, 1, 1))
    poses[:, 0, 3] = [0, 0.04, 0.11, 0.12, 0.12, 0.12]
    angle = np.radians(12)
    poses[4, :3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    assert moved(poses, 0.1, 0).tolist() == [0, 2]
    assert moved(poses, 0.1, 10).tolist() == [0, 2, 4, 5]
