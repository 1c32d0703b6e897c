"""The interface of a source, which reads paired data to be packed into shards."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from modalities import Modality


class SourceError(ValueError):
    """A source cannot read its pairs: files are missing, views are unpaired, or an option is wrong."""


@dataclass(frozen=True)
class Pair:
    """One moment, recorded by several sensors, as encoded files."""

    key: str  # unique in its split; letters, digits, "_" and "-" (a dot would start the field name)
    members: dict[str, bytes]  # "rgb.jpg" (field and extension) -> bytes
    label: int = -1  # class; -1: unlabelled
    group: str = ""  # pairs of one group (a level, a video, a room) stay in one split
    facts: dict[str, object] = field(default_factory=dict)  # further JSON values, such as a pose or a time
    paths: dict[str, str] = field(default_factory=dict, compare=False)  # member -> path of its file, for messages


class Source(ABC):
    """A reader of paired data. Entries are frozen dataclasses; their fields are the options of a config."""

    @abstractmethod
    def fields(self) -> dict[str, Modality]:
        """The fields of every pair by name; each modality's stored options describe the bytes."""

    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Class names in label order; empty if the data is unlabelled."""

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, such as "train" and "test"."""

    @abstractmethod
    def digest(self) -> str:
        """An identifier of the data; it changes when the options or the files change."""

    @abstractmethod
    def dropped(self) -> list[str]:
        """Pairs left out at the user's request because a file is missing, each with the missing files."""

    def unmatched(self) -> dict[Path, str]:
        """Files in the source's folder that belong to no pair, each with the reason if it is known."""
        return {}

    def left_out(self) -> dict[str, int]:
        """Counts of what is left out, by its description: {"frames that have no depth within 20 ms": 3}."""
        return {}

    @property
    def partial(self) -> bool:
        """True if the user allows pairs that lack some fields."""
        return False

    @abstractmethod
    def pairs(self, split: str) -> Iterator[Pair]:
        """The pairs of a split, the same pairs in the same order at every call.

        Raises:
            SourceError: the split is unknown, or its files cannot be read.
        """

    def numbered(self, split: str, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Pair]]:
        """The pairs of a split whose number, from 0, is wanted, each with it; here every pair is read to find them.

        `wanted` is called once for each pair, in order.

        Raises:
            SourceError: see `pairs`.
        """
        return ((number, pair) for number, pair in enumerate(self.pairs(split)) if wanted(number))


class Numbered(ABC):
    """Added to a source that passes over a pair without reading it, so that many processes can share the work."""

    @abstractmethod
    def numbered(self, split: str, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Pair]]:
        """The pairs of a split whose number, from 0, is wanted, each with it; the others cost almost nothing.

        Raises:
            SourceError: see `pairs`.
        """

    def pairs(self, split: str) -> Iterator[Pair]:
        """The pairs of a split, the same pairs in the same order at every call.

        Raises:
            SourceError: the split is unknown, or its files cannot be read.
        """
        return (pair for _, pair in self.numbered(split, lambda number: True))
