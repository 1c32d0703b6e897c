"""Recordings that are messages on topics: what ROS bags and MCAP files of Foxglove have in common."""

from abc import ABC, abstractmethod
from array import array
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, Shaped

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.decoding import Calibration, Message, Picture, Topic, read_message, read_stamp
from crossmodal.sources.recordings.images import Raw, describe_picture, read_picture
from crossmodal.sources.recordings.stream import Camera, Frame, Recording, Stream

_TRANSPORTS = ("compressed", "compressedDepth", "theora", "zstd")  # last part of a topic of image_transport


@dataclass(frozen=True)
class Times:
    """Nanoseconds of the frames of a stream in stored order."""

    stamps: Int64[np.ndarray, " frames"]  # when it was taken
    received: Int64[np.ndarray, " frames"]  # when the recorder got it


Neighbours = dict[str, dict[str, np.ndarray]]  # of each coordinate frame, the matrices that take its points into others


class Container(ABC):
    """A file or folder of messages. Its methods raise `SourceError` with the path and what to do."""

    path: Path
    files: tuple[Path, ...]
    topics: Mapping[str, Topic]  # in the file's order

    @abstractmethod
    def read(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """Topic, receive time in nanoseconds and payload of messages in stored order; time in [start, stop)."""


class MessageRecording(Recording):
    """The recording in a container: topics of pictures and poses are its streams, others are of kind "other"."""

    def __init__(self, container: Container, name: str) -> None:
        if not any(topic.messages for topic in container.topics.values()):
            raise SourceError(f"{container.path} holds no messages; record again, or remove it")
        self.name = name
        self._container = container
        self._scanned: dict[str, Times] = {}  # stamps are 0 where there are none

    @property
    def files(self) -> tuple[Path, ...]:
        """See `Recording.files`."""
        return self._container.files

    def streams(self) -> dict[str, Stream]:
        """The streams by topic. The first message of a topic of pictures is read for its encoding and size."""
        return dict(self._streams)

    def stamps(self, stream: str) -> Int64[np.ndarray, " frames"]:
        """Stamps in the messages' headers, or receive times if no header of this topic has one: see `Stream.clock`.

        Raises:
            SourceError: the stream is not known, or some of its headers have a stamp and others do not.
        """
        return self._times(stream).stamps

    def frames(self, wanted: Mapping[str, Int64[np.ndarray, " some"]]) -> Iterator[Frame]:
        """The wanted frames, by one pass from the first to the last of them.

        Raises:
            SourceError: a frame cannot be read.
        """
        wanted = {stream: numbers for stream, numbers in wanted.items() if len(numbers)}
        if not wanted:
            return
        times = {stream: self._times(stream) for stream in wanted}
        for stream in wanted:
            described, role = self._streams[stream], self._container.topics[stream].role
            if described.kind == "other" and role != "picture":  # an encoding that is not known is named with its frame
                raise SourceError(
                    f"{self._container.path}: {stream}: messages of type {described.encoding} cannot be packed; choose "
                    "a stream of pictures or poses"
                )
        start = min(int(times[stream].received[numbers].min()) for stream, numbers in wanted.items())
        stop = max(int(times[stream].received[numbers].max()) for stream, numbers in wanted.items()) + 1
        inside = {
            stream: iter(np.flatnonzero((times[stream].received >= start) & (times[stream].received < stop)).tolist())
            for stream in wanted
        }
        left = {stream: set(numbers.tolist()) for stream, numbers in wanted.items()}
        changed = SourceError(f"{self._container.path} has changed since it was opened; start again")
        for stream, received, payload in self._container.read(list(wanted), start, stop):
            number = next(inside[stream], None)
            if number is None or received != times[stream].received[number]:
                raise changed
            if number in left[stream]:
                left[stream].remove(number)
                yield Frame(stream, number, self._content(stream, number, payload))
        if any(left.values()):
            raise changed

    def camera(self, stream: str) -> Camera | None:
        """The camera of a stream of pictures.

        It is the calibration in the topic's namespace, as ROS has it: /left/camera_info of /left/image_raw and of
        /left/image_raw/compressed. Without one, it is the only calibration of the same coordinate frame and size.
        A topic named image_rect... gets the rectified camera.

        Raises:
            SourceError: the lens distortion is of a model that is not known.
        """
        self._check(stream)
        parent, _, last = stream.rpartition("/")
        topic = parent if last in _TRANSPORTS else stream
        calibration = self._calibration(stream, topic)
        if calibration is None:
            return None
        if "rect" in topic.rpartition("/")[2] and calibration.rectified is not None:
            return calibration.rectified
        if calibration.unknown:
            raise SourceError(
                f"{self._container.path}: {stream}: the lens distortion, {calibration.unknown}, is not known; known "
                "are plumb_bob, rational_polynomial (8 coefficients) and equidistant; rectify the pictures, or state a "
                "camera in the config"
            )
        return calibration.raw

    def transform(self, source: str, target: str) -> Float[np.ndarray, "4 4"] | None:
        """The chain of transforms from the coordinate frame of `source` to that of `target`; none of them may move.

        Topics named tf_static are read first; where they hold no chain, all topics of transforms are read.
        """
        self._check(source)
        self._check(target)
        start, goal = self._camera_frame(source), self._camera_frame(target)
        if not start or not goal:
            return None
        if start == goal:
            return np.eye(4)
        matrix = _chain(self._static, start, goal)
        return _chain(self._unmoved, start, goal) if matrix is None else matrix

    @cached_property
    def _first(self) -> dict[str, tuple[int, Message | None]]:
        """Stamp of the first message of each topic with stamps, and content of pictures and calibrations."""
        first: dict[str, tuple[int, Message | None]] = {}
        for name, topic in self._container.topics.items():
            if topic.role in ("picture", "pose", "calibration"):
                for _, _, payload in islice(self._container.read([name]), 1):
                    with self._place(name, 0):
                        stamp = read_stamp(topic, payload)
                        # the first pose may be 0, which is no rotation
                        first[name] = stamp, None if topic.role == "pose" else read_message(topic, payload)
        return first

    @cached_property
    def _streams(self) -> dict[str, Stream]:
        streams = {}
        for name, topic in self._container.topics.items():
            if topic.role in ("calibration", "transforms"):
                continue
            stamp, said = self._first.get(name, (0, None))
            if isinstance(said, Picture):
                stream = describe_picture(said.content, name)
            else:
                stream = Stream(name, "pose" if topic.role == "pose" else "other", topic.type, 0)
            streams[name] = replace(stream, frames=topic.messages, clock="header" if stamp else "received")
        return streams

    def _camera_frame(self, stream: str) -> str:
        _, said = self._first.get(stream, (0, None))
        return said.camera_frame if isinstance(said, Picture) else ""

    def _calibration(self, stream: str, topic: str) -> Calibration | None:
        known = {name: said for name, (_, said) in self._first.items() if isinstance(said, Calibration)}
        frame, described = self._camera_frame(stream), self._streams[stream]
        near = [known[name] for name in _names(topic) if name in known]
        if not topic.rpartition("/")[0]:  # at the root, all cameras have the same namespace
            near = [found for found in near if found.camera_frame == frame]
        size = described.width, described.height
        alike = [found for found in known.values() if frame and found.camera_frame == frame and found.size == size]
        return near[0] if near else alike[0] if len(alike) == 1 else None

    @cached_property
    def _static(self) -> Neighbours:
        return self._read_transforms("tf_static")

    @cached_property
    def _unmoved(self) -> Neighbours:
        return self._read_transforms("")

    def _read_transforms(self, end: str) -> Neighbours:
        topics = {
            name: topic
            for name, topic in self._container.topics.items()
            if topic.role == "transforms" and name.endswith(end)
        }
        known: dict[tuple[str, str], np.ndarray | None] = {}  # None: it moves
        for name, _, payload in self._container.read(list(topics)) if topics else ():
            with self._place(name):
                transforms = read_message(topics[name], payload)
            assert isinstance(transforms, list)
            for each in transforms:
                pair = each.parent, each.child
                before = known.setdefault(pair, each.matrix)
                if before is not None and not np.array_equal(before, each.matrix):
                    known[pair] = None
        neighbours: Neighbours = {}
        for (parent, child), matrix in known.items():
            if matrix is not None:
                neighbours.setdefault(child, {})[parent] = matrix
                neighbours.setdefault(parent, {})[child] = np.linalg.inv(matrix)
        return neighbours

    def _times(self, stream: str) -> Times:
        """The times of a stream; those of all streams with stamps are read in one pass."""
        self._check(stream)
        if stream not in self._scanned:
            stamped = [name for name in self._first if name in self._streams]
            self._scanned |= self._scan(stamped if stream in stamped else [stream])
        times = self._scanned[stream]
        unset = int((times.stamps == 0).sum())
        if 0 < unset < len(times.stamps):
            raise SourceError(
                f"{self._container.path}: {stream}: the stamps of {unset} of {len(times.stamps)} frames are 0 and the "
                "others are not, so that its clock is not known; mend the driver, or record again"
            )
        return Times(times.received, times.received) if unset else times

    def _scan(self, names: list[str]) -> dict[str, Times]:
        topics = {name: self._container.topics[name] for name in names}
        columns = {name: (array("q"), array("q")) for name in names}
        for name, received, payload in self._container.read(names):
            stamps, times = columns[name]
            with self._place(name, len(times)):
                stamps.append(read_stamp(topics[name], payload) if name in self._first else 0)
            times.append(received)
        for name, (_, times) in columns.items():
            if len(times) != topics[name].messages:
                raise SourceError(
                    f"{self._container.path}: {name}: its table states {topics[name].messages} messages, but there "
                    f"are {len(times)}; the recording is cut short or damaged: copy it again, or reindex it"
                )
        return {name: Times(*(np.frombuffer(column, np.int64) for column in pair)) for name, pair in columns.items()}

    def _content(self, name: str, number: int, payload: bytes) -> bytes | Shaped[np.ndarray, "..."]:
        stream = self._streams[name]
        with self._place(name, number):
            message = read_message(self._container.topics[name], payload)
            if not isinstance(message, Picture):
                assert isinstance(message, np.ndarray)
                return message
            picture = message.content
            first = stream.encoding, stream.width, stream.height
            if isinstance(picture, Raw) and (this := (picture.encoding, picture.width, picture.height)) != first:
                raise SourceError(
                    "it is {} {} x {}, but the first frame is {} {} x {}; split the recording where the settings "
                    "change".format(*this, *first)
                )
            return read_picture(picture, stream.kind)

    @contextmanager
    def _place(self, topic: str, number: int | None = None) -> Iterator[None]:
        """Errors name the file, the topic and the frame."""
        try:
            yield
        except SourceError as error:
            frame = "" if number is None else f"frame {number}: "
            raise SourceError(f"{self._container.path}: {topic}: {frame}{error}") from error

    def _check(self, stream: str) -> None:
        if stream not in self._streams:
            raise SourceError(
                f"{self._container.path}: there is no stream {stream!r}; there are {', '.join(self._streams) or 'none'}"
            )


def _chain(neighbours: Neighbours, start: str, goal: str) -> Float[np.ndarray, "4 4"] | None:
    """The product of the matrices on the shortest way; None: there is no way."""
    found = {start: np.eye(4)}  # from `start` into each frame that is reached
    queue = [start]
    for frame in queue:
        for following, matrix in neighbours.get(frame, {}).items():
            if following not in found:
                found[following] = matrix @ found[frame]
                queue.append(following)
    return found.get(goal)


def _names(topic: str) -> list[str]:
    """The topics that may hold the calibration of a topic of pictures."""
    parent = topic.rpartition("/")[0]
    names = [f"{parent}/{name}" for name in ("camera_info", "calibration", "camera_calibration")]
    if topic.endswith("/image/data"):  # as the RealSense SDK writes it
        names.append(topic.removesuffix("/image/data") + "/info/camera_info")
    return names
