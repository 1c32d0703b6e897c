"""LeRobot data sets, versions 2.1 and 3.0: numbers in parquet, pictures in videos or in parquet; read by `pyarrow`.

Format: https://github.com/huggingface/lerobot, `LeRobotDataset`.
"""

import heapq
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64
from PIL import Image, UnidentifiedImageError

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.containers import pointer
from crossmodal.sources.recordings.stream import Frame, Recording, Stream, safe_name
from crossmodal.sources.recordings.tracks import NANO, PictureTrack, VideoFile, is_deep_grey
from crossmodal.sources.recordings.videos import kind_of

VERSIONS = ("v2.1", "v3.0")
INFO = "meta/info.json"
ROWS = ("timestamp", "frame_index", "episode_index", "index", "task_index")  # features that number the rows
CODES = 4096  # of a depth map in a video: 12 bits
PNG, JPEG = b"\x89PNG", b"\xff\xd8"


def is_lerobot(path: Path) -> bool:
    """True for the folder of a LeRobot data set."""
    return (path / INFO).is_file()


def open_lerobot(path: Path) -> list[Recording]:
    """The episodes of a data set whose files are there; `missing_episodes` names the others.

    The streams have the names of the features: videos, images, and vectors of numbers, which are of kind "other". The
    label is the text of the task, if the data set has several tasks.

    Raises:
        SourceError: the version is another, a file of `meta` is missing or damaged, or no episode has its files.
    """
    found = _Dataset(path)
    present = [episode for episode in found.episodes if not found.lacking(episode)]
    if not present:
        first = f"; the first one lacks {found.lacking(found.episodes[0])}" if found.episodes else ""
        raise SourceError(
            f"{path}: none of its {len(found.episodes)} episodes has its files{first}; fetch data and videos"
        )
    several = len({episode.task for episode in found.episodes}) > 1
    return [_Episode(found, episode, episode.task if several else "") for episode in present]


def missing_episodes(path: Path) -> list[str]:
    """The episodes that a data set lists but whose files are not there, each with the first missing file."""
    found = _Dataset(path)
    lacking = {episode.number: found.lacking(episode) for episode in found.episodes}
    return [f"episode {number}: {file} is missing" for number, file in lacking.items() if file]


@dataclass(frozen=True)
class _Listed:
    """One episode, as `meta` lists it."""

    number: int
    task: str
    length: int  # frames
    numbers: Path  # parquet file
    videos: dict[str, tuple[Path, float]]  # feature -> file, and where the episode begins in it, seconds


