"""File patterns: "{split}/{label}/{key}.jpg" matches files and extracts the values of its placeholders."""

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

PLACEHOLDERS = ("split", "group", "key", "label")  # pairs are sorted by these, in this order


@dataclass(frozen=True)
class Pattern:
    """A path with placeholders, each of which matches a piece of the path without "/".

    If several placeholders could share a piece, the earlier ones match as little as possible. Files and folders that
    begin with a dot match only a pattern that has the dot.

    Raises:
        SourceError: a placeholder is unknown, or a brace is unmatched.
    """

    text: str  # "{key}.color.jpg", relative to some folder
    option: str  # config key, for messages: "members.rgb.files"

    def __post_init__(self) -> None:
        for name in self._pieces[1::2]:
            if name not in PLACEHOLDERS:
                raise SourceError(
                    f"{self.option}: placeholder {{{name}}} of {self.text!r} is not known"
                    f"{suggest(name, list(PLACEHOLDERS))}"
                )
        if set("{}") & set("".join(self._pieces[::2])):
            raise SourceError(f"{self.option}: {self.text!r} has an unmatched brace")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The placeholders of this pattern, in the order of `PLACEHOLDERS`."""
        return tuple(name for name in PLACEHOLDERS if name in self._pieces[1::2])

    @property
    def extension(self) -> str:
        """The extension of the files, without the dot."""
        return extension_of(self.text)

    def find(self, root: Path) -> dict[tuple[str, ...], str]:
        """The files that match: the values of `names` -> the path relative to `root`.

        Raises:
            SourceError: the names of two files differ only in Unicode normalisation.
        """
        wildcards = "".join("*" if i % 2 else glob.escape(piece) for i, piece in enumerate(self._pieces))
        expression = self._expression()
        paths = glob.glob(wildcards, root_dir=root)  # noqa: PTH207 - Path.glob would find hidden files
        files: dict[tuple[str, ...], str] = {}
        for path in sorted(paths):
            if match := expression.fullmatch(path):
                values = tuple(composed(match[name]) for name in self.names)
                if values in files:
                    raise SourceError(
                        f"{self.option}: the names of {files[values]!a} and {path!a} in {root} differ only "
                        "in how Unicode writes a letter (NFC and NFD), so they are one pair; rename or remove one"
                    )
                files[values] = path
        return files

    def differs_in_case(self, path: str) -> bool:
        """True if only the case of its extension keeps a path from matching."""
        extension, own = Path(path).suffix, Path(self.text).suffix
        if extension == own or extension.lower() != own.lower():
            return False
        return self._expression().fullmatch(path.removesuffix(extension) + own) is not None

    def fill(self, values: dict[str, str]) -> str:
        """The path for these values of the placeholders."""
        return "".join(values[piece] if i % 2 else piece for i, piece in enumerate(self._pieces))

    @cached_property
    def _pieces(self) -> list[str]:
        """Literal text and placeholder names in turn; the first and last are literal text."""
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
    """The text in Unicode's form NFC, in which equal letters have equal codes."""
    return unicodedata.normalize("NFC", text)


def extension_of(path: str) -> str:
    """The text after the last dot of a file's name, in lower case; empty if there is no dot."""
    return Path(path).suffix.lstrip(".").lower()


def natural(text: str) -> tuple[list[str | int], str]:
    """A sorting key that places frame2 before frame10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", text))], text


def some_files(root: Path) -> str:
    """The first few files below a folder, for messages."""
    paths = (os.path.relpath(Path(folder, name), root) for folder, _, names in os.walk(root) for name in sorted(names))
    first = list(itertools.islice(paths, 6))
    return f"it holds {', '.join(first[:5])}{' ...' if first[5:] else ''}" if first else "it holds no files"
