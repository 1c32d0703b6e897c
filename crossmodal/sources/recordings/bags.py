"""Bags: of ROS 1 (.bag), of ROS 2 (.db3, or a folder with metadata.yaml), and MCAP files."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.decoding import Topic
from crossmodal.sources.recordings.messages import Container, MessageRecording
from crossmodal.sources.recordings.stream import Recording, safe_name

_MAGIC = {".bag": b"#ROSBAG V", ".db3": b"SQLite format 3\0", ".mcap": b"\x89MCAP0\r\n"}
_REPAIR = {
    ".bag": "`rosbag reindex {}`",
    ".db3": "`ros2 bag reindex` on its folder",
    ".mcap": "`mcap recover {} -o whole.mcap`",
    "": "`ros2 bag reindex {}`",
}


def is_bag(path: Path) -> bool:
    """True for a bag of ROS 1, a bag of ROS 2 as file or folder, or an MCAP file, by name."""
    if path.is_dir():
        metadata = path / "metadata.yaml"
        return metadata.is_file() and b"rosbag2_bagfile_information" in metadata.read_bytes()[:4096]
    return path.suffix in _MAGIC and path.is_file()


def open_bags(path: Path) -> list[Recording]:
    """The recording in a bag; the files of a folder of ROS 2 are one recording.

    Raises:
        SourceError: the bag is empty, cut short, not closed, not indexed or no bag, or a package is missing.
    """
    return [MessageRecording(_open(path), safe_name(path.name if path.is_dir() else path.stem))]


def _open(path: Path) -> Container:
    if path.is_file():
        _check_start(path)
    return _McapFile(path) if path.suffix == ".mcap" else _RosBag(path)


def _check_start(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise SourceError(f"{path} is empty (0 bytes); copy or record it again")
    if not start.startswith(_MAGIC[path.suffix]):
        raise SourceError(f"{path} is no {path.suffix} file: it begins with {start!r}; rename it or copy it again")


def _check_closed(path: Path) -> None:
    """SQLite keeps what was written last in a second file until the database is closed; rosbags does not read it."""
    rest = path.with_name(path.name + "-wal")
    if rest.is_file() and rest.stat().st_size:
        raise SourceError(
            f"{path} was not closed: {rest.name} holds its last messages; join them with "
            f"`sqlite3 {path} 'PRAGMA wal_checkpoint(TRUNCATE)'`"
        )


def _add_topic(topics: dict[str, Topic], name: str, topic: Topic) -> None:
    """Adds messages to a topic, of which nothing is read where its publishers do not agree on the type."""
    before = topics.get(name, replace(topic, messages=0))
    messages = before.messages + topic.messages
    if topic.type in before.type.split(" and "):
        topics[name] = replace(before, messages=messages)
    else:
        topics[name] = replace(before, type=f"{before.type} and {topic.type}", messages=messages, agreed=False)


def _missing(path: Path, package: str) -> SourceError:
    return SourceError(f"to read {path} the package {package} is needed: pip install 'crossmodal-transfer[ros]'")


_ARGUMENTS = re.compile(r"""\(['"](.*?)\.?['"],\)""")  # rosbags puts the arguments of inner errors into messages


def _damaged(path: Path, reason: object) -> SourceError:
    repair = _REPAIR["" if path.is_dir() else path.suffix].format(path)
    told = _ARGUMENTS.sub(r"\1", f"{reason}").rstrip(".") or type(reason).__name__
    return SourceError(
        f"{path} cannot be read: {told}; if it is cut short or has no index, repair it with {repair}, or copy it again"
    )


class _RosBag(Container):
    """A bag of ROS 1 or ROS 2. It is opened for each pass, so that many bags need few file handles."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = tuple(sorted(each for each in path.iterdir() if each.is_file())) if path.is_dir() else (path,)
        for file in self.files:
            _check_closed(file)
        self._ros1 = path.suffix == ".bag" and path.is_file()
        self.topics: dict[str, Topic] = {}
        with self._reader() as reader:
            for each in reader.connections:
                definition = each.msgdef.data.encode() if each.msgdef.format.name == "MSG" else b""
                encoding = "ros1" if self._ros1 else "cdr"
                _add_topic(self.topics, each.topic, Topic(each.msgtype, encoding, definition, each.msgcount))

    def read(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """Messages in the order of their receive times; of a split recording, file by file."""
        with self._reader() as reader:
            connections = [connection for connection in reader.connections if connection.topic in topics]
            for connection, received, payload in reader.messages(connections, start, stop):
                yield connection.topic, received, payload

    @contextmanager
    def _reader(self) -> Iterator[Any]:
        try:
            from rosbags.rosbag1 import Reader as Reader1
            from rosbags.rosbag2 import Reader as Reader2
        except ImportError as error:
            raise _missing(self.path, "rosbags") from error
        try:
            with (Reader1 if self._ros1 else Reader2)(self.path) as reader:
                yield reader
        except Exception as error:  # of damaged files, rosbags raises many kinds of errors
            raise _damaged(self.path, error) from error


class _McapFile(Container):
    """An MCAP file (https://mcap.dev/spec), whatever its messages are. It is opened for each pass, as a bag of ROS."""

    def __init__(self, path: Path) -> None:
        self.path, self.files = path, (path,)
        self.topics: dict[str, Topic] = {}
        self._indexed = False
        magic = _MAGIC[".mcap"]
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - len(magic)))
            if file.read() != magic:
                raise _damaged(path, "it has no end")
        with self._reader(indexed=True) as reader:
            self._indexed = self._read_tables(reader)
        if not self._indexed:
            with self._reader(indexed=False) as reader:
                for schema, channel, _ in reader.iter_messages(log_time_order=False):
                    self._add(channel, schema, 1)

    def read(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """Messages in the order of their log times; of a file without index, in that of the file."""
        with self._reader(indexed=self._indexed) as reader:
            for _, channel, message in reader.iter_messages(
                list(topics), starting_at=start, ending_before=stop, log_time_order=self._indexed
            ):
                yield channel.topic, message.log_time, message.data

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

    def _add(self, channel: Any, schema: Any, messages: int) -> None:
        encoding, kind, definition = channel.message_encoding, "", b""
        if schema is not None:
            kind = schema.name
            if encoding in ("cdr", "ros1"):
                package, _, name = kind.partition("/")
                kind = f"{package}/msg/{name.removeprefix('msg/')}"
            if schema.encoding in ("ros1msg", "ros2msg", "protobuf"):
                definition = schema.data
        _add_topic(self.topics, channel.topic, Topic(kind or encoding, encoding, definition, messages))

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
            raise _damaged(self.path, error) from error
