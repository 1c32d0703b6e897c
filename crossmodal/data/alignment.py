"""Edges of pictures of any kind, and how well those of two cameras lie on one another.

A camera of any kind sees an edge where an object ends. The cross-correlation of the edges of two streams, averaged over
pairs, has its peak at the shift between them. The mean edges of each stream are subtracted first, because a white
border or a vignette says nothing.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Complex64, Float, Float32, Int
from scipy import fft, ndimage

REACH = 8  # shifts are searched up to a fraction 1 / REACH of the sides
TYPICAL = 0.9  # quantile of the gradients of a picture that counts as a strong edge
LOCAL = 10  # edges count less what a neighbourhood of 1 / LOCAL of the width has on average


def find_edges(picture: Float32[np.ndarray, "height width"]) -> Float32[np.ndarray, "height width"]:
    """The edges of a picture, relative to their surroundings; the squares sum to 1, or to 0 without any edge."""
    strength = np.hypot(*np.gradient(picture))
    strength = np.tanh(strength / (np.quantile(strength, TYPICAL) + 1e-6))  # a few very strong edges must not decide
    strength -= ndimage.uniform_filter(strength, max(5, picture.shape[1] // LOCAL))
    return (strength / (np.sqrt(np.square(strength).sum()) + 1e-6)).astype(np.float32)


@dataclass(frozen=True)
class Peak:
    """The shift at which the edges of two streams agree best."""

    score: float  # mean correlation over pairs, at most 1
    down: int  # by how many pixels the second stream lies below the first
    right: int  # and to the right of it
    each: Float32[np.ndarray, " pairs"]  # correlation of each pair at this shift


@dataclass(frozen=True)
class Alignment:
    """The edges of two streams, to be compared pair by pair or shuffled."""

    one: Float32[np.ndarray, "pairs height width"]
    two: Float32[np.ndarray, "pairs height width"]

    @property
    def changing(self) -> float:
        """Share of the edges that differs from pair to pair, of the stream that changes less; 0: nothing moves."""
        return min(
            1 - float(np.square(edges.mean(0)).sum() / max(np.square(edges).sum((1, 2)).mean(), 1e-12))
            for edges in (self.one, self.two)
        )

    def peak(self, first: Int[np.ndarray, " pairs"], second: Int[np.ndarray, " pairs"]) -> Peak:
        """The best shift of some pictures of the first stream and as many of the second."""
        down, right = self._reach
        ones, twos = self._transformed
        power = np.zeros(ones.shape[1:], np.complex64)
        for start in range(0, len(first), 32):  # a few at a time, for the memory
            part = slice(start, start + 32)
            power += (np.conj(ones[first[part]]) * twos[second[part]]).sum(0)
        scores = self._scores(power / len(first))
        place = np.unravel_index(scores.argmax(), scores.shape)
        shift = int(place[0]) - down, int(place[1]) - right
        return Peak(float(scores[place]), *shift, self.score(first, second, shift))

    def motion(self, first: int, second: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """How far each stream's picture moves from one pair to another, down and to the right, in parts of a pixel."""
        one, two = (self._scores(np.conj(each[first]) * each[second]) for each in self._transformed)
        return self._exact(one), self._exact(two)

    def _exact(self, scores: Float32[np.ndarray, "shifts_down shifts_right"]) -> tuple[float, float]:
        """The place of the highest score between the shifts, by a parabola through it and its neighbours."""
        row, column = (int(at) for at in np.unravel_index(scores.argmax(), scores.shape))
        down, right = self._reach
        return row - down + _vertex(scores[:, column], row), column - right + _vertex(scores[row], column)

    def _scores(self, power: Complex64[np.ndarray, "_ _"]) -> Float32[np.ndarray, "shifts_down shifts_right"]:
        """The correlation at each shift within reach, from a cross-spectrum."""
        down, right = self._reach
        scores = np.roll(fft.irfft2(power, self._sides), (down, right), (0, 1))[: 2 * down + 1, : 2 * right + 1]
        height, width = self.one.shape[1:]
        rows, columns = (np.abs(np.arange(-reach, reach + 1)) for reach in (down, right))
        overlap = np.outer(1 - rows / height, 1 - columns / width)  # share of the pictures that overlaps
        return (scores / overlap).astype(np.float32)

    def score(
        self, first: Int[np.ndarray, " pairs"], second: Int[np.ndarray, " pairs"], shift: tuple[int, int] = (0, 0)
    ) -> Float32[np.ndarray, " pairs"]:
        """The correlation of each of these pairs at a shift, down and to the right."""
        (height, width), (down, right) = self.one.shape[1:], shift
        ones = self._centred[0][:, max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)]
        twos = self._centred[1][:, max(0, down) : height - max(0, -down), max(0, right) : width - max(0, -right)]
        scores = [float((ones[i] * twos[j]).sum()) for i, j in zip(first, second, strict=True)]
        return np.array(scores, np.float32) / ((1 - abs(down) / height) * (1 - abs(right) / width))

    @property
    def _reach(self) -> tuple[int, int]:
        height, width = self.one.shape[1:]
        return max(1, height // REACH), max(1, width // REACH)

    @property
    def _sides(self) -> tuple[int, int]:
        height, width = self.one.shape[1:]
        return fft.next_fast_len(height + self._reach[0]), fft.next_fast_len(width + self._reach[1])

    @cached_property
    def _centred(self) -> tuple[Float32[np.ndarray, "pairs height width"], Float32[np.ndarray, "pairs height width"]]:
        return self.one - self.one.mean(0), self.two - self.two.mean(0)

    @cached_property
    def _transformed(self) -> tuple[Complex64[np.ndarray, "pairs _ _"], Complex64[np.ndarray, "pairs _ _"]]:
        one, two = self._centred
        return fft.rfft2(one, self._sides), fft.rfft2(two, self._sides)


def _vertex(scores: Float32[np.ndarray, " shifts"], place: int) -> float:
    """How far the parabola through the highest score and its neighbours has its top from it, from -0.5 to 0.5."""
    if not 0 < place < len(scores) - 1:
        return 0.0
    before, highest, after = scores[place - 1 : place + 2].tolist()
    bend = before - 2 * highest + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


def certainty(differences: Float[np.ndarray, " pairs"]) -> float:
    """Mean over standard error, as in Student's paired test."""
    error = differences.std(ddof=1) / len(differences) ** 0.5
    return float(differences.mean() / (error + 1e-9))
