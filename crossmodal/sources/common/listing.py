"""The pairs in a folder of files, by the patterns of their paths or by the lines of a CSV file."""

import csv
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from crossmodal.sources import SourceError
from crossmodal.sources.common.patterns import PLACEHOLDERS, Pattern, composed, natural, some_files
from modalities.common.catalogue import suggest


@dataclass(frozen=True)
class Entry:
    """One pair of files on disk."""

    values: dict[str, str]  # value of each of `PLACEHOLDERS` that is known; the key always is
    files: dict[str, str]  # field or fact -> path, which may not exist; without the empty cells of a CSV
    name: str  # unique in its split
    where: str  # for messages: "line 3 of pairs.csv", or the values of the placeholders


def list_files(root: Path, patterns: Mapping[str, Pattern]) -> list[Entry]:
    """The pairs of files whose paths share their placeholders' values, in natural order of `PLACEHOLDERS`.

    Raises:
        SourceError: a pattern matches no file.
    """
    matches = {name: pattern.find(root) for name, pattern in patterns.items()}
    for name, pattern in patterns.items():
        if not matches[name]:
            raise SourceError(f"{pattern.option}: {pattern.text!r} matches no file in {root}; {some_files(root)}")
    names = next(iter(patterns.values())).names
    every = {values for paths in matches.values() for values in paths}
    return [
        Entry(
            values=dict(zip(names, values, strict=True)),
            files={
                name: paths[values] if values in paths else patterns[name].fill(dict(zip(names, values, strict=True)))
                for name, paths in matches.items()
            },
            name="_".join(values[names.index(name)] for name in ("group", "label", "key") if name in names),
            where=", ".join(f"{name} {value!r}" for name, value in zip(names, values, strict=True)),
        )
        for values in sorted(every, key=lambda values: [natural(value) for value in values])
    ]


def list_lines(root: Path, file: str, fields: Sequence[str]) -> list[Entry]:
    """The pairs in the lines of a CSV file, in its order; a field's cell is empty if the pair lacks that file.

    The key is the column "key" or, without one, the first file's path without its extension. White space around a key,
    label, split or group is removed.

    Raises:
        SourceError: the file or a column is missing, or a line does not have the header's number of cells.
    """
    path = root / file
    if not path.is_file():
        raise SourceError(f"csv: {path} is missing; {some_files(root)}")
    with path.open(encoding="utf-8-sig", newline="") as text:  # spreadsheets write a byte order mark
        try:
            entries = list(_lines(text, root, path, fields))
        except (csv.Error, UnicodeDecodeError) as error:
            raise SourceError(f"{path} is not a readable CSV file in UTF-8: {error}") from error
    if not entries:
        raise SourceError(f"{path} has no pairs; expected a line for each below the header")
    return entries


def _lines(text: TextIO, root: Path, path: Path, fields: Sequence[str]) -> Iterator[Entry]:
    reader = csv.reader(text, strict=True)
    header = next(reader, [])
    _check_header(header, path, fields)
    for cells in reader:
        where = f"line {reader.line_num} of {path.name}"
        if not cells:
            continue  # a blank line
        if len(cells) != len(header):
            raise SourceError(f"{where}: expected {len(header)} cells ({', '.join(header)}), got {len(cells)}")
        row = dict(zip(header, cells, strict=True))
        files = {name: _on_disk(root, row[name]) for name in fields if row[name]}
        if not files:
            raise SourceError(f"{where}: expected a file under {', '.join(fields)}, got none")
        stem = str(Path(next(iter(files.values()))).with_suffix(""))
        values = {"key": composed(stem)} | {name: composed(row[name].strip()) for name in PLACEHOLDERS if name in row}
        empty = [name for name in ("key", "split", "group") if values.get(name) == ""]
        if empty:
            raise SourceError(f"{where}: {empty[0]} is empty; fill it in, or remove the column")
        yield Entry(values, files, values["key"], where)


def _check_header(header: list[str], path: Path, fields: Sequence[str]) -> None:
    for name in fields:
        if name not in header:
            raise SourceError(f"line 1 of {path.name}: there is no column {name!r}{suggest(name, header)}")
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise SourceError(f"line 1 of {path.name}: column {doubled[0]!r} appears twice")
    unknown = [name for name in header if name not in (*fields, *PLACEHOLDERS)]
    if unknown:
        raise SourceError(
            f"line 1 of {path.name}: column {unknown[0]!r} is not known"
            f"{suggest(unknown[0], [*fields, *PLACEHOLDERS])}; add it to members, or remove it"
        )


