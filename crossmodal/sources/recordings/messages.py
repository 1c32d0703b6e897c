"""Recordings that are messages on topics: what ROS bags and MCAP files of Foxglove have in common."""

from abc import ABC, abstractmethod
from array import array
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int64, Shaped

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.images import Compressed, Raw, describe_picture, read_picture
from crossmodal.sources.recordings.stream import Camera, Frame, Kind, Recording, Stream

Role = Literal["picture", "pose", "calibration", "transforms", "other"]
_TRANSPORTS = ("compressed", "compressedDepth", "theora", "zstd")  # last part of a topic of image_transport


@dataclass(frozen=True)
class Topic:
    """A topic of a container."""

    type: str  # of its messages, as the file names it
    role: Role  # what its messages say
    messages: int


@dataclass(frozen=True)
class Picture:
    """A message with a picture."""

    camera_frame: str  # coordinate frame of the camera; empty: not said
    content: Raw | Compressed


@dataclass(frozen=True)
class Calibration:
    """A message with a camera, of the pictures as they are and after rectification; None: not calibrated."""

    camera_frame: str
    size: tuple[int, int]  # width and height, pixels
    raw: Camera | None
    rectified: Camera | None
    unknown: str = ""  # the distortion that the raw camera has, if it cannot be expressed


@dataclass(frozen=True)
class Transform:
    """Where a coordinate frame is: the matrix takes points of `child` into `parent`, metres."""

    parent: str
    child: str
    matrix: Float[np.ndarray, "4 4"]


@dataclass(frozen=True)
class Times:
    """Nanoseconds of the frames of a stream in stored order."""

    stamps: Int64[np.ndarray, " frames"]  # when it was taken
    received: Int64[np.ndarray, " frames"]  # when the recorder got it


Neighbours = dict[str, dict[str, np.ndarray]]  # of each coordinate frame, the matrices that take its points into others
Message = Picture | Calibration | list[Transform] | Float[np.ndarray, "4 4"]


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

    @abstractmethod
    def stamp(self, topic: str, payload: bytes) -> int:
        """The stamp in the message, nanoseconds; 0: it is not set."""

    @abstractmethod
    def parse(self, topic: str, payload: bytes) -> Message:
        """What the message says, by its topic's role: a picture, a pose as matrix, a calibration, or transforms."""


def add_topic(topics: dict[str, Topic], name: str, kind: str, role: Role, messages: int) -> None:
    """Adds messages of a type to a topic; it becomes "other" where its publishers do not agree on the type."""
    before = topics.get(name, Topic(kind, role, 0))
    if kind not in before.type.split(" and "):
        kind, role = f"{before.type} and {kind}", "other"
    else:
        kind, role = before.type, before.role
    topics[name] = Topic(kind, role, before.messages + messages)


def pose_matrix(position: Any, rotation: Any) -> Float[np.ndarray, "4 4"]:
    """The matrix of a position x, y, z in metres and a quaternion x, y, z, w.

    Raises:
        SourceError: the quaternion is 0 or not finite.
    """
    from scipy.spatial.transform import Rotation

    quaternion = rotation.x, rotation.y, rotation.z, rotation.w
    if not any(quaternion) or not np.isfinite(quaternion).all():
        raise SourceError(f"the quaternion {quaternion} is no rotation")
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat(quaternion).as_matrix()
    matrix[:3, 3] = position.x, position.y, position.z
    return matrix


