"""Checks that the streams of a pair show the same moment of the same scene, on decoded pairs of a folder of shards."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from scipy import ndimage
from torch import Tensor

from crossmodal.data.alignment import Alignment, certainty, find_edges
from crossmodal.data.lags import LEAST, Order
from crossmodal.data.manifest import name_group, open_field
from crossmodal.data.shards import Shards
from crossmodal.data.views import Picture
from modalities import Modality
from modalities.audio import Audio
from modalities.codecs.colour import ColourCodec
from modalities.depth import Depth

PAIRS, RUN = 240, 30  # pairs that are read, and the length of the runs of consecutive pairs they come from
WIDTH = 160  # pixels to which wider pictures are shrunk
SHUFFLES = 5  # shuffles of which the best score is that of chance
ALIKE = 2.0  # times the score of chance that right pairs have
MIRRORED = 1.5  # times the score of its own pair that the mirrored one has
SHIFT, SHIFT_SURE = 0.02, 5.0  # share of the width of a shift, and the certainty that the shifted pairs agree better
STILL = 0.3  # share of the edges that changes from pair to pair, below which shuffled pairs look like right ones
FROZEN, REPEATS = 0.02, 3  # share and number of repeated frames
ALTERNATING, FLICKER = -0.4, 0.02  # correlation of consecutive changes of brightness, and their size over its mean
FILM = 0.05  # correlation of the edges of consecutive pictures, above which they are frames of a film
NEAR_M, FAR_M = 0.3, 7.5  # a median nearer than the first, or nineteen of twenty readings farther than the second
SILENCE, SILENT = 1e-4, 0.5  # amplitude of silence, and share of silent sounds
COMMON, SAME = 0.8, 0.01  # share of sounds of one length that makes another length wrong, and its tolerance


@dataclass
class _Stream:
    """One field of the sampled pairs, reduced to what the checks need; None for a pair that lacks it."""

    name: str
    modality: Modality
    digests: list[bytes | None] = field(default_factory=list)  # of decoded signals; None also if all values are equal
    pictures: list[Float32[np.ndarray, "height width"] | None] = field(default_factory=list)  # on the common grid
    distances: list[np.ndarray] = field(default_factory=list)  # some readings of each depth map, metres
    seconds: list[float] = field(default_factory=list)  # length of each sound
    loudest: list[float] = field(default_factory=list)  # greatest amplitude of each sound

    @cached_property
    def edges(self) -> list[Float32[np.ndarray, "height width"] | None]:
        """The edges of each picture."""
        return [None if picture is None else find_edges(picture) for picture in self.pictures]

    def add(self, signal: Tensor | None, sides: tuple[int, int] | None) -> None:
        """Adds a pair's signal, or that it lacks one; as a picture of these sides, if they are given."""
        if signal is None:
            self.digests.append(None)
            self.pictures.append(None)
            return
        flat = bool((signal == signal.flatten()[0]).all())
        self.digests.append(None if flat else blake2b(signal.numpy().tobytes(), digest_size=16).digest())
        self.pictures.append(None if sides is None else _shrink(signal, self.modality, sides))
        if isinstance(self.modality, Depth):
            readings = signal.numpy()[signal.numpy() > 0]
            self.distances.append(readings[:: 1 + len(readings) // 1024])
        if isinstance(self.modality, Audio):
            self.seconds.append(signal.shape[-1] / self.modality.rate_hz)
            self.loudest.append(float(signal.abs().max()))


def check_pairing(shards: Shards) -> list[str]:
    """Warnings about the pairing of a folder of shards, each with the numbers it rests on and what to do.

    At most `PAIRS` pairs are read: all of them, or evenly spread runs of consecutive pairs. Offsets, repeated frames
    and flicker need pairs in the order of time, as sources of recordings pack them. Pairs that cannot be read are left
    out; `crossmodal.data.verify.check` names them.
    """
    streams, follows = _sample(shards)
    warnings = []
    for stream in streams:
        warnings += [*_tell_unit(stream), *_tell_sound(stream), *_tell_frozen(stream, streams, follows)]
        warnings += _tell_flicker(stream, follows)
    for both in combinations(streams, 2):
        warnings += _tell_alignment(both, follows)
    return [f"{shards.folder}: {warning}" for warning in warnings]


def _places(pairs: int) -> Iterator[int]:
    """The sampled pairs: all, or `PAIRS` in evenly spread runs."""
    if pairs <= PAIRS:
        yield from range(pairs)
        return
    for start in np.linspace(0, pairs - RUN, PAIRS // RUN).astype(int).tolist():
        yield from range(start, start + RUN)


def _sample(shards: Shards) -> tuple[list[_Stream], Bool[np.ndarray, " pairs"]]:
    """The streams of the sampled pairs, and whether each pair follows the one before it in the same group."""
    streams = [_Stream(name, open_field(name, spec)) for name, spec in shards.manifest.fields.items()]
    follows, before, sides = list[bool](), (-2, ""), (0, 0)
    for index in _places(len(shards)):
        try:
            group, signals = _read(shards, streams, index)
        except ValueError:
            continue
        layouts = {
            stream.name: Picture.of(stream.modality, signals[stream.name])
            for stream in streams
            if stream.name in signals
        }
        first = next((layout for layout in layouts.values() if layout), None)
        if first and sides == (0, 0):
            width = max(8, min(WIDTH, *(layout.width for layout in layouts.values() if layout)))
            sides = max(8, round(width * first.height / first.width)), width
        for stream in streams:
            layout = layouts.get(stream.name)
            fits = first is not None and layout is not None and layout.fits(first.width, first.height)
            stream.add(signals.get(stream.name), sides if fits else None)
        follows.append(before == (index - 1, group))
        before = (index, group)
    return streams, np.array(follows, dtype=bool)


def _read(shards: Shards, streams: list[_Stream], index: int) -> tuple[str, dict[str, Tensor]]:
    """The group and the signals of a pair.

    Raises:
        ValueError: a member cannot be read.
    """
    members = {stream.name: shards.member(stream.name) for stream in streams}
    present = [stream for stream in streams if not shards.lacks(index, members[stream.name])]
    _, payloads = shards.read(index, [*(members[stream.name] for stream in present), "json"])
    group = name_group(shards.parse(index, payloads["json"]).get("group"))
    return group, {stream.name: stream.modality.decode(payloads[members[stream.name]]) for stream in present}


def _shrink(
    signal: Float[Tensor, "channels height width"], modality: Modality, sides: tuple[int, int]
) -> Float32[np.ndarray, "{sides[0]} {sides[1]}"]:
    """A picture in one channel on the common grid; without readings as the nearest reading, distances as logarithms."""
    if modality.classes:  # numbers of classes must not be mixed
        return F.interpolate(signal[None].float(), sides, mode="nearest-exact")[0, 0].numpy()
    if len(signal) > 1:
        return F.interpolate(signal.mean(0)[None, None], sides, mode="area")[0, 0].numpy()
    there = (signal > 0 if modality.nothing == 0 else ~signal.isnan()).float()
    share = F.interpolate(there[None], sides, mode="area")[0, 0]
    total = F.interpolate(torch.where(there > 0, signal, 0.0)[None], sides, mode="area")[0, 0]
    mean = (total / share.clamp(min=1e-6)).numpy()
    missing = (share < 0.5).numpy()
    if missing.all():
        return np.zeros(sides, np.float32)
    if missing.any():
        nearest = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
        mean = mean[tuple(nearest)]
    return np.log(mean).astype(np.float32) if modality.nothing == 0 else mean


def _tell_alignment(streams: tuple[_Stream, _Stream], follows: Bool[np.ndarray, " pairs"]) -> Iterator[str]:
    """Checks that the edges of two streams agree, and better than other pairs, mirrored or shifted ones."""
    one, two = (stream.name for stream in streams)
    both = enumerate(zip(*(stream.edges for stream in streams), strict=True))
    there = [(place, *pair) for place, pair in both if pair[0] is not None and pair[1] is not None]
    if len(there) < LEAST:
        return
    shown, ones, twos = zip(*there, strict=True)
    edges, places = Alignment(np.stack(ones), np.stack(twos)), np.array(shown)
    (_, height, width), first = edges.one.shape, np.arange(len(there))
    second = first
    far = np.linspace(len(there) // 4, len(there) - len(there) // 4, SHUFFLES).astype(int).tolist()
    chance = max(edges.peak(first, np.roll(first, distance)).score for distance in far)
    order = Order(edges, places, np.cumsum(~follows)[places])
    if lag := order.find_lag(ALIKE * chance):
        first, second, count = lag.first, lag.second, abs(lag.pairs)
        yield (
            f"{one} and {two} are apart in time by {count} pair{'s' * (count > 1)}: {one} agrees best with {two} of "
            f"the pair {count} {'later' if lag.pairs > 0 else 'earlier'} ({lag.evidence}, over {len(first)} pairs); "
            "renumber one of them, or correct its stamps"
        )
    own, mirrored = edges.peak(first, second), Alignment(edges.one, edges.two[:, :, ::-1]).peak(first, second)
    aligned = edges.score(first, second)
    if mirrored.score >= max(ALIKE * chance, MIRRORED * own.score):
        yield (
            f"{two} is mirrored left to right against {one}: their edges correlate by {mirrored.score:.3f} if one of "
            f"them is mirrored, by {own.score:.3f} as they are; mirror the files of one of them"
        )
    elif own.score < ALIKE * chance and edges.changing >= STILL:
        yield (
            f"pairs of {one} and {two} are no more alike than shuffled pairs: their edges correlate by {own.score:.3f} "
            f"and those of shuffled pairs by up to {chance:.3f}, over {len(there)} pairs; they may come from different "
            "cameras, places or times, or show nothing in common: see the contact sheet"
        )
    elif (
        own.score >= ALIKE * chance
        and max(abs(own.down), abs(own.right)) >= max(SHIFT * width, order.typical)
        and certainty(own.each - aligned) >= SHIFT_SURE
    ):
        yield (
            f"{two} is not registered to {one}: it lies {100 * abs(own.right) / width:.1f} % of the width to the "
            f"{'left' if own.right < 0 else 'right'} and {100 * abs(own.down) / height:.1f} % of the height "
            f"{'above' if own.down < 0 else 'below'} (edges correlate by {own.score:.3f} there, by "
            f"{aligned.mean():.3f} as they are, over {len(first)} pairs); register one to the other by the calibration "
            "of both cameras"
        )


def _tell_frozen(stream: _Stream, streams: list[_Stream], follows: Bool[np.ndarray, " pairs"]) -> Iterator[str]:
    """Checks that a stream does not repeat its signal, bit for bit, while another one changes."""
    for other in streams:
        repeats = moves = 0
        for place in np.flatnonzero(follows):
            (before, now), (theirs, following) = (each.digests[place - 1 : place + 1] for each in (stream, other))
            if None not in (before, now, theirs, following) and theirs != following:
                moves += 1
                repeats += before == now
        if repeats >= max(REPEATS, FROZEN * moves):
            yield (
                f"{stream.name} repeats the pair before, bit for bit, in {repeats} of {moves} consecutive pairs in "
                f"which {other.name} changes ({repeats / moves:.0%}): frames are duplicated or frozen; keep the first "
                "of each"
            )
            return


def _tell_flicker(stream: _Stream, follows: Bool[np.ndarray, " pairs"]) -> Iterator[str]:
    """Checks that the brightness of a film does not go up and down from frame to frame."""
    there = np.array([picture is not None for picture in stream.pictures], dtype=bool)
    linked = follows & there & np.roll(there, 1)
    if not isinstance(stream.modality, ColourCodec) or linked.sum() < LEAST:
        return
    edges = stream.edges
    mean = np.mean([each for each in edges if each is not None], 0)
    alike = np.mean([((edges[place - 1] - mean) * (edges[place] - mean)).sum() for place in np.flatnonzero(linked)])
    brightness = np.array([0.0 if picture is None else float(picture.mean()) for picture in stream.pictures])
    changes = np.where(linked, np.diff(brightness, prepend=0), 0)
    both = linked[1:] & linked[:-1]
    before, after = changes[:-1][both], changes[1:][both]
    correlation = float((before * after).sum() / (np.square(before) + np.square(after)).sum().clip(1e-12) * 2)
    size = float(np.median(np.abs(changes[linked])) / brightness[there].mean().clip(1e-6))
    if alike >= FILM and correlation <= ALTERNATING and size >= FLICKER:
        yield (
            f"the brightness of {stream.name} flickers: it changes by {size:.1%} from frame to frame, and back "
            f"(consecutive changes correlate by {correlation:.2f}); fix the exposure, or make it a multiple of the "
            "lamps' period"
        )


def _tell_unit(stream: _Stream) -> Iterator[str]:
    """Checks that the distances of depth are plausible."""
    readings = [each for each in stream.distances if len(each)]
    if not readings or not isinstance(stream.modality, Depth):
        return
    median = float(np.median([np.median(each) for each in readings]))
    near, far = np.quantile(np.concatenate(readings), (0.05, 0.95)).tolist()
    figures = (
        f"with scale_m={stream.modality.scale_m:g} the median is {median:.3g} m, and nine in ten readings lie from "
        f"{near:.3g} to {far:.3g} m"
    )
    if near > FAR_M:
        yield f"{stream.name} has hardly anything near: {figures}; outdoors this may be right, indoors it is too far"
    elif median < NEAR_M:
        yield f"{stream.name} is very near: {figures}; this is right for a camera at close range, not for a room"


def _tell_sound(stream: _Stream) -> Iterator[str]:
    """Checks that sounds are not silent and equally long."""
    if not stream.seconds:
        return
    seconds, silent = np.array(stream.seconds), int((np.array(stream.loudest) < SILENCE).sum())
    if silent >= SILENT * len(seconds):
        yield f"{stream.name} is silent in {silent} of {len(seconds)} pairs; check the microphone and the track"
    length = float(np.median(seconds))
    odd = seconds[np.abs(seconds - length) > SAME * length]
    if 0 < len(odd) <= (1 - COMMON) * len(seconds):
        yield (
            f"{stream.name} lasts {length:.3g} s, but from {odd.min():.3g} to {odd.max():.3g} s in {len(odd)} of "
            f"{len(seconds)} pairs; cut the same length around each picture"
        )