LITTER = ("Thumbs.db", "desktop.ini")  # files of operating systems, besides those that begin with a dot


def all_files(root: Path) -> Iterator[str]:
    """The paths of files below a folder, relative to it, without hidden files and `LITTER`."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name not in LITTER:
                yield (Path(folder) / name).relative_to(root).as_posix()


def with_any(root: Path, entries: list[Entry], names: list[str]) -> tuple[list[Entry], list[str]]:
    """The pairs with a file for at least one name, without their missing files, and a message for each other pair.

    Raises:
        SourceError: a file is empty.
    """
    some, without = [], []
    for entry in entries:
        absent = {name for name in names if not _is_there(root, entry, name)}
        if len(absent) < len(names):
            files = {name: path for name, path in entry.files.items() if name not in absent}
            some.append(replace(entry, files=files))
        else:
            without.append(f"{entry.where} has none of {', '.join(names)}")
    return some, without


def complete(root: Path, entries: list[Entry], names: list[str], *, drop: bool) -> tuple[list[Entry], list[str]]:
    """The pairs with a file for every name, and a message for each other pair.

    Raises:
        SourceError: a file is empty, files are missing and `drop` is not set, or no pair has all its files.
    """
    whole, lacking = [], []
    listings: dict[Path, dict[str, str]] = {}
    for entry in entries:
        absent = [name for name in names if not _is_there(root, entry, name)]
        if absent:
            files = " and ".join(name + _sought(root, entry.files.get(name), listings) for name in absent)
            lacking.append(f"{entry.where} has no {files}")
        else:
            whole.append(entry)
    if lacking and not (drop and whole):
        advice = (
            "Add the files, or set missing: drop to leave such pairs out"
            if whole
            else "No pair is complete: its files must be below the root, and {placeholders} match equal text in all"
        )
        more = f"; and {len(lacking) - 3} more" if lacking[3:] else ""
        raise SourceError(
            f"{len(lacking)} of {len(entries)} pairs in {root} lack a file: {'; '.join(lacking[:3])}{more}. {advice}"
        )
    return whole, lacking


def by_key(entries: list[Entry]) -> dict[str, Entry]:
    """The pairs by their key in the shards: group, label and key joined, or the key of a CSV file.

    A non-ASCII character becomes its code point, such as u53a8; any other character not allowed in keys becomes "_".

    Raises:
        SourceError: two pairs get the same key.
    """
    pairs: dict[str, Entry] = {}
    for entry in entries:
        key = re.sub("[^\x00-\x7f]", lambda letter: f"u{ord(letter[0]):04x}", entry.name)
        key = re.sub("[^A-Za-z0-9_-]", "_", key)
        if key in pairs:
            raise SourceError(
                f"{pairs[key].where} ({pairs[key].name!r}) and {entry.where} ({entry.name!r}) both get the key {key!r} "
                "(of letters, digits, '_' and '-'); rename one, or list the pairs in a csv with a column key"
            )
        pairs[key] = entry
    return pairs


def _is_there(root: Path, entry: Entry, name: str) -> bool:
    if name not in entry.files:
        return False
    path = root / entry.files[name]
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise SourceError(f"{path} ({entry.where}) cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{path} ({entry.where}) must be a file, but it is a folder or a device")
    if status.st_size == 0:
        raise SourceError(f"{path} ({entry.where}) is empty (0 bytes); replace it, or remove it")
    return True


def _on_disk(root: Path, path: str) -> str:
    """A path of a CSV file, with "/" for backslashes if only that file exists."""
    slashed = path.replace("\\", "/")
    if "\\" in path and not os.path.lexists(root / path) and os.path.lexists(root / slashed):
        return slashed
    return path


def _sought(root: Path, path: str | None, listings: dict[Path, dict[str, str]]) -> str:
    """The path of a missing file, and a file there whose name differs only in case."""
    if path is None:
        return ""
    if (root / path).is_symlink():
        return f" ({path} is a link to {(root / path).readlink()}, which does not exist)"
    folder, name = (root / path).parent, Path(path).name
    if folder not in listings:
        listings[folder] = {path.name.lower(): path.name for path in folder.iterdir()} if folder.is_dir() else {}
    other = listings[folder].get(name.lower())
    return f" ({path}; {other} exists, which differs in case)" if other else f" ({path})"
