"""Tracks of a video file, read by `av`: pictures with their presentation times, and sound."""

from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, Shaped

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.containers import damage

NANO = 10**9
SEEK = 8  # frames: a jump that skips at least so many frames is a seek, a shorter one decodes them
HEAD = 16  # frames whose decoded times are compared with those of the packets


class _DecodingError(SourceError):
    """A wanted frame could not be decoded."""


@dataclass
class _Packets:
    """What the packets of one track say."""

    pts: array = field(default_factory=lambda: array("q"))  # of the shown packets, in units of the track's time base
    keys: array = field(default_factory=lambda: array("q"))  # those of key frames
    complete: bool = True  # every packet has a presentation time
    end: int | None = None  # when the last packet ends, in the same units


@dataclass(frozen=True)
class _Table:
    """The frames of a track in the order of presentation."""

    pts: Int64[np.ndarray, " frames"]  # in units of the track's time base
    keys: Int64[np.ndarray, " keys"]  # numbers of the key frames, ascending
    timed: bool  # `pts` are the packets' own and different, so that a frame is known by its time


class VideoFile:
    """A file with tracks of pictures and of sound. Nothing is read before it is asked for.

    Raises:
        SourceError: by every property and method, if the file is not a video, or is cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def open(self) -> Iterator[Any]:
        """The open container."""
        try:
            import av
        except ImportError as error:
            raise SourceError(
                f"{self.path}: reading a video needs the package av; pip install 'crossmodal-transfer[video]'"
            ) from error
        if not self.path.is_file():
            raise SourceError(f"{self.path}: there is no such file")
        found = damage(self.path)
        try:
            container = av.open(str(self.path), metadata_errors="replace")
        except av.error.FFmpegError as error:
            raise SourceError(
                f"{self.path}: {found or f'this file is no video that FFmpeg can open ({error.strerror})'}"
            ) from error
        with container:
            if found:
                raise SourceError(f"{self.path}: {found}")
            yield container

    @cached_property
    def pictures(self) -> tuple["PictureTrack", ...]:
        """The tracks of pictures, without cover art."""
        with self.open() as container:
            cover = [stream.index for stream in container.streams.video if stream.disposition & _ATTACHED]
            return tuple(
                PictureTrack(self, stream.index) for stream in container.streams.video if stream.index not in cover
            )

    @cached_property
    def sounds(self) -> tuple["SoundTrack", ...]:
        """The tracks of sound."""
        with self.open() as container:
            return tuple(SoundTrack(self, stream.index) for stream in container.streams.audio)

    @cached_property
    def packets(self) -> dict[int, _Packets]:
        """What the packets of each track say; one pass over the file, without decoding."""
        with self.open() as container:
            found = {stream.index: _Packets() for stream in container.streams}
            sound = {stream.index for stream in container.streams.audio}
            for packet in self._demuxed(container):
                track = found[packet.stream_index]
                if packet.pts is None:
                    track.complete = False
                    continue
                track.end = max(packet.pts + (packet.duration or 0), packet.pts if track.end is None else track.end)
                if packet.stream_index in sound or packet.is_discard:
                    continue
                track.pts.append(packet.pts)
                if packet.is_keyframe:
                    track.keys.append(packet.pts)
        return found

    def _demuxed(self, container: Any) -> Iterator[Any]:
        import av

        streams = [*container.streams.video, *container.streams.audio]
        try:
            for packet in container.demux(streams):
                if packet.size:
                    yield packet
        except av.error.FFmpegError as error:
            raise SourceError(f"{self.path}: the file cannot be read to its end ({error.strerror})") from error


_ATTACHED = 0x0400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC: cover art


class _Track:
    """One track of a file."""

    def __init__(self, file: VideoFile, index: int) -> None:
        self.file, self.index = file, index

    def _stream(self, container: Any) -> Any:
        stream = container.streams[self.index]
        if stream.codec_context is None:
            raise SourceError(
                f"{self.file.path}: track {self.index} ({stream.type}) is coded by a codec that the installed av does "
                "not have; convert the file to H.264, or install a newer av"
            )
        return stream


class PictureTrack(_Track):
    """The pictures of one track, numbered from 0 in the order of presentation."""

    @cached_property
    def _facts(self) -> tuple[str, str, int, int, float, Fraction, int]:
        with self.file.open() as container:
            stream = self._stream(container)
            rate, base = float(stream.average_rate or 0), stream.time_base
            for frame in self._frames(container, stream):
                height, width = upright(np.empty((frame.height, frame.width)), frame).shape
                codec, bits = stream.codec_context.codec.canonical_name, frame.format.components[0].bits
                return codec, frame.format.name, height, width, rate, base, bits
        raise SourceError(f"{self.file.path}: track {self.index} has no frame; remove the file")

    @property
    def codec(self) -> str:
        """Name of the codec, such as "h264"."""
        return self._facts[0]

    @property
    def pixels(self) -> str:
        """FFmpeg's name of the pixel format, such as "yuv420p" or "gray12le"."""
        return self._facts[1]

    @property
    def height(self) -> int:
        """Pixels, after rotation."""
        return self._facts[2]

    @property
    def width(self) -> int:
        """Pixels, after rotation."""
        return self._facts[3]

    @property
    def rate_hz(self) -> float:
        """Frames a second on average, as the file states it."""
        return self._facts[4]

    @property
    def bits(self) -> int:
        """Of the first component of a pixel: grey, luma or red."""
        return self._facts[6]

    @cached_property
    def stamps(self) -> Int64[np.ndarray, " frames"]:
        """When each frame is shown, nanoseconds on the clock of the file; the first is not moved to 0."""
        base = self._facts[5]
        # in integers and by parts, so that a long video at a fine time base neither rounds nor overflows
        whole, part = np.divmod(self._table.pts * base.numerator, base.denominator)
        return whole * NANO + (2 * part * NANO + base.denominator) // (2 * base.denominator)

    @cached_property
    def _table(self) -> _Table:
        packets = self.file.packets[self.index]
        pts = np.sort(np.fromiter(packets.pts, np.int64))
        if packets.complete and len(pts) and (np.diff(pts) > 0).all() and self._head_agrees(pts[:HEAD]):
            return _Table(pts, np.searchsorted(pts, np.sort(np.fromiter(packets.keys, np.int64))), timed=True)
        return self._decoded_table()

    def _head_agrees(self, pts: Int64[np.ndarray, " head"]) -> bool:
        with self.file.open() as container:
            frames = self._frames(container, self._stream(container))
            return all(frame.pts == expected for frame, expected in zip(frames, pts, strict=False))

    def _decoded_table(self) -> _Table:
        with self.file.open() as container:
            stream = self._stream(container)
            times = array("q")
            missing = 0
            for frame in self._frames(container, stream, threads=True):
                missing += frame.pts is None
                times.append(frame.pts or 0)
            pts = np.fromiter(times, np.int64)
            if missing or (np.diff(pts) <= 0).any():
                if not stream.average_rate:
                    raise SourceError(
                        f"{self.file.path}: track {self.index} has neither times nor a frame rate; write the file "
                        "anew with times, as mkv or mp4"
                    )
                step = 1 / stream.average_rate / stream.time_base
                pts = np.array([round(number * step) for number in range(len(pts))], dtype=np.int64)
        return _Table(pts, np.zeros(1, dtype=np.int64), timed=False)

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
        try:
            for number, picture in self._read(wanted, codes, careful=False):
                wanted.popleft()
                yield number, picture
        except _DecodingError:  # perhaps the seek is to blame; without threads the place is exact
            for number, picture in self._read(wanted, codes, careful=True):
                wanted.popleft()
                yield number, picture

    def _read(self, numbers: Iterable[int], codes: bool, *, careful: bool) -> Iterator[tuple[int, np.ndarray]]:
        numbers, table = list(numbers), self._table
        with self.file.open() as container:
            stream = self._stream(container)
            frames, following = self._numbered(container, stream, not careful), 0
            for number in numbers:
                if not 0 <= number < len(table.pts):
                    raise SourceError(f"{self.file.path}: there is no frame {number}; the last is {len(table.pts) - 1}")
                key = int(table.keys[max(np.searchsorted(table.keys, number, side="right") - 1, 0)])
                if table.timed and not careful and key - following >= SEEK:
                    self._seek(container, stream, int(table.pts[key]), number)
                    frames = self._numbered(container, stream, not careful)
                    following = key
                yield number, self._picture(frames, following, number, codes)
                following = number + 1

    def _picture(self, frames: Iterator[tuple[int, Any]], following: int, number: int, codes: bool) -> np.ndarray:
        import av

        place = following - 1
        try:
            for place, frame in frames:
                if place == number and not frame.is_corrupt:
                    return upright(component(frame) if codes else content(frame), frame)
                if place >= number:
                    break
        except av.error.FFmpegError as error:
            raise self._undecodable(place + 1, number, error.strerror) from error
        raise self._undecodable(number, number, "its data is damaged or missing")

    def _undecodable(self, place: int, number: int, reason: str) -> _DecodingError:
        seconds = self.stamps[number] / NANO
        before = f", decoding stops at frame {place}" if place != number else ""
        return _DecodingError(
            f"{self.file.path}: frame {number} of track {self.index} (at {seconds:.3f} s) cannot be decoded ({reason}"
            f"{before}); copy the file again, or leave out what comes from there on"
        )

    def _seek(self, container: Any, stream: Any, pts: int, number: int) -> None:
        import av

        try:
            container.seek(pts, stream=stream, backward=True)
        except av.error.FFmpegError as error:
            raise self._undecodable(number, number, error.strerror) from error

    def _numbered(self, container: Any, stream: Any, threads: bool) -> Iterator[tuple[int, Any]]:
        table = self._table
        frames = self._frames(container, stream, threads=threads)
        if not table.timed:
            yield from enumerate(frames)
            return
        for frame in frames:
            if frame.pts is None:
                continue
            place = int(np.searchsorted(table.pts, frame.pts))
            if place < len(table.pts) and table.pts[place] == frame.pts:
                yield place, frame

    def _frames(self, container: Any, stream: Any, *, threads: bool = False) -> Iterator[Any]:
        import av

        if not stream.codec_context.is_open:
            stream.thread_type = "AUTO" if threads else "NONE"
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                yield from stream.codec_context.decode(None)  # what was held back, from before the damage
                raise
            yield from frames


