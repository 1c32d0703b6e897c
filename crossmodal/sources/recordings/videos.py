"""Videos: mp4, mkv, mov, webm and avi files, with pictures and sound."""

import heapq
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from crossmodal.sources import SourceError
from crossmodal.sources.common.patterns import natural
from crossmodal.sources.recordings.picture_track import PictureTrack
from crossmodal.sources.recordings.sound_track import SoundTrack
from crossmodal.sources.recordings.stream import Frame, Recording, Stream, safe_name
from crossmodal.sources.recordings.video_file import VideoFile

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
BESIDE = (".csv", ".json", ".md", ".srt", ".txt", ".vtt", ".yaml")  # files that a folder of videos may hold besides


def is_video(path: Path) -> bool:
    """True for a video file, and for a folder that holds nothing else, itself or in its folders of classes."""
    return bool(_files(path))


def open_videos(path: Path) -> list[Recording]:
    """The recordings in a file or folder: one for each video.

    In a folder, a video in a folder below has that folder's name as its label.

    Raises:
        SourceError: there is no video, or two videos have names that differ only in what a key cannot hold.
    """
    files = _files(path)
    if not files:
        raise SourceError(f"{path}: there is no video; expected files that end in {', '.join(SUFFIXES)}")
    if path.is_file():
        return [_Video(path, safe_name(path.stem), "")]
    recordings: dict[str, Recording] = {}
    for file in files:
        inside = file.relative_to(path)
        name = safe_name(str(inside.with_suffix("")))
        name = safe_name(str(inside)) if name in recordings else name
        if name in recordings:
            (other,) = recordings[name].files
            raise SourceError(f"{file}: its name becomes {name!r} in keys, as that of {other}; rename one")
        recordings[name] = _Video(file, name, inside.parts[0] if len(inside.parts) > 1 else "")
    return list(recordings.values())


def _files(path: Path) -> list[Path]:
    """The videos; none if there are files of other kinds beside them."""
    videos = []
    for file in (path,) if path.is_file() else chain(path.glob("*"), path.glob("*/*")):
        suffix = file.suffix.lower()
        if file.name.startswith(".") or suffix in BESIDE or not file.is_file():
            continue
        if suffix not in SUFFIXES:
            return []
        videos.append(file)
    return sorted(videos, key=lambda file: natural(str(file)))


class _Video(Recording):
    """A video file."""

    def __init__(self, path: Path, name: str, label: str) -> None:
        self.name, self.label = name, label
        self._file = VideoFile(path)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self._file.path,)

    @cached_property
    def _tracks(self) -> dict[str, PictureTrack | SoundTrack]:
        pictures, sounds = self._file.tracks
        return {
            **{f"video{place or ''}": PictureTrack(self._file, index) for place, index in enumerate(pictures)},
            **{f"audio{place or ''}": SoundTrack(self._file, index) for place, index in enumerate(sounds)},
        }

    def streams(self) -> dict[str, Stream]:
        return {name: track.describe(name) for name, track in self._tracks.items()}

    def stamps(self, stream: str) -> Int64[np.ndarray, " frames"]:
        """See `Recording.stamps`; of sound, when its first sample begins and when its last one ends."""
        return self._track(stream).stamps

    def frames(self, wanted: Mapping[str, Int64[np.ndarray, " some"]]) -> Iterator[Frame]:
        """The wanted pictures of all streams, by their times."""
        streams = [self._frames(stream, numbers.tolist()) for stream, numbers in wanted.items()]
        return (frame for _, frame in heapq.merge(*streams, key=lambda timed: timed[0]))

    def _frames(self, stream: str, numbers: list[int]) -> Iterator[tuple[int, Frame]]:
        track = self._track(stream)
        if isinstance(track, SoundTrack):
            raise SourceError(f"{self._file.path}: {stream} is sound, which has no frames; make it a member of audio")
        for number, picture in track.read(numbers):
            yield int(track.stamps[number]), Frame(stream, number, picture)

    def sound(
        self, stream: str, starts: Int64[np.ndarray, " pieces"], seconds: float
    ) -> Iterator[tuple[Float32[np.ndarray, "channels samples"], int]]:
        track = self._track(stream)
        if isinstance(track, PictureTrack):
            raise SourceError(f"{self._file.path}: {stream} is no sound; its streams are {', '.join(self._tracks)}")
        return track.pieces(starts, seconds)

    def _track(self, stream: str) -> PictureTrack | SoundTrack:
        if stream not in self._tracks:
            known = ", ".join(self._tracks) or "neither pictures nor sound"
            raise SourceError(f"{self._file.path}: there is no stream {stream!r}; the file has {known}")
        return self._tracks[stream]
