"""MCAP files (https://mcap.dev/spec) by the package mcap, with messages of Foxglove in protobuf, or of ROS."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.images import Compressed, Raw
from crossmodal.sources.recordings.messages import (
    Container,
    Message,
    Picture,
    Role,
    Topic,
    Transform,
    pose_matrix,
    read_calibration,
)
from crossmodal.sources.recordings.ros import read_message, read_stamp, role_of

_MAGIC = b"\x89MCAP0\r\n"
_ROLES: dict[str, Role] = {
    "foxglove.RawImage": "picture",
    "foxglove.CompressedImage": "picture",
    "foxglove.CameraCalibration": "calibration",
    "foxglove.PoseInFrame": "pose",
    "foxglove.FrameTransform": "transforms",
    "foxglove.FrameTransforms": "transforms",
}


class McapFile(Container):
    """An MCAP file, whatever its messages are. It is opened for each pass, so that many need few file handles."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = (path,)
        self.topics: dict[str, Topic] = {}
        self._channels: dict[str, tuple[str, Any]] = {}  # topic -> message encoding and schema
        self._decoders: dict[str, Callable[[bytes], Any]] = {}
        self._indexed = False
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - len(_MAGIC)))
            if file.read() != _MAGIC:
                raise self._damaged("it has no end, so that it is cut short")
        with self._reader(indexed=True) as reader:
            self._indexed = self._read_tables(reader)
        if not self._indexed:
            with self._reader(indexed=False) as reader:
                self._scan(reader)
        if not any(topic.messages for topic in self.topics.values()):
            raise SourceError(f"{path} holds no messages; record again, or remove it")

    def read(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """Messages in the order of their log times; of a file without index, in that of the file."""
        with self._reader(indexed=self._indexed) as reader:
            for _, channel, message in reader.iter_messages(
                list(topics), starting_at=start, ending_before=stop, log_time_order=self._indexed
            ):
                yield channel.topic, message.log_time, message.data

    def first(self, topics: Collection[str]) -> dict[str, bytes]:
        """The first messages; with an index, nothing before them is read."""
        found: dict[str, bytes] = {}
        for topic in topics:
            with self._reader(indexed=self._indexed) as reader:
                for _, _, message in reader.iter_messages([topic], log_time_order=self._indexed):
                    found[topic] = message.data
                    break
        return found

    def stamp(self, topic: str, payload: bytes) -> int:
        """The stamp of the header of ROS, or the timestamp of Foxglove."""
        encoding, _ = self._channels[topic]
        if encoding != "protobuf":
            return read_stamp(payload, ros1=encoding == "ros1")
        moment = self._decode(topic, payload).timestamp
        return int(moment.seconds) * 1_000_000_000 + int(moment.nanos)

    def parse(self, topic: str, payload: bytes) -> Message:
        """What the message says."""
        encoding, schema = self._channels[topic]
        kind = self.topics[topic].type
        if encoding == "protobuf":
            return _READERS[kind](self._decode(topic, payload))
        definition = schema.data.decode() if schema.encoding in ("ros1msg", "ros2msg") else ""
        return read_message(payload, kind, definition, ros1=encoding == "ros1")

    def _read_tables(self, reader: Any) -> bool:
        """Reads the topics from the end of the file; whether it has an index of them and of their messages."""
        summary = reader.get_summary()
        if summary is None or summary.statistics is None or not summary.chunk_indexes:
            return False
        counts = summary.statistics.channel_message_counts
        if not counts.keys() <= summary.channels.keys():
            return False
        for channel in summary.channels.values():
            if channel.schema_id and channel.schema_id not in summary.schemas:
                return False
        for channel in summary.channels.values():
            self._add(channel, summary.schemas.get(channel.schema_id), counts.get(channel.id, 0))
        return True

    def _scan(self, reader: Any) -> None:
        """Reads the topics from all of the file."""
        found: dict[int, tuple[Any, Any]] = {}
        counts = Counter[int]()
        for schema, channel, message in reader.iter_messages(log_time_order=False):
            found[channel.id] = channel, schema
            counts[message.channel_id] += 1
        for number, (channel, schema) in found.items():
            self._add(channel, schema, counts[number])

    def _add(self, channel: Any, schema: Any, count: int) -> None:
        name, encoding = channel.topic, channel.message_encoding
        kind, role = _type_of(encoding, schema)
        if name not in self.topics:
            self._channels[name] = encoding, schema
            self.topics[name] = Topic(kind, role, count)
            return
        before = self.topics[name]
        if self._channels[name] == (encoding, schema):
            self.topics[name] = Topic(kind, role, before.messages + count)
        else:  # two publishers do not agree
            self.topics[name] = Topic(f"{before.type} and {kind}", "other", before.messages + count)

    def _decode(self, topic: str, payload: bytes) -> Any:
        if topic not in self._decoders:
            try:
                from mcap_protobuf.decoder import DecoderFactory
            except ImportError as error:
                raise _missing(self.path, "mcap-protobuf-support") from error
            encoding, schema = self._channels[topic]
            try:
                decoder = DecoderFactory().decoder_for(encoding, schema)
            except Exception as error:  # of a damaged schema, protobuf raises many kinds of errors
                raise SourceError(f"the file's schema of {schema.name} cannot be read: {error}") from error
            assert decoder is not None
            self._decoders[topic] = decoder
        try:
            return self._decoders[topic](payload)
        except Exception as error:  # google.protobuf.message.DecodeError, among others
            raise SourceError(f"the message is damaged or not of type {self.topics[topic].type}: {error}") from error

    @contextmanager
    def _reader(self, *, indexed: bool) -> Iterator[Any]:
        try:
            from mcap.reader import NonSeekingReader, SeekingReader
        except ImportError as error:
            raise _missing(self.path, "mcap") from error
        try:
            with self.path.open("rb") as file:
                yield (SeekingReader if indexed else NonSeekingReader)(file, validate_crcs=True)
        except Exception as error:  # of damaged files, mcap raises many kinds of errors
            raise self._damaged(f"{error}".rstrip(".") or type(error).__name__) from error

    def _damaged(self, reason: str) -> SourceError:
        return SourceError(
            f"{self.path} cannot be read: {reason}; repair it with `mcap recover {self.path} -o whole.mcap`, or copy "
            "it again"
        )


def _missing(path: Path, package: str) -> SourceError:
    return SourceError(f"to read {path} the package {package} is needed: pip install 'crossmodal-transfer[ros]'")


def _type_of(encoding: str, schema: Any) -> tuple[str, Role]:
    if schema is None:
        return encoding, "other"
    if encoding == "protobuf" and schema.encoding == "protobuf":
        return schema.name, _ROLES.get(schema.name, "other")
    if encoding in ("cdr", "ros1"):
        package, _, name = schema.name.partition("/")
        kind = f"{package}/msg/{name.removeprefix('msg/')}"
        return kind, role_of(kind)
    return schema.name or encoding, "other"


def _raw(message: Any) -> Message:
    raw = Raw(message.encoding, message.height, message.width, message.step, False, message.data)
    return Picture(message.frame_id, raw)


def _compressed(message: Any) -> Message:
    return Picture(message.frame_id, Compressed(message.format, message.data))


def _calibration(message: Any) -> Message:
    return read_calibration(
        message.frame_id,
        size=(message.width, message.height),
        model=message.distortion_model,
        distortion=list(message.D),
        matrix=list(message.K),
        projection=list(message.P),
    )


def _transform(message: Any) -> Transform:
    moved, turned = message.translation, message.rotation
    matrix = pose_matrix((moved.x, moved.y, moved.z), (turned.x, turned.y, turned.z, turned.w))
    return Transform(message.parent_frame_id, message.child_frame_id, matrix)


def _pose(message: Any) -> Message:
    position, turned = message.pose.position, message.pose.orientation
    return pose_matrix((position.x, position.y, position.z), (turned.x, turned.y, turned.z, turned.w))


_READERS: dict[str, Callable[[Any], Message]] = {
    "foxglove.RawImage": _raw,
    "foxglove.CompressedImage": _compressed,
    "foxglove.CameraCalibration": _calibration,
    "foxglove.PoseInFrame": _pose,
    "foxglove.FrameTransform": lambda message: [_transform(message)],
    "foxglove.FrameTransforms": lambda message: [_transform(each) for each in message.transforms],
}