def is_deep_grey(pixels: str) -> bool:
    """True for a pixel format of one component of more than 8 bits: a depth map, or a thermal picture."""
    return pixels.startswith("gray") and pixels not in ("gray", "gray8")


def content(frame: Any) -> Shaped[np.ndarray, "height width *channels"]:
    """uint8 RGB; of a grey frame, its numbers as they are stored."""
    if frame.format.name.startswith("gray"):
        return component(frame)
    return frame.to_ndarray(format="rgb24")


def component(frame: Any) -> Shaped[np.ndarray, "height width"]:
    """The first component of a frame in planes as it is stored: grey, or luma."""
    name, bits = frame.format.name, frame.format.components[0].bits
    order = ">" if name.endswith("be") else "<"
    kind = "f4" if "f32" in name else "f2" if "f16" in name else "u1" if bits <= 8 else "u2"
    plane = frame.planes[0]
    rows = np.frombuffer(plane, dtype=np.uint8).reshape(-1, abs(plane.line_size))[: frame.height]
    numbers = np.ascontiguousarray(rows).view(np.dtype(order + kind))[:, : frame.width]
    return numbers.astype(np.dtype(kind))


def upright(picture: Shaped[np.ndarray, "height width *channels"], frame: Any) -> np.ndarray:
    """The picture as it is shown: turned and mirrored as the frame's display matrix says."""
    matrix = next((bytes(side) for side in frame.side_data if side.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return picture
    a, b, _, c, d, *_ = np.sign(np.frombuffer(matrix, dtype=np.int32)).tolist()  # x' = a x + c y, y' = b x + d y
    if b and c and not a and not d:
        picture, a, d = picture.swapaxes(0, 1), c, b
    return np.ascontiguousarray(picture[:: d or 1, :: a or 1])


class SoundTrack(_Track):
    """The sound of one track."""

    @cached_property
    def _facts(self) -> tuple[str, int, int, int]:
        """Codec, rate, channels, and the place of the first sample on the clock of the file."""
        with self.file.open() as container:
            stream = self._stream(container)
            for place, block in self._blocks(container, stream):
                return stream.codec_context.codec.canonical_name, stream.codec_context.sample_rate, len(block), place
        raise SourceError(f"{self.file.path}: track {self.index} (sound) is empty; take its stream out of the config")

    @property
    def codec(self) -> str:
        """Name of the codec, such as "aac"."""
        return self._facts[0]

    @property
    def rate_hz(self) -> int:
        """Samples a second."""
        return self._facts[1]

    @cached_property
    def span(self) -> tuple[int, int]:
        """When the first sample begins and the last one ends, nanoseconds on the clock of the file."""
        with self.file.open() as container:
            base = container.streams[self.index].time_base
        start = Fraction(self._facts[3], self.rate_hz)
        end = Fraction(self.file.packets[self.index].end or 0) * base
        return round(start * NANO), round(max(start, end) * NANO)

    def pieces(
        self, starts: Int64[np.ndarray, " pieces"], seconds: float
    ) -> Iterator[tuple[Float32[np.ndarray, "channels samples"], int]]:
        """Pieces of the sound and its rate; see `Recording.sound`. Decodes from the beginning: exact to a sample."""
        _, rate, channels, _ = self._facts
        length = round(seconds * rate)
        kept: deque[tuple[int, np.ndarray]] = deque()
        with self.file.open() as container:
            blocks = self._blocks(container, self._stream(container))
            for start in starts.tolist():
                begin = (2 * start * rate + NANO) // (2 * NANO)
                while kept and kept[0][0] + kept[0][1].shape[1] <= begin:
                    kept.popleft()
                while not kept or kept[-1][0] + kept[-1][1].shape[1] < begin + length:
                    block = next(blocks, None)
                    if block is None:
                        break
                    if block[0] + block[1].shape[1] > begin:
                        kept.append(block)
                yield _joined(kept, begin, length, channels), rate

    def _blocks(self, container: Any, stream: Any) -> Iterator[tuple[int, Float32[np.ndarray, "channels samples"]]]:
        """The sound in order, each block with the number of its first sample on the clock of the file."""
        import av

        rate, channels, place = stream.codec_context.sample_rate, stream.codec_context.channels, None
        try:
            for packet in container.demux(stream):
                for frame in packet.decode():
                    if frame.sample_rate != rate or len(frame.layout.channels) != channels:
                        raise SourceError(f"{self.file.path}: track {self.index} changes its rate or its channels")
                    if frame.pts is not None:
                        stated = round(frame.pts * frame.time_base * rate)
                        # a time base of 1 ms rounds: samples are counted, and only a real gap is believed
                        if place is None or abs(stated - place) > max(rate // 100, 2 * frame.time_base * rate):
                            place = stated
                    yield place or 0, _samples(frame)
                    place = (place or 0) + frame.samples
        except av.error.FFmpegError as error:
            raise SourceError(
                f"{self.file.path}: the sound of track {self.index} cannot be decoded at {(place or 0) / rate:.3f} s "
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
