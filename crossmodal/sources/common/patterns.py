"""File patterns: "{split}/{label}/{key}.jpg" finds files and tells what every placeholder stood for."""

import glob
import itertools
import os
import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from crossmodal.sources import SourceError
from modalities.common.catalogue import suggest

PLACEHOLDERS = ("split", "group", "key", "label")  # in the order by which pairs are sorted


@dataclass(frozen=True)
class Pattern:
    """A path with placeholders, each of which stands for a piece of the path without "/".

    Where several could share a piece, the earlier ones take as little as they can. Files and folders that begin with a
    dot are found only by a pattern that says so.

    Raises:
        SourceError: a placeholder is unknown, or a brace stands alone.
    """

    text: str  # "{key}.color.jpg", relative to some folder
    option: str  # where it was given, for messages: "members.rgb.files"

    def __post_init__(self) -> None:
        for name in self._pieces[1::2]:
            if name not in PLACEHOLDERS:
                raise SourceError(
                    f"{self.option}: placeholder {{{name}}} of {self.text!r} is not known"
                    f"{suggest(name, list(PLACEHOLDERS))}"
                )
        if set("{}") & set("".join(self._pieces[::2])):
            raise SourceError(f"{self.option}: {self.text!r} has a brace that is not closed, or not opened")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Its placeholders, in the order of `PLACEHOLDERS`."""
        return tuple(name for name in PLACEHOLDERS if name in self._pieces[1::2])

    @property
    def extension(self) -> str:
        """Of the files, without the dot."""
        return extension_of(self.text)

    def find(self, root: Path) -> dict[tuple[str, ...], str]:
        """The files that match: what `names` stood for, and the path relative to `root`.

        Raises:
            SourceError: the names of two files differ only in how Unicode writes a letter.
        """
        wildcards = "".join("*" if i % 2 else glob.escape(piece) for i, piece in enumerate(self._pieces))
        expression = self._expression()
        paths = glob.glob(wildcards, root_dir=root)  # noqa: PTH207 - Path.glob would find what begins with a dot
        found: dict[tuple[str, ...], str] = {}
        for path in sorted(paths):
            if match := expression.fullmatch(path):
                values = tuple(composed(match[name]) for name in self.names)
                if values in found:
                    raise SourceError(
                        f"{self.option}: the names of {found[values]!a} and {path!a} in {root} differ only "
                        "in how Unicode writes a letter (NFC and NFD), so they are one pair; rename or remove one"
                    )
                found[values] = path
        return found

    def differs_in_case(self, path: str) -> bool:
        """Whether a path would match if its extension were written in the case of the pattern's."""
        extension, own = Path(path).suffix, Path(self.text).suffix
        if extension == own or extension.lower() != own.lower():
            return False
        return self._expression().fullmatch(path.removesuffix(extension) + own) is not None

    def fill(self, values: dict[str, str]) -> str:
        """The path for these values of the placeholders."""
        return "".join(values[piece] if i % 2 else piece for i, piece in enumerate(self._pieces))

    @cached_property
    def _pieces(self) -> list[str]:
        """Literal text, a placeholder's name, literal text and so on; ends with literal text."""
        return re.split(r"{([^{}]*)}", self.text)

    def _expression(self) -> re.Pattern[str]:
        text, seen = "", set()
        for i, piece in enumerate(self._pieces):
            if i % 2 == 0:
                text += re.escape(piece)
            else:
                text += f"(?P={piece})" if piece in seen else f"(?P<{piece}>[^/]+?)"
                seen.add(piece)
        return re.compile(text)


def composed(text: str) -> str:
    """The text in Unicode's form NFC, so that a letter written in two ways makes no two names."""
    return unicodedata.normalize("NFC", text)


def extension_of(path: str) -> str:
    """What follows the last dot of a file's name, in lower case; nothing where there is no dot."""
    return Path(path).suffix.lstrip(".").lower()


def natural(text: str) -> tuple[list[str | int], str]:
    """A sorting key by which frame2 comes before frame10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", text))], text


def some_files(root: Path) -> str:
    """The first few files below a folder, for messages."""
    paths = (os.path.relpath(Path(folder, name), root) for folder, _, names in os.walk(root) for name in sorted(names))
    first = list(itertools.islice(paths, 5))
    return f"it holds {', '.join(first)} ..." if first else "it holds no files"
