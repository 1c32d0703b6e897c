"""The pictures of a video with their presentation times, read by `av`."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.pixels import component, content, kind_of, upright
from crossmodal.sources.recordings.stream import Stream
from crossmodal.sources.recordings.video_file import VideoFile

NANO = 10**9
SEEK = 8  # frames: a jump that skips at least so many frames is a seek, a shorter one decodes them
HEAD = 16  # frames whose decoded times are compared with those of the packets


class _DecodingError(SourceError):
    """A wanted frame could not be decoded."""


@dataclass(frozen=True)
class _Table:
    """The frames of a track in the order of presentation."""

    pts: Int64[np.ndarray, " frames"]  # in units of the track's time base
    keys: Int64[np.ndarray, " keys"]  # numbers of the key frames, ascending
    timed: bool  # `pts` are the packets' own and different, so that a frame is known by its time


@dataclass(frozen=True)
class PictureFacts:
    """The kind and size of a track's pictures."""

    codec: str  # FFmpeg's name of the codec, such as "h264"
    pixels: str  # FFmpeg's name of the pixel format, such as "yuv420p" or "gray12le"
    bits: int  # of the first component of a pixel: grey, luma or red
    height: int  # pixels, after rotation
    width: int  # pixels, after rotation
    rate_hz: float  # frames a second on average, as the file states it; 0: unknown
    base: Fraction  # unit of the track's times, seconds


class PictureTrack:
    """The pictures of one track, numbered from 0 in the order of presentation."""

    def __init__(self, file: VideoFile, index: int) -> None:
        self.file, self.index = file, index

    @cached_property
    def facts(self) -> PictureFacts:
        """The description by the file and its first frame."""
        with self.file.track(self.index) as stream:
            for frame in self._frames(stream):
                height, width = upright(np.empty((frame.height, frame.width)), frame).shape
                codec, bits = stream.codec_context.codec.canonical_name, frame.format.components[0].bits
                rate = float(stream.average_rate or 0)
                return PictureFacts(codec, frame.format.name, bits, height, width, rate, stream.time_base)
        raise SourceError(f"{self.file.path}: track {self.index} has no frame; remove the file")

    def describe(self, name: str) -> Stream:
        """The track as a stream."""
        seen, frames = self.facts, len(self.stamps)
        encoding = f"{seen.codec} {seen.pixels}"
        return Stream(name, kind_of(seen.pixels), encoding, frames, seen.height, seen.width, seen.rate_hz)

    @cached_property
    def stamps(self) -> Int64[np.ndarray, " frames"]:
        """When each frame is shown, nanoseconds on the clock of the file; the first is not moved to 0."""
        base = self.facts.base
        # in integers and by parts, so that a long video at a fine time base neither rounds nor overflows
        whole, part = np.divmod(self._table.pts * base.numerator, base.denominator)
        return whole * NANO + (2 * part * NANO + base.denominator) // (2 * base.denominator)

    @cached_property
    def _table(self) -> _Table:
        packets = self.file.packets[self.index]
        pts = np.sort(np.fromiter(packets.pts, np.int64))
        if packets.complete and len(pts) and (np.diff(pts) > 0).all() and self._head_agrees(pts[:HEAD]):
            keys = np.searchsorted(pts, np.sort(np.fromiter(packets.keys, np.int64)))
            return _Table(pts, np.union1d([0], keys), timed=True)  # the key frame of the first one may not be shown
        return self._decoded_table()

    def _head_agrees(self, pts: Int64[np.ndarray, " head"]) -> bool:
        with self.file.track(self.index) as stream, suppress(_DecodingError):  # told when the frame is wanted
            return all(frame.pts == expected for frame, expected in zip(self._frames(stream), pts, strict=False))
        return True

    def _decoded_table(self) -> _Table:
        with self.file.track(self.index) as stream:
            times = [frame.pts for frame in self._frames(stream, threads=True)]
            rate, base = stream.average_rate, stream.time_base
        if None in times or times != sorted(times):
            if not rate:
                raise SourceError(
                    f"{self.file.path}: track {self.index} has neither times nor a frame rate; write the file anew "
                    "with times, as mkv or mp4"
                )
            times = [round(number / rate / base) for number in range(len(times))]
        return _Table(np.array(times, dtype=np.int64), np.zeros(1, dtype=np.int64), timed=False)

    def read(
        self, numbers: Iterable[int], *, codes: bool = False
    ) -> Iterator[tuple[int, Shaped[np.ndarray, "height width *channels"]]]:
        """The numbered pictures, upright, in constant memory.

        Args:
            numbers: ascending, without repetition.
            codes: gives the first component of every picture as it is stored, instead of colours.

        Raises:
            SourceError: a picture cannot be decoded.
        """
        wanted = deque(numbers)
        for careful in (False, True):  # perhaps the seek is to blame; without threads the place is exact
            try:
                for number, picture in self._read(list(wanted), codes, careful=careful):
                    wanted.popleft()
                    yield number, picture
                return
            except (_DecodingError, OSError):
                if careful:
                    raise

    def _read(self, numbers: list[int], codes: bool, *, careful: bool) -> Iterator[tuple[int, np.ndarray]]:
        table = self._table
        with self.file.track(self.index) as stream:
            frames, following = self._numbered(stream, threads=not careful), 0
            for number in numbers:
                if not 0 <= number < len(table.pts):
                    raise SourceError(f"{self.file.path}: there is no frame {number}; the last is {len(table.pts) - 1}")
                key = int(table.keys[np.searchsorted(table.keys, number, side="right") - 1])
                if table.timed and not careful and key - following >= SEEK:
                    stream.container.seek(int(table.pts[key]), stream=stream, backward=True)
                    frames, following = self._numbered(stream, threads=True), key
                yield number, self._picture(frames, following, number, codes)
                following = number + 1

    def _picture(self, frames: Iterator[tuple[int, Any]], following: int, number: int, codes: bool) -> np.ndarray:
        place, reason = following - 1, "its data is damaged or missing"
        try:
            for place, frame in frames:
                if place == number and not frame.is_corrupt:
                    return upright(component(frame) if codes else content(frame), frame)
                if place >= number:
                    break
        except _DecodingError as error:
            reason = str(error.__cause__) + (f", and decoding stops at frame {place + 1}" if place + 1 < number else "")
        raise _DecodingError(
            f"{self.file.path}: frame {number} of track {self.index} (at {self.stamps[number] / NANO:.3f} s) cannot be "
            f"decoded ({reason}); copy the file again, or leave out what comes from there on"
        )

    def _numbered(self, stream: Any, *, threads: bool) -> Iterator[tuple[int, Any]]:
        pts, frames = self._table.pts, self._frames(stream, threads=threads)
        if not self._table.timed:
            yield from enumerate(frames)
            return
        for frame in frames:
            place = 0 if frame.pts is None else int(np.searchsorted(pts[:-1], frame.pts))
            if pts[place] == frame.pts:
                yield place, frame

    def _frames(self, stream: Any, *, threads: bool = False) -> Iterator[Any]:
        import av

        if not stream.codec_context.is_open:
            stream.thread_type = "AUTO" if threads else "NONE"
        try:
            for packet in stream.container.demux(stream):
                yield from packet.decode()
        except av.error.FFmpegError as error:
            with suppress(av.error.FFmpegError):
                yield from stream.codec_context.decode(None)  # what the decoder held back, from before the damage
            raise _DecodingError(
                f"{self.file.path}: track {self.index} cannot be decoded ({error.strerror}); copy the file again"
            ) from error
