"""A file with tracks of pictures and of sound, read by `av`."""

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.containers import damage


@dataclass
class Packets:
    """The times in the packets of one track."""

    pts: array = field(default_factory=lambda: array("q"))  # of the shown packets, in units of the track's time base
    keys: array = field(default_factory=lambda: array("q"))  # those of key frames
    complete: bool = True  # every packet has a presentation time
    end: int | None = None  # when the last packet ends, in the same units

    def add(self, packet: Any, *, shown: bool) -> None:
        """Adds what a packet says."""
        if packet.pts is None:
            self.complete = False
            return
        self.end = max(packet.pts + (packet.duration or 0), packet.pts if self.end is None else self.end)
        if shown and not packet.is_discard:
            self.pts.append(packet.pts)
            if packet.is_keyframe:
                self.keys.append(packet.pts)


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
        if found := damage(self.path):
            raise SourceError(f"{self.path}: {found}")
        try:  # an absolute path, which FFmpeg does not take for a protocol
            container = av.open(str(self.path.absolute()), metadata_errors="replace")
        except av.error.FFmpegError as error:
            raise SourceError(f"{self.path}: this file is no video that FFmpeg can open ({error.strerror})") from error
        with container:
            yield container

    @contextmanager
    def track(self, index: int) -> Iterator[Any]:
        """A track of the opened container, which its codec can decode."""
        with self.open() as container:
            stream = container.streams[index]
            if stream.codec_context is None:
                raise SourceError(
                    f"{self.path}: track {index} ({stream.type}) is coded by a codec that the installed av does not "
                    "have; convert the file to H.264, or install a newer av"
                )
            yield stream

    @cached_property
    def tracks(self) -> tuple[list[int], list[int]]:
        """Numbers of the tracks of pictures, without cover art, and of those of sound."""
        with self.open() as container:
            from av.stream import Disposition

            cover = Disposition.attached_pic
            pictures = [stream.index for stream in container.streams.video if cover not in stream.disposition]
            return pictures, [stream.index for stream in container.streams.audio]

    @cached_property
    def packets(self) -> dict[int, Packets]:
        """The times in the packets of each track; one pass over the file, without decoding."""
        with self.open() as container:
            import av

            found = {stream.index: Packets() for stream in container.streams}
            try:
                for packet in container.demux([*container.streams.video, *container.streams.audio]):
                    if packet.size:
                        found[packet.stream_index].add(packet, shown=packet.stream.type == "video")
            except av.error.FFmpegError as error:
                raise SourceError(f"{self.path}: the file cannot be read to its end ({error.strerror})") from error
        return found
