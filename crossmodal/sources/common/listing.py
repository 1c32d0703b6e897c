"""What pairs there are in a folder of files: by the patterns of their paths, or by the lines of a CSV file."""

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
    """One pair as it lies on disk."""

    values: dict[str, str]  # what is known of it, of `PLACEHOLDERS`; always a key
    files: dict[str, str]  # field or fact -> path, be there a file or not; without what a line of a CSV leaves empty
    name: str  # what tells it from the other pairs of its part
    where: str  # for messages: "line 3 of pairs.csv", or what its files share


def list_files(root: Path, patterns: Mapping[str, Pattern]) -> list[Entry]:
    """The pairs by what their paths share, in natural order of split, group, key and label.

    Raises:
        SourceError: a pattern matches nothing.
    """
    found = {name: pattern.find(root) for name, pattern in patterns.items()}
    for name, pattern in patterns.items():
        if not found[name]:
            raise SourceError(f"{pattern.option}: {pattern.text!r} matches no file in {root}; {some_files(root)}")
    names = next(iter(patterns.values())).names
    every = {values for paths in found.values() for values in paths}
    return [
        Entry(
            values=dict(zip(names, values, strict=True)),
            files={
                name: paths[values] if values in paths else patterns[name].fill(dict(zip(names, values, strict=True)))
                for name, paths in found.items()
            },
            name="_".join(values[names.index(name)] for name in ("group", "label", "key") if name in names),
            where=", ".join(f"{name} {value!r}" for name, value in zip(names, values, strict=True)),
        )
        for values in sorted(every, key=lambda values: [natural(value) for value in values])
    ]


def list_lines(root: Path, file: str, fields: Sequence[str]) -> list[Entry]:
    """The pairs by the lines of a CSV file, in its order; a cell of a field may be empty where there is no file.

    The key is the column "key" or, without one, the first file's path less its extension. Spaces around a key, label,
    split or group are no part of it.

    Raises:
        SourceError: the file or a column is missing, or a line has other cells than the header.
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
        raise SourceError(f"{path} lists no pairs; expected a line for each below the header")
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
            raise SourceError(f"{where}: names no file; expected one under {', '.join(fields)}")
        stem = str(Path(next(iter(files.values()))).with_suffix(""))
        values = {"key": composed(stem)} | {name: composed(row[name].strip()) for name in PLACEHOLDERS if name in row}
        empty = [name for name in ("key", "split", "group") if values.get(name) == ""]
        if empty:
            raise SourceError(f"{where}: {empty[0]} is empty; fill it in, or leave the column out")
        yield Entry(values, files, values["key"], where)


def _check_header(header: list[str], path: Path, fields: Sequence[str]) -> None:
    for name in fields:
        if name not in header:
            raise SourceError(f"line 1 of {path.name}: there is no column {name!r}{suggest(name, header)}")
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise SourceError(f"line 1 of {path.name}: column {doubled[0]!r} comes twice")
    unknown = [name for name in header if name not in (*fields, *PLACEHOLDERS)]
    if unknown:
        raise SourceError(
            f"line 1 of {path.name}: column {unknown[0]!r} is not known"
            f"{suggest(unknown[0], [*fields, *PLACEHOLDERS])}; give it a field, or take it out"
        )


LITTER = ("Thumbs.db", "desktop.ini")  # of operating systems; what begins with a dot is hidden


def all_files(root: Path) -> Iterator[str]:
    """The paths below a folder, relative to it, without hidden files and what operating systems leave behind."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name not in LITTER:
                yield (Path(folder) / name).relative_to(root).as_posix()


def with_any(root: Path, entries: list[Entry], names: list[str]) -> tuple[list[Entry], list[str]]:
    """The pairs that have a file for at least one name, without those that are missing; and what the others lack.

    Raises:
        SourceError: a file is empty.
    """
    found, without = [], []
    for entry in entries:
        absent = {name for name in names if not _is_there(root, entry, name)}
        if len(absent) < len(names):
            files = {name: path for name, path in entry.files.items() if name not in absent}
            found.append(replace(entry, files=files))
        else:
            without.append(f"{entry.where} has none of {', '.join(names)}")
    return found, without


def complete(root: Path, entries: list[Entry], names: list[str], *, drop: bool) -> tuple[list[Entry], list[str]]:
    """The pairs that have a file for every name, and what the others lack.

    Raises:
        SourceError: a file is empty; files are missing and `drop` is not set, or no pair has all.
    """
    whole, lacking = [], []
    listings: dict[Path, dict[str, str]] = {}
    for entry in entries:
        absent = [name for name in names if not _is_there(root, entry, name)]
        if absent:
            said = " and ".join(name + _sought(root, entry.files.get(name), listings) for name in absent)
            lacking.append(f"{entry.where} has no {said}")
        else:
            whole.append(entry)
    if lacking and not (drop and whole):
        advice = (
            "Add the files, or set missing: drop to leave such pairs out"
            if whole
            else "No pair is whole: its paths must be below the root, and {placeholders} the same text in all of them"
        )
        more = f"; and {len(lacking) - 3} more" if lacking[3:] else ""
        raise SourceError(
            f"{len(lacking)} of {len(entries)} pairs in {root} lack a file: {'; '.join(lacking[:3])}{more}. {advice}"
        )
    return whole, lacking


def by_key(entries: list[Entry]) -> dict[str, Entry]:
    """The pairs by a key for the shards, made of group, label and key, or of a CSV file's key alone.

    A character beyond ASCII becomes its code point, such as u53a8; any other that a key cannot hold becomes "_".

    Raises:
        SourceError: two have the same.
    """
    found: dict[str, Entry] = {}
    for entry in entries:
        key = re.sub("[^\x00-\x7f]", lambda letter: f"u{ord(letter[0]):04x}", entry.name)
        key = re.sub("[^A-Za-z0-9_-]", "_", key)
        if key in found:
            raise SourceError(
                f"{found[key].where} ({found[key].name!r}) and {entry.where} ({entry.name!r}) both get the key {key!r} "
                "(of letters, digits, '_' and '-'); rename one, or list the pairs in a csv with a column key"
            )
        found[key] = entry
    return found


def _is_there(root: Path, entry: Entry, name: str) -> bool:
    if name not in entry.files:
        return False
    path = root / entry.files[name]
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise SourceError(f"{path} ({entry.where}) cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise SourceError(f"{path} ({entry.where}) must be a file, but it is a folder or a device")
    if found.st_size == 0:
        raise SourceError(f"{path} ({entry.where}) is empty (0 bytes); replace it, or remove it")
    return True


def _on_disk(root: Path, path: str) -> str:
    """A path of a CSV file with "/" for backslashes where only that exists."""
    slashed = path.replace("\\", "/")
    if "\\" in path and not os.path.lexists(root / path) and os.path.lexists(root / slashed):
        return slashed
    return path


def _sought(root: Path, path: str | None, listings: dict[Path, dict[str, str]]) -> str:
    """Where a missing file was looked for, and one that lies there under the same name in other letters' case."""
    if path is None:
        return ""
    if (root / path).is_symlink():
        return f" ({path} is a link to {(root / path).readlink()}, which does not exist)"
    folder, name = (root / path).parent, Path(path).name
    if folder not in listings:
        listings[folder] = {found.name.lower(): found.name for found in folder.iterdir()} if folder.is_dir() else {}
    other = listings[folder].get(name.lower())
    return f" ({path}; there is {other}, which differs in case)" if other else f" ({path})"
