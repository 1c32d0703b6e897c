"""What a recording holds and how its streams go together, measured on some of its frames."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped

from crossmodal.sources.recordings.clocks import ClockOffset, Motion, measure_offset, small
from crossmodal.sources.recordings.content import as_numbers
from crossmodal.sources.recordings.plan import SECOND
from crossmodal.sources.recordings.stream import Frame, Recording
from modalities.codecs.depth import readings_of

STRETCH_NS = 10 * SECOND  # of the recording, in which motion is measured
STRETCHES = 4
GAP = 3  # times the usual distance of two frames


@dataclass(frozen=True)
class Timing:
    """When a stream has frames."""

    begin_ns: int
    end_ns: int
    rate_hz: float  # by the median distance of two frames; 0 with fewer than two
    gaps: int  # distances of more than three times the median
    longest_gap_s: float
    back: int  # frames whose stamp lies before that of the frame before

    @classmethod
    def of(cls, stamps: Int64[np.ndarray, " frames"]) -> "Timing":
        """The timing of one frame or more."""
        steps = np.diff(stamps)
        usual = float(np.median(steps)) if len(steps) else 0.0
        wide = steps[steps > GAP * usual] if usual > 0 else steps[:0]
        return cls(
            int(stamps.min()), int(stamps.max()), SECOND / usual if usual > 0 else 0.0, len(wide),
            float(wide.max(initial=0)) / SECOND, int((steps < 0).sum()),
        )  # fmt: skip


@dataclass(frozen=True)
class Readings:
    """The numbers of some depth or thermal maps as they are stored."""

    percentiles: dict[int, float]  # of all readings: 1, 5, 25, 50, 75, 95, 99
    none: float  # share of pixels without a reading: 0, negative or not finite
    whole: bool  # whether they are integers
    frames: int

    @classmethod
    def of(cls, recording: Recording, stream: str, count: int = 16) -> "Readings | None":
        """The readings of frames that are spread evenly over a recording; None if there are none.

        Args:
            recording: that has the stream.
            stream: of depth or of temperature.
            count: number of frames.
        """
        numbers = _spread(len(recording.stamps(stream)), count)
        return cls._of(as_numbers(frame) for frame in recording.frames({stream: numbers}))

    @classmethod
    def of_files(cls, paths: Sequence[Path]) -> "Readings | None":
        """The readings of files of maps; None if there are none."""
        return cls._of(as_numbers(Frame("", 0, path.read_bytes())) for path in paths)

    @classmethod
    def _of(cls, maps: Iterable[Shaped[np.ndarray, "height width"]]) -> "Readings | None":
        parts, pixels, whole = [], 0, True
        for stored in maps:
            some = stored[::2, ::2]
            pixels, whole = pixels + some.size, whole and some.dtype.kind in "iu"
            parts.append(readings_of(some, 0).astype(np.float64))
        readings = np.concatenate(parts) if parts else np.zeros(0)
        if not len(readings):
            return None
        shares = (1, 5, 25, 50, 75, 95, 99)
        values = dict(zip(shares, np.percentile(readings, shares).tolist(), strict=True))
        return cls(values, 1 - len(readings) / pixels, whole, len(parts))


def _spread(total: int, count: int) -> Int64[np.ndarray, " some"]:
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))


def clock_offset(recording: Recording, first: str, second: str) -> ClockOffset | None:
    """How far the clock of a stream of pictures or maps is ahead of that of another, by the motion in some stretches.

    Args:
        recording: that has both streams.
        first: the stream that the offset is measured against.
        second: the other stream.
    """
    stamps = {name: recording.stamps(name) for name in (first, second)}
    begin = max(int(each.min()) for each in stamps.values())
    end = min(int(each.max()) for each in stamps.values())
    if end - begin <= STRETCHES * STRETCH_NS:
        parts = [(begin, end)]
    else:
        starts = np.linspace(begin, end - STRETCH_NS, STRETCHES).astype(np.int64)
        parts = [(int(start), int(start) + STRETCH_NS) for start in starts]
    stretches = []
    for low, high in parts:
        wanted = {
            name: np.flatnonzero((each >= low) & (each <= high)).astype(np.int64) for name, each in stamps.items()
        }
        if min(map(len, wanted.values())) < 3:
            continue
        motion = _motion(recording, stamps, wanted)
        if len(motion) == 2:
            stretches.append((motion[first], motion[second]))
    return measure_offset(stretches) if stretches else None


def _motion(
    recording: Recording, stamps: dict[str, Int64[np.ndarray, " frames"]], wanted: dict[str, Int64[np.ndarray, " some"]]
) -> dict[str, Motion]:
    """The motion in each stream, with one small picture of each in memory."""
    last: dict[str, tuple[int, Shaped[np.ndarray, "h w"]]] = {}
    middles: dict[str, list[int]] = {name: [] for name in wanted}
    rates: dict[str, list[float]] = {name: [] for name in wanted}
    for frame in recording.frames(wanted):
        stamp, picture = int(stamps[frame.stream][frame.number]), small(as_numbers(frame))
        if frame.stream in last and (step := stamp - last[frame.stream][0]) > 0:
            before = last[frame.stream]
            motion = Motion.of(np.asarray([before[0], stamp]), iter((before[1], picture)))
            middles[frame.stream].append(before[0] + step // 2)
            rates[frame.stream].append(float(motion.rate[0]))
        last[frame.stream] = stamp, picture
    return {
        name: Motion(np.asarray(middles[name], dtype=np.int64), np.asarray(rates[name], dtype=np.float64))
        for name in wanted
        if len(middles[name]) >= 3
    }
