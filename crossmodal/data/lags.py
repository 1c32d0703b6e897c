"""Whether two streams of pictures are apart in time, by how their pictures move or by their edges.

In a film the motion from frame to frame is the sharper measure: edges hardly change within a frame, and where the
camera pans steadily a shift in time looks like one in space. Without a film, only edges of the right pair agree.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from crossmodal.data.alignment import Alignment, certainty

LEAST = 40  # pairs that a lag needs
LAGS = 3  # offsets in pairs that are searched, either way
LATER, SURE = 1.15, 3.0  # how much better a later pair must agree than its own, and the certainty of the difference
MOVED = 0.0005  # share of the width by which motions must agree better
STRAY = 0.025  # share of the width above which a difference of motions says no more
AGREE = 0.0125  # share of the width to which motions agree
MOTION = 0.003  # share of the width that is motion

Places = Int[np.ndarray, " some"]


@dataclass(frozen=True)
class Lag:
    """An offset in time between two streams."""

    pairs: int  # by which the second stream's pair is later
    first: Places  # numbers of pairs
    second: Places  # numbers of the pairs so much later
    evidence: str  # figures in words


@dataclass(frozen=True)
class Order:
    """Pairs in the order of time."""

    edges: Alignment
    places: Int[np.ndarray, " pairs"]  # differ by 1 in consecutive pairs
    runs: Int[np.ndarray, " pairs"]  # number of the run of consecutive pairs that each belongs to

    @property
    def typical(self) -> float:
        """The mean motion from pair to pair in a film, pixels; 0 where the pairs are no film."""
        return float(np.nanmean(np.hypot(*self._moves[0].T))) if self._is_film else 0.0

    def find_lag(self, least: float) -> Lag | None:
        """The lag at which another pair agrees better than its own; None if there is none.

        Args:
            least: correlation of edges that it must have, where the pairs are no film.
        """
        return self._lag_of_motion() if self._is_film else self._lag_of_edges(least)

    def _lags(self) -> Iterator[tuple[int, Places, Places]]:
        """Each lag with the pairs that have a pair so much later in their run, and the numbers of those pairs."""
        for lag in sorted(range(-LAGS, LAGS + 1), key=abs):
            later = np.searchsorted(self.places, self.places + lag).clip(max=len(self.places) - 1)
            first = np.flatnonzero((self.places[later] == self.places + lag) & (self.runs[later] == self.runs))
            if len(first) >= LEAST:
                yield lag, first, later[first]

    @cached_property
    def _moves(self) -> Float[np.ndarray, "2 pairs 2"]:
        """How far the picture of each stream moves from each pair to the next, pixels; NaN where none follows."""
        moves = np.full((2, len(self.places), 2), np.nan)
        for place in np.flatnonzero((np.diff(self.places) == 1) & (np.diff(self.runs) == 0)).tolist():
            moves[:, place] = self.edges.motion(place, place + 1)
        return moves

    def _apart(self, first: Places, second: Places) -> Float[np.ndarray, " some"]:
        """How far the motions of both streams differ, pixels."""
        return np.hypot(*(self._moves[0, first] - self._moves[1, second]).T)

    @property
    def _moving(self) -> Bool[np.ndarray, " pairs"]:
        return np.hypot(*self._moves.transpose(2, 0, 1)).max(0) > MOTION * self._width  # NaN is not

    @property
    def _width(self) -> int:
        return self.edges.one.shape[2]

    @cached_property
    def _is_film(self) -> bool:
        """True if the pictures of both streams move alike at some lag."""
        for _, first, later in self._lags():
            moving = self._moving[first] & self._moving[later]
            if moving.sum() >= LEAST and (self._apart(first, later)[moving] < AGREE * self._width).mean() > 0.5:
                return True
        return False

    def _lag_of_motion(self) -> Lag | None:
        best, least = None, np.inf
        for lag, pairs, others in self._lags():
            there = ~np.isnan(self._moves[:, pairs]).any((0, 2)) & ~np.isnan(self._moves[1, others]).any(1)
            first, later = pairs[there], others[there]
            if not lag or len(first) < LEAST:
                continue
            own, other = (self._apart(first, second).clip(max=STRAY * self._width) for second in (first, later))
            better = other.mean() < min(least, own.mean() / LATER, own.mean() - MOVED * self._width)
            if better and certainty(own - other) >= SURE:
                told = (
                    f"their pictures then move alike to {100 * other.mean() / self._width:.2f} % of the width from "
                    f"pair to pair, in the pairs as they are to {100 * own.mean() / self._width:.2f} %"
                )
                best, least = Lag(lag, first, later, told), float(other.mean())
        return best

    def _lag_of_edges(self, least: float) -> Lag | None:
        best = None
        for lag, first, later in self._lags():
            if not lag:
                continue
            own, other = self.edges.peak(first, first), self.edges.peak(first, later)
            if other.score >= max(least, LATER * own.score) and certainty(other.each - own.each) >= SURE:
                told = f"their edges correlate by {other.score:.3f}, in the pairs as they are by {own.score:.3f}"
                best, least = Lag(lag, first, later, told), other.score
        return best
