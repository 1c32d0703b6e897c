"""Bags: of ROS 1 (.bag), of ROS 2 (.db3, or a folder with metadata.yaml), and MCAP files."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.foxglove import McapFile
from crossmodal.sources.recordings.messages import Container, Message, MessageRecording, Topic, add_topic
from crossmodal.sources.recordings.ros import read_message, read_stamp, role_of
from crossmodal.sources.recordings.stream import Recording, safe_name

_MAGIC = {".bag": b"#ROSBAG V", ".db3": b"SQLite format 3\0", ".mcap": b"\x89MCAP0\r\n"}
_REPAIR = {
    ".bag": "`rosbag reindex {}`",
    ".db3": "`ros2 bag reindex` on its folder",
    "": "`ros2 bag reindex {}`",
}


def is_bag(path: Path) -> bool:
    """Whether this is a bag of ROS 1, a bag of ROS 2 as file or folder, or an MCAP file, by name."""
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
    return McapFile(path) if path.suffix == ".mcap" else _RosBag(path)


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


class _RosBag(Container):
    """A bag of ROS 1 or ROS 2. It is opened for each pass, so that many bags need few file handles."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = tuple(sorted(each for each in path.iterdir() if each.is_file())) if path.is_dir() else (path,)
        for file in self.files:
            _check_closed(file)
        self._ros1 = path.suffix == ".bag" and path.is_file()
        self._definitions: dict[str, str] = {}
        self.topics: dict[str, Topic] = {}
        with self._reader() as reader:
            for connection in reader.connections:
                name, kind = connection.topic, connection.msgtype
                add_topic(self.topics, name, kind, role_of(kind), connection.msgcount)
                if connection.msgdef.format.name == "MSG":
                    self._definitions.setdefault(name, connection.msgdef.data)

    def read(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """Messages in the order of their receive times; of a split recording, file by file."""
        with self._reader() as reader:
            connections = [connection for connection in reader.connections if connection.topic in topics]
            for connection, received, payload in reader.messages(connections, start, stop):
                yield connection.topic, received, payload

    def stamp(self, topic: str, payload: bytes) -> int:
        """The stamp of the header."""
        return read_stamp(payload, ros1=self._ros1)

    def parse(self, topic: str, payload: bytes) -> Message:
        """What the message says."""
        return read_message(payload, self.topics[topic].type, self._definitions.get(topic, ""), ros1=self._ros1)

    @contextmanager
    def _reader(self) -> Iterator[Any]:
        try:
            from rosbags.rosbag1 import Reader as Reader1
            from rosbags.rosbag2 import Reader as Reader2
        except ImportError as error:
            raise SourceError(
                f"to read {self.path} the package rosbags is needed: pip install 'crossmodal-transfer[ros]'"
            ) from error
        try:
            with (Reader1 if self._ros1 else Reader2)(self.path) as reader:
                yield reader
        except Exception as error:  # of damaged files, rosbags raises many kinds of errors
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> SourceError:
        repair = _REPAIR["" if self.path.is_dir() else self.path.suffix].format(self.path)
        reason = f"{error}".rstrip(".") or type(error).__name__
        return SourceError(
            f"{self.path} cannot be read: {reason}; if it is cut short or has no index, repair it with {repair}, or "
            "copy it again"
        )
