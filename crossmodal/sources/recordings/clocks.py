"""The offset between the clocks of two streams, measured from what they show: both see the same motion at one time."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64, Shaped
from scipy.ndimage import gaussian_filter1d
from scipy.signal import correlate
from scipy.stats import theilslopes

STEP_NS = 1_000_000  # of the grid on which motion is compared; the peak is found between its points
PIECE_NS = 10_000_000_000  # length of the pieces that are compared each on its own
SHORT_NS = 2_000_000_000  # least length of a piece, where a recording is short
LEAST_CORRELATION = 0.5  # of a piece that counts: below it, the two streams do not show the same motion
LEAST_PIECES = 4  # for an interval
SIDE = 64  # pixels: motion is measured in pictures about this small


@dataclass(frozen=True)
class ClockOffset:
    """How far the clock of a second stream is ahead of that of a first one."""

    offset_ms: float  # at `origin_ns`
    drift_ppm: float  # by how much the second clock runs faster; 0 where the recording is too short to tell
    low_ms: float  # 95 % interval of the offset, over pieces of the recording; minus infinity where there are too few
    high_ms: float
    origin_ns: int  # on the clock of the first stream
    pieces: int  # that count
    correlation: float  # median over these


@dataclass(frozen=True)
class Motion:
    """How fast the picture of a stream changes, between each frame and the one before."""

    middle_ns: Int64[np.ndarray, " steps"]  # the time half-way between the two frames
    rate: Float[np.ndarray, " steps"]  # mean absolute change of a pixel in a second

    @classmethod
    def of(cls, stamps: Int64[np.ndarray, " frames"], frames: Iterator[Float32[np.ndarray, "h w"]]) -> "Motion":
        """The motion in consecutive frames; pixels that are NaN in one of two frames do not count.

        Args:
            stamps: nanoseconds, ascending.
            frames: small pictures of the same size, one for each stamp; see `small`.
        """
        rates, last = [], next(frames)
        for frame in frames:
            change = np.abs(frame - last)
            seen = np.isfinite(change)
            rates.append(float(change[seen].mean()) if seen.any() else 0.0)
            last = frame
        steps = np.diff(stamps)
        return cls(stamps[:-1] + steps // 2, np.asarray(rates) / np.maximum(steps, 1) * 1e9)


def small(picture: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "h w"]:
    """A small grey picture: brightness of colour, and the logarithm of numbers with NaN where there is no reading.

    Args:
        picture: uint8 [height, width] or [height, width, 3], or positive numbers [height, width].
    """
    step = max(1, min(picture.shape[:2]) // SIDE)
    taken = picture[::step, ::step].astype(np.float32)
    if taken.ndim == 3:
        return taken.mean(axis=2)
    if picture.dtype == np.uint8:
        return taken
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(taken > 0, np.log(taken), np.nan).astype(np.float32)


def measure_offset(stretches: Sequence[tuple[Motion, Motion]], most_ms: float = 500.0) -> ClockOffset | None:
    """The offset between two clocks by the correlation of motion; None if no piece of the recording shows one.

    Every piece of at most ten seconds is compared on its own. Where pieces span long enough, a line through their
    offsets (Theil-Sen) gives the drift.

    Args:
        stretches: of the recording, each with the motion that the first and the second stream show.
        most_ms: greatest offset looked for.
    """
    found = []
    for first, second in stretches:
        begin = max(int(first.middle_ns[0]), int(second.middle_ns[0]))
        end = min(int(first.middle_ns[-1]), int(second.middle_ns[-1]))
        short = min(-(-2 * LEAST_PIECES // len(stretches)), (end - begin) // SHORT_NS)
        pieces = max(short, (end - begin) // PIECE_NS)
        edges = np.linspace(begin, end, pieces + 1).astype(np.int64).tolist() if pieces > 0 else []
        found += [_of_piece(first, second, *part, most_ms) for part in itertools.pairwise(edges)]
    good = [(middle, lag, score) for middle, lag, score in found if score >= LEAST_CORRELATION]
    if not good:
        return None
    middles, lags, scores = map(np.asarray, zip(*good, strict=True))
    origin = int(np.median(middles))
    if len(lags) < LEAST_PIECES:
        return ClockOffset(float(np.median(lags)), 0.0, -np.inf, np.inf, origin, len(lags), float(np.median(scores)))
    seconds = (middles - origin) / 1e9
    slope, level, low, high = theilslopes(lags, seconds)
    if not (low > 0 or high < 0):  # no drift that the pieces can tell
        slope, level = 0.0, float(np.median(lags))
    rest = lags - level - slope * seconds
    random = np.random.default_rng(0)
    draws = np.median(rest[random.integers(len(rest), size=(1000, len(rest)))], axis=1)
    width = max(float(np.quantile(np.abs(draws), 0.95)), STEP_NS / 1e7)
    return ClockOffset(
        float(level), float(slope * 1000), level - width, level + width, origin, len(lags), float(np.median(scores))
    )


def _of_piece(first: Motion, second: Motion, begin: int, end: int, most_ms: float) -> tuple[int, float, float]:
    """The middle of a piece, the lag of the second stream in ms, and their correlation there."""
    grid = np.arange(begin, end, STEP_NS)
    mine = _at(first, grid)
    reach = int(most_ms * 1e6 / STEP_NS)
    wider = np.arange(begin - reach * STEP_NS, end + reach * STEP_NS, STEP_NS)[: len(grid) + 2 * reach]
    theirs = _at(second, wider)
    if mine.std() == 0 or theirs.std() == 0:
        return (begin + end) // 2, 0.0, 0.0
    mine = (mine - mine.mean()) / mine.std()
    products = correlate(theirs, mine, mode="valid", method="fft") / len(mine)
    ones = np.ones(len(mine))
    sums = correlate(theirs, ones, mode="valid", method="fft") / len(mine)
    squares = correlate(theirs**2, ones, mode="valid", method="fft") / len(mine)
    scores = products / np.sqrt(np.maximum(squares - sums**2, 1e-12 * theirs.var()))
    peak = int(scores.argmax())
    shift = 0.0
    if 0 < peak < len(scores) - 1:
        left, top, right = scores[peak - 1 : peak + 2]
        if (curve := left - 2 * top + right) < 0:
            shift = 0.5 * (left - right) / curve
    lag = (peak - reach + shift) * STEP_NS / 1e6
    at_edge = peak in (0, len(scores) - 1)
    return (begin + end) // 2, float(lag), 0.0 if at_edge else float(scores[peak])


def _at(motion: Motion, grid: Int64[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    """Motion at points of a regular grid, smoothed over about a frame so that the frames' own rhythm does not count."""
    values = np.interp(grid.astype(np.float64), motion.middle_ns.astype(np.float64), motion.rate)
    width = float(np.median(np.diff(motion.middle_ns))) / STEP_NS
    return gaussian_filter1d(values, max(width, 1.0))
