"""MCAP files (https://mcap.dev/spec) by the package mcap, with messages of Foxglove in protobuf, or of ROS."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.messages import Container, Message, Role, Topic, add_topic
from crossmodal.sources.recordings.ros import read_message, read_stamp, role_of, say

_MAGIC = b"\x89MCAP0\r\n"


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

    def read(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """Messages in the order of their log times; of a file without index, in that of the file."""
        with self._reader(indexed=self._indexed) as reader:
            for _, channel, message in reader.iter_messages(
                list(topics), starting_at=start, ending_before=stop, log_time_order=self._indexed
            ):
                yield channel.topic, message.log_time, message.data

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
            return say(self._decode(topic, payload), kind)
        definition = schema.data.decode() if schema.encoding in ("ros1msg", "ros2msg") else ""
        return read_message(payload, kind, definition, ros1=encoding == "ros1")

    def _read_tables(self, reader: Any) -> bool:
        """Reads the topics from the end of the file; whether it has an index of them and of their messages."""
        summary = reader.get_summary()
        if summary is None or summary.statistics is None or not summary.chunk_indexes:
            return False
        counts, schemas = summary.statistics.channel_message_counts, {0: None, **summary.schemas}
        channels = summary.channels
        if not counts.keys() <= channels.keys() or any(each.schema_id not in schemas for each in channels.values()):
            return False
        for channel in channels.values():
            self._add(channel, schemas[channel.schema_id], counts.get(channel.id, 0))
        return True

    def _scan(self, reader: Any) -> None:
        """Reads the topics from all of the file."""
        for schema, channel, _ in reader.iter_messages(log_time_order=False):
            self._add(channel, schema, 1)

    def _add(self, channel: Any, schema: Any, messages: int) -> None:
        self._channels.setdefault(channel.topic, (channel.message_encoding, schema))
        add_topic(self.topics, channel.topic, *_type_of(channel.message_encoding, schema), messages)

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
        return schema.name, role_of(schema.name)
    if encoding in ("cdr", "ros1"):
        package, _, name = schema.name.partition("/")
        kind = f"{package}/msg/{name.removeprefix('msg/')}"
        return kind, role_of(kind)
    return schema.name or encoding, "other"