class MessageRecording(Recording):
    """The recording in a container: topics of pictures and poses are its streams, others are of kind "other"."""

    def __init__(self, container: Container, name: str) -> None:
        if not any(topic.messages for topic in container.topics.values()):
            raise SourceError(f"{container.path} holds no messages; record again, or remove it")
        self.name = name
        self._container = container
        self._received: dict[str, Times] = {}  # of streams of kind "other"

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the container."""
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
        topic = _without_transport(stream)
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
        roles = ("picture", "pose", "calibration")
        asked = [name for name, topic in self._container.topics.items() if topic.role in roles and topic.messages]
        first: dict[str, tuple[int, Message | None]] = {}
        for name in asked:
            pose = self._container.topics[name].role == "pose"  # the first may be 0, which is no rotation
            for _, _, payload in islice(self._container.read([name]), 1):
                with self._place(name, 0):
                    stamp = self._container.stamp(name, payload)
                    first[name] = stamp, None if pose else self._container.parse(name, payload)
        return first

    @cached_property
    def _streams(self) -> dict[str, Stream]:
        return {
            name: self._describe(name, topic)
            for name, topic in self._container.topics.items()
            if topic.role not in ("calibration", "transforms")
        }

    def _describe(self, name: str, topic: Topic) -> Stream:
        stamp, message = self._first.get(name, (0, None))
        clock = "header" if stamp else "received"
        if not isinstance(message, Picture):
            kind: Kind = "pose" if topic.role == "pose" else "other"
            return Stream(name, kind, topic.type, topic.messages, clock=clock)
        found = describe_picture(message.content, name)
        return replace(found, frames=topic.messages, clock=clock)

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
        topics = [
            name for name, topic in self._container.topics.items() if topic.role == "transforms" and name.endswith(end)
        ]
        known: dict[tuple[str, str], np.ndarray | None] = {}  # None: it moves
        for name, _, payload in self._container.read(topics) if topics else ():
            with self._place(name):
                transforms = self._container.parse(name, payload)
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

    @cached_property
    def _stamped(self) -> dict[str, Times]:
        """The times of all streams of pictures and poses, by one pass that reads only headers."""
        return self._scan([name for name in self._first if name in self._streams], stamped=True)

    def _scan(self, topics: list[str], *, stamped: bool) -> dict[str, Times]:
        columns = {name: (array("q"), array("q")) for name in topics}
        for name, received, payload in self._container.read(topics) if topics else ():
            stamps, times = columns[name]
            with self._place(name, len(times)):
                stamps.append(self._container.stamp(name, payload) if stamped else received)
            times.append(received)
        for name, (_, times) in columns.items():
            stated = self._container.topics[name].messages
            if len(times) != stated:
                raise SourceError(
                    f"{self._container.path}: {name}: its table states {stated} messages, but there are "
                    f"{len(times)}; the recording is cut short or damaged: copy it again, or reindex it"
                )
        return {name: Times(*(np.frombuffer(column, np.int64) for column in pair)) for name, pair in columns.items()}

    def _times(self, stream: str) -> Times:
        self._check(stream)
        if stream not in self._stamped:  # it has no stamps that we read
            if stream not in self._received:
                self._received[stream] = self._scan([stream], stamped=False)[stream]
            return self._received[stream]
        times = self._stamped[stream]
        unset = int((times.stamps == 0).sum())
        if unset and unset < len(times.stamps):
            raise SourceError(
                f"{self._container.path}: {stream}: the stamps of {unset} of {len(times.stamps)} frames are 0 and the "
                "others are not, so that its clock is not known; mend the driver, or record again"
            )
        return Times(times.received, times.received) if unset else times

    def _content(self, name: str, number: int, payload: bytes) -> bytes | Shaped[np.ndarray, "..."]:
        stream = self._streams[name]
        with self._place(name, number):
            message = self._container.parse(name, payload)
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


def _without_transport(topic: str) -> str:
    parent, _, last = topic.rpartition("/")
    return parent if last in _TRANSPORTS else topic


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
    """Where the calibration of a topic of pictures may be."""
    parent = topic.rpartition("/")[0]
    names = [f"{parent}/{name}" for name in ("camera_info", "calibration", "camera_calibration")]
    if topic.endswith("/image/data"):  # as the RealSense SDK writes it
        names.append(topic.removesuffix("/image/data") + "/info/camera_info")
    return names
