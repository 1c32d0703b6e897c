"""The interface of a source: where pairs come from before they are shards."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from modalities import Modality


class SourceError(ValueError):
    """A source that cannot give its pairs: missing files, unpaired views, a wrong pattern."""


@dataclass(frozen=True)
class Pair:
    """One moment as all its sensors saw it, encoded."""

    key: str  # unique in its split; letters, digits, "_" and "-" (a dot would start a member's name)
    members: dict[str, bytes]  # "rgb.jpg" -> bytes: field and extension
    label: int = -1  # class, -1 where there is none
    group: str = ""  # what must not be split: a level, a video, a room
    facts: dict[str, object] = field(default_factory=dict)  # further JSON values: a pose, a time
    paths: dict[str, str] = field(default_factory=dict, compare=False)  # member -> its file, for messages


class Source(ABC):
    """Where pairs come from. Entries are frozen dataclasses whose fields are the options a config may set."""

    @abstractmethod
    def fields(self) -> dict[str, Modality]:
        """The members every pair has, by field name; the modality's stored options describe the bytes."""

    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Class names in label order; empty where there are no labels."""

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The parts it comes in, such as "train" and "test"."""

    @abstractmethod
    def digest(self) -> str:
        """Names what it would give: another name when options or files have changed."""

    @abstractmethod
    def dropped(self) -> list[str]:
        """The pairs left out because a file is missing and the user asked for that, each with what it lacks."""

    def unmatched(self) -> dict[Path, str]:
        """The files that lie where the source looks and belong to no pair, each with why where that is known."""
        return {}

    @property
    def partial(self) -> bool:
        """Whether pairs may lack members because the user asked for that."""
        return False

    @abstractmethod
    def pairs(self, split: str) -> Iterator[Pair]:
        """The pairs of a part, always the same in the same order.

        Raises:
            SourceError: they cannot be had.
        """
