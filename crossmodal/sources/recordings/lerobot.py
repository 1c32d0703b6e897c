"""LeRobot data sets, versions 2.1 and 3.0: numbers in parquet, pictures in videos or in parquet; read by `pyarrow`.

Format: https://github.com/huggingface/lerobot, `LeRobotDataset`.
"""

import heapq
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.association import nearest
from crossmodal.sources.recordings.containers import pointer
from crossmodal.sources.recordings.lerobot_features import INFO, Reader, image_reader, plain_reader, video_reader
from crossmodal.sources.recordings.parquet import Table
from crossmodal.sources.recordings.picture_track import NANO, PictureTrack
from crossmodal.sources.recordings.stream import Frame, Recording, Stream, safe_name
from crossmodal.sources.recordings.video_file import VideoFile

VERSIONS = ("v2.1", "v3.0")
ROWS = ("timestamp", "frame_index", "episode_index", "index", "task_index")  # features that number the rows


def is_lerobot(path: Path) -> bool:
    """True for the folder of a LeRobot data set."""
    return (path / INFO).is_file()


def open_lerobot(path: Path) -> list[Recording]:
    """The episodes of a data set whose files are there; `absent` of the first counts the others.

    The streams have the names of the features: videos, images, and vectors of numbers, which are of kind "other". The
    label is the text of the task, if the data set has several tasks.

    Raises:
        SourceError: the version is another, a file of `meta` is missing or damaged, or no episode has its files.
    """
    found = _Dataset(path)
    lacking = [found.lacking(episode) for episode in found.episodes]
    if all(lacking):
        first = f"; the first one lacks {lacking[0]}" if lacking else ""
        raise SourceError(f"{path}: none of its {len(lacking)} episodes has its files{first}; fetch data and videos")
    several = len({episode.task for episode in found.episodes}) > 1
    present = [episode for episode, file in zip(found.episodes, lacking, strict=True) if not file]
    recordings: list[Recording] = [_Episode(found, episode, episode.task if several else "") for episode in present]
    recordings[0].absent = len(lacking) - len(present)
    return recordings


@dataclass(frozen=True)
class _Listed:
    """One episode, as `meta` lists it."""

    number: int
    task: str
    length: int  # frames
    numbers: Path  # parquet file
    videos: dict[str, tuple[Path, float, float]]  # of each feature the file, and the episode's begin and end, seconds


