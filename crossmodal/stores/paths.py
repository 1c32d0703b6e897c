"""Paths of files and folders, local or in a store."""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

from crossmodal.stores import client
from crossmodal.stores.cache import Cache, current
from crossmodal.stores.errors import MissingError, clean

URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
PLACE = re.compile(r"(\[[^\]/@]*\]|[^:/]*)(:\d*)?(/.*)?", re.DOTALL)  # host, port and path
BLOCK = 8 << 20  # bytes that one request of a file that is read from its begin to its end asks for


class Stat(NamedTuple):
    """The part of `os.stat_result` that a store has."""

    st_size: int  # bytes


def is_url(text: str | Path) -> bool:
    """True if the text names a store, such as s3://bucket/folder."""
    return isinstance(text, str) and URL.match(text) is not None


def why_not_url(text: str) -> str:
    """Why a URL cannot be the place of shards, without its secrets; empty if it can, or if the text is no URL."""
    if not is_url(text):
        return ""
    example = clean(text)
    if example != text or _has_colon(text):
        if _has_colon(example):
            example = f"{text.partition('://')[0]}://bucket/folder"
        return (f"must be a URL without user, password, query or fragment, such as {example}: credentials come "
                "from the environment, as the store's own tools take them")  # fmt: skip
    if text.lower().startswith("file:"):
        return f"must be a path for local files, got {text}"
    if not URL.sub("", text).strip("/"):
        return f"must name a bucket or host after {text}"
    return ""


def _has_colon(url: str) -> bool:
    """True if a colon may begin a secret: one that is not that of a port, or that comes before an "@"."""
    rest = url.partition("://")[2]
    return PLACE.fullmatch(rest) is None or ":" in rest.rpartition("@")[0]


@dataclass(frozen=True, order=True)
class RemotePath:
    """An object in a store, or a folder of objects, with the methods of `pathlib.Path` that shards need.

    Raises:
        ValueError: the URL has credentials, or no bucket; see `why_not_url`.
        StoreError: by its methods, the store does not answer or refuses access.
    """

    url: str
    cache: Cache | None = field(default=None, compare=False, repr=False)  # of whole shards on the local disk

    def __post_init__(self) -> None:
        if problem := why_not_url(self.url):
            raise ValueError(problem)
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{name}", self.cache)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        """The folder."""
        return RemotePath(self.url.rpartition("/")[0], self.cache)

    def with_suffix(self, suffix: str) -> "RemotePath":
        """The path with another suffix."""
        return self.parent / PurePosixPath(self.name).with_suffix(suffix).name

    def resolve(self) -> "RemotePath":
        """The path itself."""
        return self

    def stat(self) -> Stat:
        """Size and version of an object.

        Raises:
            MissingError: there is none.
        """
        return Stat(client.ask("size", self.url))

    def is_file(self) -> bool:
        """True if there is such an object."""
        try:
            return self.stat() is not None
        except MissingError:
            return False

    def is_dir(self) -> bool:
        """True if there are objects below this path."""
        return bool(client.ask("names", self.url))

    def read_bytes(self) -> bytes:
        """The whole object."""
        return client.ask("get", self.url)

    def read_spans(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes at each (offset, size)."""
        return client.ask("ranges", [(self.url, list(spans))])[0]

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Paths that match a pattern of one or more levels, as `*/manifest.json`, in order."""
        first, _, rest = pattern.partition("/")
        for name in client.ask("names", self.url):
            if fnmatchcase(name, first):
                found = self / name
                if not rest:
                    yield found
                elif any(sign in rest for sign in "*?["):
                    yield from found.glob(rest)
                elif (found / rest).is_file():
                    yield found / rest

    def open(self, mode: str = "rb") -> BinaryIO:
        """A file to read; large pieces are read ahead."""
        assert mode == "rb", "objects are opened for reading"
        return cast(BinaryIO, io.BufferedReader(_Object(self), BLOCK))


AnyPath = Path | RemotePath
SomePath = TypeVar("SomePath", Path, RemotePath, Path | RemotePath)


def to_path(text: str | AnyPath) -> AnyPath:
    """The path that a text names: a URL with a scheme is in a store, anything else is local.

    Raises:
        ValueError: the URL has credentials, or no bucket.
    """
    if isinstance(text, RemotePath):
        return text
    return RemotePath(text, current()) if isinstance(text, str) and is_url(text) else Path(text)


class _Object(io.RawIOBase):
    """An object as a seekable file."""

    def __init__(self, path: RemotePath) -> None:
        self.path, self.size, self.place = path, path.stat().st_size, 0

    mode = "rb"

    @property
    def name(self) -> str:
        return str(self.path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        return self.place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        count = max(0, min(len(view), self.size - self.place))
        if count:
            view[:count] = self.path.read_spans([(self.place, count)])[0]
            self.place += count
        return count
