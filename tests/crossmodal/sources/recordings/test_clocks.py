"""The offset between two clocks, planted in simulated motion."""

import numpy as np
import pytest

from crossmodal.sources.recordings.clocks import Motion, measure_offset, small

RATE_HZ = 30


def walk(seconds: float, seed: int) -> np.ndarray:
    """The way of a camera that is carried by hand, at every millisecond."""
    random = np.random.default_rng(seed)
    hz, phase = random.uniform(0.1, 3, (40, 1)), random.uniform(0, 2 * np.pi, (40, 1))
    strength = random.uniform(0.3, 1, (40, 1)) / np.sqrt(hz)
    times = np.arange(0, seconds + 1, 1e-3)
    speed = np.abs((strength * np.sin(2 * np.pi * hz * times + phase)).sum(axis=0))
    return np.cumsum(speed) * 1e-3


def seen(way: np.ndarray, seconds: float, phase: float, *, ahead_ms: float, ppm: float, seed: int) -> Motion:
    """Motion in frames of which 5 % are lost, with stamps of a clock that is ahead and runs fast."""
    random = np.random.default_rng(seed)
    times = np.arange(0.2 + phase, seconds, 1 / RATE_HZ)
    times = times[random.random(len(times)) > 0.05]
    rate = np.diff(np.interp(times, np.arange(len(way)) * 1e-3, way)) / np.diff(times)
    stamps = np.rint(times * 1e9 * (1 + ppm * 1e-6) + ahead_ms * 1e6).astype(np.int64)
    return Motion(stamps[:-1] + np.diff(stamps) // 2, rate * random.normal(1, 0.05, len(rate)))


@pytest.mark.parametrize("offset_ms", [0.0, 7.0, 33.0, -120.0])
@pytest.mark.parametrize("ppm", [0.0, 50.0])
def test_a_planted_offset_is_found_to_a_millisecond(offset_ms: float, ppm: float) -> None:
    way = walk(300, 0)
    first = seen(way, 300, 0.0, ahead_ms=0, ppm=0, seed=1)
    second = seen(way, 300, 0.011, ahead_ms=offset_ms, ppm=ppm, seed=2)
    found = measure_offset([(first, second)])
    assert found is not None
    truth = offset_ms + found.origin_ns * ppm * 1e-6 / 1e6
    assert abs(found.offset_ms - truth) < 1
    assert abs(found.drift_ppm - ppm) < 5
    assert found.high_ms - found.low_ms < 4
    assert found.correlation > 0.9


def test_streams_that_show_different_motion_have_no_offset() -> None:
    first = seen(walk(120, 0), 120, 0.0, ahead_ms=0, ppm=0, seed=1)
    second = seen(walk(120, 9), 120, 0.0, ahead_ms=0, ppm=0, seed=2)
    assert measure_offset([(first, second)]) is None


def test_a_scene_that_stands_still_has_no_offset() -> None:
    still = Motion(np.arange(900, dtype=np.int64) * 33_000_000, np.zeros(900))
    assert measure_offset([(still, still)]) is None


def test_streams_that_do_not_overlap_have_no_offset() -> None:
    first = seen(walk(60, 0), 60, 0.0, ahead_ms=0, ppm=0, seed=1)
    assert measure_offset([(first, Motion(first.middle_ns + 10**12, first.rate))]) is None


def test_a_few_seconds_give_an_offset_without_an_interval() -> None:
    way = walk(20, 3)
    first, second = (seen(way, 5.0, 0.0, ahead_ms=ahead, ppm=0, seed=0) for ahead in (0, 15))
    found = measure_offset([(first, second)])
    assert found is not None
    assert abs(found.offset_ms - 15) < 3
    assert found.high_ms == np.inf


def test_motion_is_the_change_of_a_pixel_in_a_second() -> None:
    frames = [np.full((4, 4), value, dtype=np.float32) for value in (0, 2, 2, 5)]
    frames[1][0] = np.nan
    motion = Motion.of(np.asarray([0, 10**8, 2 * 10**8, 4 * 10**8]), iter(frames))
    assert motion.rate == pytest.approx([20, 0, 15])
    assert motion.middle_ns.tolist() == [5 * 10**7, 15 * 10**7, 3 * 10**8]


def test_small_pictures_keep_what_is_seen() -> None:
    depth = np.full((480, 640), 1000, dtype=np.uint16)
    depth[:240] = 0
    shown = small(depth)
    assert max(shown.shape) < 130
    assert np.isnan(shown[:10]).all()
    assert shown[-1, 0] == pytest.approx(np.log(1000))
    assert small(np.full((480, 640, 3), (10, 20, 30), dtype=np.uint8)).max() == 20
