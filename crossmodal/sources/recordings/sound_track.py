"""The sound of a video, read by `av`."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.stream import Stream
from crossmodal.sources.recordings.video_file import VideoFile

NANO = 10**9


@dataclass(frozen=True)
class SoundFacts:
    """The rate and length of a track's sound."""

    codec: str  # FFmpeg's name of the codec, such as "aac"
    rate_hz: int  # samples a second
    channels: int
    start_ns: int  # when the first sample begins on the clock of the file
    end_ns: int  # when the last one ends


class SoundTrack:
    """The sound of one track."""

    def __init__(self, file: VideoFile, index: int) -> None:
        self.file, self.index = file, index

    @cached_property
    def facts(self) -> SoundFacts:
        """The description by the file and its first block of samples."""
        with self.file.track(self.index) as stream:
            for place, rate, samples in self._blocks(stream):
                start = Fraction(place, rate)
                end = max(start, Fraction(self.file.packets[self.index].end or 0) * stream.time_base)
                codec = stream.codec_context.codec.canonical_name
                return SoundFacts(codec, rate, len(samples), round(start * NANO), round(end * NANO))
        raise SourceError(f"{self.file.path}: track {self.index} (sound) is empty; take its stream out of the config")

    @property
    def stamps(self) -> Int64[np.ndarray, "2"]:
        """When the first sample begins and the last one ends, nanoseconds on the clock of the file."""
        return np.array([self.facts.start_ns, self.facts.end_ns], dtype=np.int64)

    def describe(self, name: str) -> Stream:
        """The track as a stream; of kind "other" where it cannot be read, because the pictures can be of use."""
        try:
            facts = self.facts
        except SourceError as error:
            return Stream(name, "other", "unknown", 0, source=str(error))
        samples = round((facts.end_ns - facts.start_ns) * facts.rate_hz / NANO)
        return Stream(name, "audio", facts.codec, samples, rate_hz=facts.rate_hz)

    def pieces(
        self, starts: Int64[np.ndarray, " pieces"], seconds: float
    ) -> Iterator[tuple[Float32[np.ndarray, "channels samples"], int]]:
        """Pieces of the sound and its rate; see `Recording.sound`. Decodes from the beginning: exact to a sample."""
        rate, channels = self.facts.rate_hz, self.facts.channels
        length = round(seconds * rate)
        kept: deque[tuple[int, np.ndarray]] = deque()
        with self.file.track(self.index) as stream:
            blocks = self._blocks(stream)
            for start in starts.tolist():
                begin = (2 * start * rate + NANO) // (2 * NANO)
                while kept and kept[0][0] + kept[0][1].shape[1] <= begin:
                    kept.popleft()
                while not kept or kept[-1][0] + kept[-1][1].shape[1] < begin + length:
                    place, given, samples = next(blocks, (0, rate, None))
                    if samples is None:
                        break
                    if given != rate or len(samples) != channels:
                        raise SourceError(
                            f"{self.file.path}: the sound of track {self.index} changes its rate or its channels at "
                            f"{place / rate:.3f} s; leave out what comes from there on"
                        )
                    if place + samples.shape[1] > begin:
                        kept.append((place, samples))
                yield _joined(kept, begin, length, channels), rate

    def _blocks(self, stream: Any) -> Iterator[tuple[int, int, Float32[np.ndarray, "channels _"]]]:
        """The sound in order: place of the first sample on the clock of the file, rate, and samples from -1 to 1."""
        import av

        place, rate = 0, 0
        try:
            for packet in stream.container.demux(stream):
                for frame in packet.decode():
                    first, rate = not rate, frame.sample_rate  # a decoder may know a rate better than the file
                    if frame.pts is not None:
                        stated = round(frame.pts * frame.time_base * rate)
                        # a time base of 1 ms rounds: samples are counted, and only a real gap is believed
                        if first or abs(stated - place) > max(rate // 100, 2 * frame.time_base * rate):
                            place = stated
                    yield place, rate, _samples(frame)
                    place += frame.samples
        except av.error.FFmpegError as error:
            raise SourceError(
                f"{self.file.path}: the sound of track {self.index} cannot be decoded at {place / max(rate, 1):.3f} s "
                f"({error.strerror}); copy the file again, or leave out what comes from there on"
            ) from error


def _samples(frame: Any) -> Float32[np.ndarray, "channels samples"]:
    """Samples from -1 to 1."""
    numbers = frame.to_ndarray()
    if not frame.format.is_planar:
        numbers = numbers.reshape(frame.samples, -1).T
    if numbers.dtype.kind == "u":
        return ((numbers.astype(np.float32)) - 128) / 128
    if numbers.dtype.kind == "i":
        return (numbers / 2.0 ** (8 * numbers.dtype.itemsize - 1)).astype(np.float32)
    return np.ascontiguousarray(numbers, dtype=np.float32)


def _joined(
    blocks: Iterable[tuple[int, np.ndarray]], begin: int, length: int, channels: int
) -> Float32[np.ndarray, "channels samples"]:
    piece = np.zeros((channels, length), dtype=np.float32)
    for place, block in blocks:
        low, high = max(place, begin), min(place + block.shape[1], begin + length)
        if low < high:
            piece[:, low - begin : high - begin] = block[:, low - place : high - place]
    return piece