class _Dataset:
    """The folder of a data set, with its files of numbers and videos opened once for all episodes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables: dict[Path, _Table] = {}
        self.tracks: dict[Path, PictureTrack] = {}

    @cached_property
    def info(self) -> dict[str, Any]:
        """meta/info.json."""
        [info] = _read_json(self.root / INFO, "\0")
        version = info.get("codebase_version")
        if version not in VERSIONS:
            raise SourceError(
                f"{self.root / INFO}: LeRobot data of version {version} is not read, only {' and '.join(VERSIONS)}; "
                "convert it with the scripts of lerobot"
            )
        for name, kind in (("features", dict), ("data_path", str), ("fps", (int, float))):
            if not isinstance(info.get(name), kind):
                raise SourceError(f"{self.root / INFO}: {name} is missing or not of its type; download the file again")
        return info

    @cached_property
    def features(self) -> dict[str, dict[str, Any]]:
        """The features by name, without those that number the rows."""
        return {name: feature for name, feature in self.info["features"].items() if name not in ROWS}

    @cached_property
    def episodes(self) -> list[_Listed]:
        """The episodes in order."""
        videos = [name for name, feature in self.features.items() if feature.get("dtype") == "video"]
        try:
            found = self._listed_2(videos) if self.info["codebase_version"] == "v2.1" else self._listed_3(videos)
            return sorted(found, key=lambda episode: episode.number)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(
                f"{self.root}/meta: the list of episodes cannot be read ({error!r}); download the folder meta again"
            ) from error

    def _listed_2(self, videos: list[str]) -> Iterator[_Listed]:
        for line in _read_json(self.root / "meta/episodes.jsonl", "\n"):
            number = line["episode_index"]
            place = {"episode_chunk": number // self.info["chunks_size"], "episode_index": number}
            yield _Listed(
                number,
                _text(line["tasks"]),
                line["length"],
                self.root / self.info["data_path"].format(**place),
                {name: (self.root / self.info["video_path"].format(video_key=name, **place), 0.0) for name in videos},
            )

    def _listed_3(self, videos: list[str]) -> Iterator[_Listed]:
        files = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        if not files:
            raise SourceError(f"{self.root}/meta/episodes: there is no parquet file; download the folder meta again")
        for file in files:
            table = self.table(file)
            for row in table.rows([name for name in table.names if not name.startswith("stats/")]):
                yield _Listed(
                    row["episode_index"],
                    _text(row.get("tasks") or []),
                    row["length"],
                    self.root / self.info["data_path"].format(**_place(row, "data")),
                    {
                        name: (
                            self.root / self.info["video_path"].format(video_key=name, **_place(row, f"videos/{name}")),
                            float(row[f"videos/{name}/from_timestamp"]),
                        )
                        for name in videos
                    },
                )

    def lacking(self, episode: _Listed) -> str:
        """The first file of an episode that is not there, relative to the root; empty if all are."""
        files = [episode.numbers, *(file for file, _ in episode.videos.values())]
        return next((str(file.relative_to(self.root)) for file in files if not file.is_file()), "")

    def table(self, path: Path) -> "_Table":
        """A parquet file."""
        return self.tables.setdefault(path, _Table(path))

    def track(self, path: Path) -> PictureTrack:
        """The pictures of a video."""
        if path not in self.tracks:
            tracks = VideoFile(path).pictures
            if not tracks:
                raise SourceError(f"{path}: the file has no pictures; download it again")
            self.tracks[path] = tracks[0]
        return self.tracks[path]


class _Table:
    """A parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _open(self) -> Any:
        try:
            import pyarrow
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise SourceError(
                f"{self.path}: reading parquet needs the package pyarrow; pip install 'crossmodal-transfer[video]'"
            ) from error
        try:
            return ParquetFile(self.path)
        except (OSError, pyarrow.ArrowException) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> SourceError:
        reason = pointer(self.path) or f"the parquet file cannot be read ({str(error).splitlines()[0]}); copy it again"
        return SourceError(f"{self.path}: {reason}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        with self._open() as file:
            return tuple(file.schema_arrow.names)

    @cached_property
    def episodes(self) -> Int64[np.ndarray, " rows"]:
        """The episode of each row."""
        return self._scalars("episode_index").astype(np.int64)

    @cached_property
    def seconds(self) -> Float64[np.ndarray, " rows"]:
        """The time of each row since its episode began."""
        return self._scalars("timestamp").astype(np.float64)

    def _scalars(self, column: str) -> np.ndarray:
        import pyarrow

        self._check([column])
        with self._open() as file:
            try:
                return np.ravel(file.read(columns=[column]).column(column).to_numpy())
            except (OSError, pyarrow.ArrowException) as error:
                raise self._unreadable(error) from error

    def _check(self, columns: list[str]) -> None:
        lacking = [name for name in columns if name not in self.names]
        if lacking:
            raise SourceError(f"{self.path}: there is no column {lacking[0]!r}; it has {', '.join(self.names)}")

    def rows(self, columns: list[str], wanted: Iterable[int] | None = None) -> Iterator[dict[str, Any]]:
        """Rows as values by column, in constant memory.

        Args:
            columns: their names.
            wanted: numbers of rows, ascending; None: all.
        """
        import pyarrow

        self._check(columns)
        with self._open() as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            asked = list(range(starts[-1]) if wanted is None else wanted)
            groups = sorted({int(np.searchsorted(starts, row, side="right")) - 1 for row in asked})
            rows, left = iter(asked), len(asked)
            row = next(rows, None)
            try:
                for group in groups:
                    first = int(starts[group])
                    for batch in file.iter_batches(batch_size=32, row_groups=[group], columns=columns):
                        while left and row is not None and row < first + batch.num_rows:
                            yield {name: batch.column(name)[row - first].as_py() for name in columns}
                            row = next(rows, None)
                        first += batch.num_rows
                        if row is None or row >= starts[group + 1]:
                            break
            except (OSError, pyarrow.ArrowException) as error:
                raise self._unreadable(error) from error


class _Episode(Recording):
    """One episode of a data set."""

    def __init__(self, dataset: _Dataset, listed: _Listed, label: str) -> None:
        self.name = f"{safe_name(dataset.root.resolve().name)}_{listed.number:06d}"
        self.label = label
        self._dataset, self._listed = dataset, listed
        self._numbers = dataset.table(listed.numbers)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self._dataset.root / INFO, self._listed.numbers, *(file for file, _ in self._listed.videos.values()))

    @cached_property
    def _rows(self) -> Int64[np.ndarray, " frames"]:
        """Where the episode's rows are in their file."""
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
    def _readers(self) -> dict[str, "_Reader"]:
        return {name: self._reader(name, feature) for name, feature in self._dataset.features.items()}

    def _reader(self, name: str, feature: dict[str, Any]) -> "_Reader":
        if feature.get("dtype") == "video":
            return _video_reader(name, feature, self._dataset.track(self._listed.videos[name][0]))
        if feature.get("dtype") == "image":
            first = next(self._numbers.rows([name], self._rows[:1].tolist()), None)
            return _image_reader(name, feature, first and self._picture(first[name]))
        words = feature.get("dtype") == "string"
        stream = Stream(
            name,
            "other",
            f"{feature.get('dtype')} {feature.get('shape')}",
            0,
            source=f"{name} holds texts, which are not read" if words else "",
        )
        return _Reader(stream)

    def streams(self) -> dict[str, Stream]:
        frames, rate = len(self._rows), float(self._dataset.info["fps"])
        return {name: _with(reader.stream, frames, rate) for name, reader in self._readers.items()}

    def frames(self, wanted: Mapping[str, Int64[np.ndarray, " some"]]) -> Iterator[Frame]:
        """The wanted frames of all streams by their times; a vector of numbers is an array of its values."""
        return heapq.merge(
            *(self._frames(stream, numbers.tolist()) for stream, numbers in wanted.items()),
            key=lambda frame: frame.number,
        )

    def _frames(self, stream: str, numbers: list[int]) -> Iterator[Frame]:
        dtype = self._feature(stream).get("dtype")
        reader = self._readers[stream]
        if reader.stream.kind == "other" and reader.stream.source:
            raise SourceError(f"{self._dataset.root}: {reader.stream.source}")
        if dtype == "video":
            contents: Iterator[Any] = self._video(stream, numbers, reader)
        else:
            rows = self._numbers.rows([stream], self._rows[numbers].tolist())
            read = reader.content if dtype == "image" else np.atleast_1d
            contents = (read(self._picture(row[stream]) if dtype == "image" else row[stream]) for row in rows)
        return (Frame(stream, number, content) for number, content in zip(numbers, contents, strict=True))

    def _video(self, stream: str, numbers: list[int], reader: "_Reader") -> Iterator[np.ndarray]:
        path, start = self._listed.videos[stream]
        track = self._dataset.track(path)
        places = nearest(track.stamps / NANO, start + self._seconds[numbers])
        far = np.abs(track.stamps[places] / NANO - start - self._seconds[numbers]) > 0.5 / self._dataset.info["fps"]
        if far.any() or (np.diff(places) < 0).any():
            worst = numbers[int(np.argmax(far))] if far.any() else numbers[int(np.argmin(np.diff(places)))]
            raise SourceError(
                f"{path}: frame {worst} of episode {self._listed.number} should be at "
                f"{start + self._seconds[worst]:.3f} s, where the video has no frame of its own; its last is at "
                f"{track.stamps[-1] / NANO:.3f} s; download the data set again"
            )
        pictures = track.read(np.unique(places).tolist(), codes=reader.codes)
        number, picture = -1, None
        for place in places:
            if place != number:
                number, picture = next(pictures)
            yield reader.content(picture)

    def _picture(self, value: Any) -> bytes:
        """The bytes of a picture in a parquet file, or of the file that it names."""
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, bytes):
            return content
        path = self._dataset.root / str(value.get("path") if isinstance(value, dict) else value)
        if not path.is_file():
            raise SourceError(f"{self._listed.numbers}: the picture {path} is missing; download the data set again")
        return path.read_bytes()

    def _feature(self, stream: str) -> dict[str, Any]:
        if stream not in self._dataset.features:
            raise SourceError(
                f"{self._dataset.root}: there is no stream {stream!r}; the data set has "
                f"{', '.join(self._dataset.features)}"
            )
        return self._dataset.features[stream]