class _Dataset:
    """The folder of a data set, with its files of numbers and videos opened once for all episodes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables: dict[Path, Table] = {}
        self.tracks: dict[Path, PictureTrack] = {}

    @cached_property
    def info(self) -> dict[str, Any]:
        """meta/info.json."""
        path = self.root / INFO
        info = next(iter(_read_json(path, "\0")), None)
        if not isinstance(info, dict):
            raise SourceError(f"{path}: the file must hold one JSON object; download it again")
        if (version := info.get("codebase_version")) not in VERSIONS:
            raise SourceError(
                f"{path}: LeRobot data of version {version} is not read, only {' and '.join(VERSIONS)}; convert it "
                "with the scripts of lerobot"
            )
        features, fps = info.get("features"), info.get("fps")
        if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
            raise SourceError(f"{path}: features must be an object of objects; download the file again")
        if not isinstance(fps, int | float) or not 0 < fps < math.inf:
            raise SourceError(f"{path}: fps must be above 0, got {fps!r}; download the file again")
        return info

    @cached_property
    def features(self) -> dict[str, dict[str, Any]]:
        """The features by name, without those that number the rows."""
        return {name: feature for name, feature in self.info["features"].items() if name not in ROWS}

    @cached_property
    def episodes(self) -> list[_Listed]:
        """The episodes in order."""
        videos = [name for name, feature in self.features.items() if feature.get("dtype") == "video"]
        listed, rows = (
            (self._listed_2, self._rows_2)
            if self.info["codebase_version"] == "v2.1"
            else (self._listed_3, self._rows_3)
        )
        try:
            return sorted((listed(row, videos) for row in rows()), key=lambda episode: episode.number)
        except SourceError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise SourceError(
                f"{self.root}/meta: the list of episodes cannot be read ({error!r}); download the folder meta again"
            ) from error

    def _rows_2(self) -> Iterator[dict[str, Any]]:
        yield from _read_json(self.root / "meta/episodes.jsonl", "\n")

    def _rows_3(self) -> Iterator[dict[str, Any]]:
        files = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        if not files:
            raise SourceError(f"{self.root}/meta/episodes: there is no parquet file; download the folder meta again")
        for table in map(self.table, files):
            yield from table.rows([name for name in table.names if not name.startswith("stats/")])

    def _listed_2(self, row: dict[str, Any], videos: list[str]) -> _Listed:
        number = row["episode_index"]
        place = {"episode_chunk": number // self.info["chunks_size"], "episode_index": number}
        parts = {name: (self._path("video_path", video_key=name, **place), 0.0, math.inf) for name in videos}
        return _Listed(number, _text(row["tasks"]), row["length"], self._path("data_path", **place), parts)

    def _listed_3(self, row: dict[str, Any], videos: list[str]) -> _Listed:
        def path(pattern: str, kind: str, **names: str) -> Path:
            return self._path(
                pattern, **names, **{name: row[f"{kind}/{name}"] for name in ("chunk_index", "file_index")}
            )

        parts = {}
        for name in videos:
            start, end = (float(row[f"videos/{name}/{which}_timestamp"]) for which in ("from", "to"))
            parts[name] = path("video_path", f"videos/{name}", video_key=name), start, end
        tasks = _text(row.get("tasks") or [])
        return _Listed(row["episode_index"], tasks, row["length"], path("data_path", "data"), parts)

    def _path(self, pattern: str, **place: Any) -> Path:
        return self.root / self.info[pattern].format(**place)

    def lacking(self, episode: _Listed) -> str:
        """The first file of an episode that is not there, relative to the root; empty if all are."""
        files = [episode.numbers, *(path for path, _, _ in episode.videos.values())]
        return next((str(file.relative_to(self.root)) for file in files if not file.is_file()), "")

    def table(self, path: Path) -> Table:
        """A parquet file."""
        return self.tables.setdefault(path, Table(path))

    def track(self, path: Path) -> PictureTrack:
        """The pictures of a video."""
        if path not in self.tracks:
            file = VideoFile(path)
            pictures, _ = file.tracks
            if not pictures:
                raise SourceError(f"{path}: the file has no pictures; download it again")
            self.tracks[path] = PictureTrack(file, pictures[0])
        return self.tracks[path]


class _Episode(Recording):
    """One episode of a data set."""

    def __init__(self, dataset: _Dataset, listed: _Listed, label: str) -> None:
        self.name = f"{safe_name(dataset.root.resolve().name)}_{listed.number:06d}"
        self.label = label
        self._dataset, self._listed = dataset, listed
        self._numbers = dataset.table(listed.numbers)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self._dataset.root / INFO, self._listed.numbers, *(path for path, _, _ in self._listed.videos.values()))

    @cached_property
    def _rows(self) -> Int64[np.ndarray, " frames"]:
        """The episode's rows in their file."""
        rows = np.flatnonzero(self._numbers.episodes == self._listed.number)
        if len(rows) != self._listed.length:
            raise SourceError(
                f"{self._listed.numbers}: episode {self._listed.number} has {len(rows)} rows, but meta lists "
                f"{self._listed.length} frames; download the data set again"
            )
        return rows.astype(np.int64)

    @cached_property
    def _seconds(self) -> Float64[np.ndarray, " frames"]:
        seconds = self._numbers.seconds[self._rows]
        if not np.isfinite(seconds).all():
            raise SourceError(f"{self._listed.numbers}: a timestamp of episode {self._listed.number} is not a number")
        return seconds

    def stamps(self, stream: str) -> Int64[np.ndarray, " frames"]:
        """Nanoseconds since the episode began; the same for all streams."""
        self._feature(stream)
        return np.rint(self._seconds * NANO).astype(np.int64)

    @cached_property
    def _readers(self) -> dict[str, Reader]:
        return {name: self._reader(name, feature) for name, feature in self._dataset.features.items()}

    def _reader(self, name: str, feature: dict[str, Any]) -> Reader:
        if feature.get("dtype") == "video":
            return video_reader(name, feature, self._dataset.track(self._listed.videos[name][0]))
        if feature.get("dtype") == "image":
            first = next(self._numbers.rows([name], self._rows[:1].tolist()), None)
            return image_reader(name, feature, None if first is None else self._picture(first[name]))
        return plain_reader(name, feature)

    def streams(self) -> dict[str, Stream]:
        frames, rate = len(self._rows), float(self._dataset.info["fps"])
        return {name: replace(reader.stream, frames=frames, rate_hz=rate) for name, reader in self._readers.items()}

    def frames(self, wanted: Mapping[str, Int64[np.ndarray, " some"]]) -> Iterator[Frame]:
        """The wanted frames of all streams by their times; a vector of numbers is an array of its values."""
        streams = (self._frames(stream, numbers.tolist()) for stream, numbers in wanted.items())
        return heapq.merge(*streams, key=lambda frame: frame.number)

    def _frames(self, stream: str, numbers: list[int]) -> Iterator[Frame]:
        dtype, reader = self._feature(stream).get("dtype"), self._readers[stream]
        if reader.refusal:
            raise SourceError(f"{self._dataset.root}: {reader.refusal}")
        if dtype == "video":
            track = self._dataset.track(self._listed.videos[stream][0])
            places = self._places(stream, track)[numbers].tolist()
            stored: Iterable[Any] = (picture for _, picture in track.read(places, codes=reader.codes))
        else:
            values = (row[stream] for row in self._numbers.rows([stream], self._rows[numbers].tolist()))
            stored = map(self._picture, values) if dtype == "image" else values
        return (Frame(stream, number, reader.content(each)) for number, each in zip(numbers, stored, strict=True))

    def _places(self, stream: str, track: PictureTrack) -> Int64[np.ndarray, " frames"]:
        """Numbers of the episode's frames in the video: all in order, or by their times if the counts differ.

        The times of the rows can be those of a camera's clock, while the video is written at a constant rate.
        """
        (path, start_s, end_s), half = self._listed.videos[stream], 0.5 / self._dataset.info["fps"]
        times, wanted = track.stamps / NANO, start_s + self._seconds
        inside = np.flatnonzero((times > start_s - half) & (times < end_s - half))
        if len(inside) == len(wanted):
            return inside.astype(np.int64)
        places = nearest(np.rint(wanted * NANO).astype(np.int64), track.stamps)
        far = np.abs(times[places] - wanted) > half
        if far.any() or (np.diff(places) <= 0).any():
            raise SourceError(
                f"{path}: episode {self._listed.number} has {len(wanted)} rows but {len(inside)} frames in the "
                f"video, none of its own at {wanted[int(np.argmax(far))]:.3f} s; download the data set again"
            )
        return places

    def _picture(self, value: Any) -> bytes:
        """The bytes of a picture in a parquet file, or of the file that it names."""
        content, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
        if isinstance(content, bytes):
            return content
        path = self._dataset.root / str(name)
        if not path.is_file():
            raise SourceError(f"{self._listed.numbers}: the picture {path} is missing; download the data set again")
        return path.read_bytes()

    def _feature(self, stream: str) -> dict[str, Any]:
        if stream not in self._dataset.features:
            known = ", ".join(self._dataset.features)
            raise SourceError(f"{self._dataset.root}: there is no stream {stream!r}; the data set has {known}")
        return self._dataset.features[stream]


def _text(tasks: Iterable[str]) -> str:
    """The tasks of an episode as one name, on one line."""
    return "; ".join(" ".join(task.split()) for task in tasks)


def _read_json(path: Path, separator: str) -> list[Any]:
    try:
        parts = path.read_text(encoding="utf-8").split(separator)
        return [json.loads(part) for part in parts if part.strip()]
    except FileNotFoundError:
        raise SourceError(f"{path}: there is no such file; download the folder meta again") from None
    except (ValueError, OSError) as error:
        raise SourceError(f"{path}: {pointer(path) or f'the file is not JSON ({error}); download it again'}") from error