@dataclass(frozen=True)
class _Reader:
    """How the frames of a feature are read."""

    stream: Stream
    codes: bool = False  # a video's first component is wanted as it is stored
    content: Callable[[Any], Any] = lambda stored: stored  # what is stored -> what a frame holds


def nearest(
    times: Float64[np.ndarray, " frames"], wanted: Float64[np.ndarray, " wanted"]
) -> Int64[np.ndarray, " wanted"]:
    """For each wanted time the number of the nearest one of ascending times."""
    after = np.clip(np.searchsorted(times, wanted), 1, max(len(times) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(times) - 1)
    return np.where(wanted - times[before] <= times[after] - wanted, before, after)


def _video_reader(name: str, feature: dict[str, Any], track: PictureTrack) -> _Reader:
    facts = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    described = {"height": track.height, "width": track.width, "encoding": f"{track.codec} {track.pixels}"}
    if not _is_depth(facts) and not is_deep_grey(track.pixels):
        return _Reader(Stream(name, kind_of(track.pixels), frames=0, **described))
    scale = [facts.get(f"video.{fact}") for fact in ("depth_min", "depth_max", "shift", "use_log")]
    if track.bits < 12:
        reason = f"{name} is a depth map in a video of {track.bits} bits ({track.pixels}), which has lost its distances"
    elif None not in scale:
        low, high, shift, log = scale
        table = metres(float(low), float(high), float(shift), log=bool(log))
        source = f"{INFO}: {'logarithmic' if log else 'linear'} codes from {low} to {high} m; code 0 is no reading"
        stream = Stream(name, "depth", frames=0, stated={"scale_m": 1.0}, source=source, **described)
        return _Reader(stream, codes=True, content=lambda codes: table[np.minimum(codes, CODES - 1)])
    elif track.bits == 16:
        return _Reader(Stream(name, "depth", frames=0, **described), codes=True)
    else:
        reason = (
            f"{name} is a depth map of {track.bits} bits ({track.pixels}), but {INFO} does not state how its codes "
            "become metres: video.depth_min, video.depth_max, video.shift and video.use_log; add them there"
        )
    return _Reader(Stream(name, "other", frames=0, source=reason, **described))


def metres(low: float, high: float, shift: float, *, log: bool) -> Float32[np.ndarray, " codes"]:
    """What the 12-bit codes of a depth map mean, metres.

    Codes are in equal steps of the distance, or of the logarithm of the distance plus `shift`. Code 0 is what is nearer
    than `low`, also pixels without reading, and becomes 0; the last code is `high` and everything beyond.

    Raises:
        SourceError: the range is empty, or has no logarithm.
    """
    if not (0 <= low < high < math.inf and (not log or low + shift > 0)):
        raise SourceError(f"{INFO}: depth from {low} to {high} m with shift {shift} is no range; correct the file")
    steps = np.arange(CODES) / (CODES - 1)
    if log:
        distances = np.exp(math.log(low + shift) + steps * math.log((high + shift) / (low + shift))) - shift
    else:
        distances = low + steps * (high - low)
    distances[0] = 0
    return distances.astype(np.float32)


def _image_reader(name: str, feature: dict[str, Any], first: bytes | None) -> _Reader:
    facts = feature.get("info") or {}
    if first is None:
        return _Reader(Stream(name, "other", "empty", 0, source=f"{name} has no picture"))
    with _opened(first, name) as picture:
        mode, encoding = picture.mode, (picture.format or "").lower()
        width, height = picture.size
    depth = _is_depth(facts) or mode.startswith("I") or mode == "F"
    scale = {"mm": 0.001, "m": 1.0}.get(facts.get("depth_unit", "")) if depth else None
    stream = Stream(
        name,
        "depth" if depth else "grey" if mode == "L" else "rgb",
        encoding,
        0,
        height=height,
        width=width,
        stated={} if scale is None else {"scale_m": scale},
        source="" if scale is None else f"{INFO}: depth_unit of {name} is {facts['depth_unit']}",
    )
    return _Reader(stream, content=lambda content: _as_stored(content, name, depth=depth))


def _as_stored(content: bytes, name: str, *, depth: bool) -> bytes | np.ndarray:
    if content[:4] == PNG or (content[:2] == JPEG and not depth):
        return content
    if content[:2] == JPEG:
        raise SourceError(f"{name} is a depth map in JPEG, which has lost its distances; take another feature")
    with _opened(content, name) as picture:
        return np.asarray(picture if depth or picture.mode == "L" else picture.convert("RGB"))


def _opened(content: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        raise SourceError(f"{name} has a picture that is neither PNG, JPEG nor TIFF; take another feature") from error


def _is_depth(facts: dict[str, Any]) -> bool:
    return bool(facts.get("is_depth_map") or facts.get("video.is_depth_map"))


def _with(stream: Stream, frames: int, rate_hz: float) -> Stream:
    return replace(stream, frames=frames, rate_hz=rate_hz)


def _place(row: dict[str, Any], kind: str) -> dict[str, int]:
    return {name: row[f"{kind}/{name}"] for name in ("chunk_index", "file_index")}


def _text(tasks: Iterable[str]) -> str:
    """The tasks of an episode as one name, on one line."""
    return "; ".join(" ".join(task.split()) for task in tasks)


def _read_json(path: Path, separator: str) -> list[dict[str, Any]]:
    try:
        parts = path.read_text(encoding="utf-8").split(separator)
        return [json.loads(part) for part in parts if part.strip()]
    except FileNotFoundError:
        raise SourceError(f"{path}: there is no such file; download the folder meta again") from None
    except (ValueError, OSError) as error:
        raise SourceError(f"{path}: {pointer(path) or f'the file is not JSON ({error}); download it again'}") from error
