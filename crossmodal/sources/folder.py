"""Files on disk, paired by common parts of their paths or by the lines of a CSV file."""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from crossmodal.sources import Numbered, Pair, Source, SourceError
from crossmodal.sources.common.division import divide
from crossmodal.sources.common.listing import Entry, all_files, by_key, complete, list_files, list_lines, with_any
from crossmodal.sources.common.members import open_member, unit_of_depth
from crossmodal.sources.common.patterns import Pattern, composed, extension_of
from modalities import DecodeError, Modality
from modalities.codecs.depth import stored_readings
from modalities.common.catalogue import suggest
from modalities.depth import Depth
from modalities.thermal import Thermal


@dataclass(frozen=True)
class Folder(Numbered, Source):
    """Your own files, paired by path patterns or a CSV file and packed byte for byte.

    A pattern is a path relative to `root` with placeholders: "{split}/{label}/{key}.jpg". Each of {key}, {label},
    {split} and {group} matches a piece of the path without "/"; files with equal pieces form a pair. With a CSV file,
    every line is a pair: one column for each field holds paths relative to `root`; the columns key, label (cells may be
    empty), split and group are optional. Pairs are in natural order of group, key and label (frame2 before frame10), or
    in the order of the CSV file. Class names are sorted, as in torchvision's ImageFolder.

    Raises:
        SourceError: an option is misspelt or contradicts another.
    """

    root: str  # folder with the files
    members: dict[str, dict[str, Any]]  # field: {files: pattern, modality: name, options of the stored bytes}
    csv: str | None = None  # CSV file, relative to root, that lists the pairs; members then omit files
    facts: dict[str, str] = field(default_factory=dict)  # name: pattern of files of numbers, pose: "{key}.pose.txt"
    test_share: float = 0.0  # share to hold out as "test": whole groups, or consecutive pairs of each class
    # seed of test_share alone: it draws the groups; without groups, 0 takes the last pairs of each class, and any other
    # number consecutive pairs at a random place
    test_seed: int = 0
    test_groups: tuple[str, ...] = ()  # groups to hold out as "test", instead of a share
    missing: Literal["error", "drop", "keep"] = "error"  # pairs that lack a file; drop: omit; keep: pack without it

    def __post_init__(self) -> None:
        if not self.members:
            raise SourceError("members must name at least one field, such as rgb: {modality: rgb, files: '{key}.jpg'}")
        if not 0 <= self.test_share < 1:
            raise SourceError(f"test_share must be at least 0 and below 1, got {self.test_share}")
        if self.test_share and self.test_groups:
            raise SourceError("test_share and test_groups exclude each other; take one of them out")
        for name, modality in self._modalities.items():
            if name in self._patterns:
                _check_extension(self._patterns[name].text, name, modality, f"members.{name}.files")
        self._check_placeholders()

    def fields(self) -> dict[str, Modality]:
        """The members, with the options of their stored bytes."""
        return dict(self._modalities)

    @property
    def partial(self) -> bool:
        """True if a pair may lack some of its files."""
        return self.missing == "keep"

    def classes(self) -> tuple[str, ...]:
        """The values of {label}, sorted."""
        return tuple(sorted({entry.values.get("label", "") for entry in self._complete} - {""}))

    def splits(self) -> tuple[str, ...]:
        """The values of {split}, "train" first; without {split}, "train" and, if pairs are held out, "test"."""
        return tuple(self._parts)

    def digest(self) -> str:
        """A hash of the options except `root` and of each file's path, size and time; no signal is read."""
        options = {name: value for name, value in asdict(self).items() if name != "root"} | {"members": self._members}
        files = {
            split: [
                (key, entry.values, [self._stamp(path) for path in entry.files.values()]) for key, entry in part.items()
            ]
            for split, part in self._parts.items()
        }
        return hashlib.sha256(json.dumps([options, files], sort_keys=True).encode()).hexdigest()

    def dropped(self) -> list[str]:
        """The pairs of all splits that were left out because a file is missing, each with the missing files."""
        return self._divided[1]

    def unmatched(self) -> dict[Path, str]:
        """The files below `root` that no pattern matches and no line of the CSV file lists."""
        root = Path(self.root)
        matched = {os.path.normpath(path) for entry in self._entries for path in entry.files.values()}
        matched |= {
            os.path.normpath(path) for fact in self._fact_patterns.values() for path in fact.find(root).values()
        }
        lists = [self.csv, *(options.get("classes") for options in self.members.values())]
        matched |= {os.path.normpath(path) for path in lists if isinstance(path, str)}
        others = [path for path in all_files(root) if path not in matched]
        return {root / path: self._near(path) for path in others}

    def _near(self, path: str) -> str:
        patterns = [*self._patterns.values(), *self._fact_patterns.values()]
        near = next((pattern for pattern in patterns if pattern.differs_in_case(path)), None)
        return f"its extension differs from {near.option} only in case" if near else ""

    def numbered(self, split: str, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Pair]]:
        """The wanted pairs of a split with their numbers.

        Raises:
            SourceError: the split is unknown, a folder, file or column is missing, a file is empty or not of its
                modality, the unit of depth is not given, keys collide, or a fact has numbers that are not finite.
        """
        if split not in self._parts:
            raise SourceError(f"split {split!r} is not known{suggest(split, list(self._parts))}")
        labels = {name: label for label, name in enumerate(self.classes())} | {"": -1}
        for number, (key, entry) in enumerate(self._parts[split].items()):
            if not wanted(number):
                continue
            names = {f"{name}.{extension_of(entry.files[name])}": name for name in self.members if name in entry.files}
            pair = Pair(
                key=key,
                members={member: self._read(entry, name) for member, name in names.items()},
                label=labels[entry.values.get("label", "")],
                group=entry.values.get("group", ""),
                facts={name: self._numbers(entry, name) for name in self.facts},
                paths={member: str(Path(self.root) / entry.files[name]) for member, name in names.items()},
            )
            yield number, pair

    @cached_property
    def _modalities(self) -> dict[str, Modality]:
        return {name: open_member(name, options, "files") for name, options in self._members.items()}

    @cached_property
    def _members(self) -> dict[str, dict[str, Any]]:
        """The members, with the lines of a file of class names in place of its path."""
        return {
            name: options | {"classes": self._lines(text, f"members.{name}.classes")}
            if isinstance(text := options.get("classes"), str)
            else options
            for name, options in self.members.items()
        }

    def _lines(self, file: str, place: str) -> list[str]:
        path = Path(self.root) / file
        try:
            return [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            raise SourceError(f"{place}: {path} cannot be read: {reason}") from error

    @cached_property
    def _patterns(self) -> dict[str, Pattern]:
        """The patterns of the members; empty if a CSV file lists the files."""
        for name, options in self.members.items():
            if self.csv is not None and "files" in options:
                raise SourceError(
                    f"members.{name}.files: {self.csv} lists the files already; remove either files or csv"
                )
            if self.csv is None and not isinstance(options.get("files"), str):
                raise SourceError(f"members.{name}.files must be a pattern like '{{key}}.{name}.png'; or set csv")
        return {
            name: Pattern(options["files"], f"members.{name}.files")
            for name, options in self.members.items()
            if self.csv is None
        }

    @cached_property
    def _fact_patterns(self) -> dict[str, Pattern]:
        return {name: Pattern(text, f"facts.{name}") for name, text in self.facts.items()}

    def _check_placeholders(self) -> None:
        for name in self.facts:
            if name in ("label", "group", *self.members):
                raise SourceError(f"facts.{name}: {name!r} is already in use; choose another name")
        if self.csv is not None:
            return
        first, *others = self._patterns.values()
        if "key" not in first.names:
            raise SourceError(f"{first.option}: {first.text!r} must contain {{key}}, which identifies the pair")
        for other in others:
            if other.names != first.names:
                raise SourceError(
                    f"{other.option}: {other.text!r} must have the same placeholders as {first.option} "
                    f"({', '.join(first.names)}), got {', '.join(other.names) or 'none'}"
                )
        for fact in self._fact_patterns.values():
            _check_known(fact, first.names, first.option)

    @cached_property
    def _entries(self) -> list[Entry]:
        """All pairs, complete or not, with the paths of their facts."""
        root = Path(self.root)
        if not root.is_dir():
            raise SourceError(f"root: there is no folder {root.absolute()}")
        if self.csv is None:
            entries = list_files(root, self._patterns)
        else:
            entries = list_lines(root, self.csv, list(self.members))
            for entry in entries:
                for name, path in entry.files.items():
                    _check_extension(path, name, self._modalities[name], entry.where)
            for fact in self._fact_patterns.values():
                _check_known(fact, tuple(entries[0].values), self.csv)
        facts = {name: (fact, fact.find(root)) for name, fact in self._fact_patterns.items()}
        return [
            replace(
                entry,
                files=entry.files
                | {
                    name: paths.get(tuple(entry.values[piece] for piece in fact.names), fact.fill(entry.values))
                    for name, (fact, paths) in facts.items()
                },
            )
            for entry in entries
        ]

    @cached_property
    def _complete(self) -> list[Entry]:
        entries = self._divided[0]
        self._refuse_unknown_units(entries)
        return entries

    @cached_property
    def _divided(self) -> tuple[list[Entry], list[str]]:
        """The pairs to pack, and for each other pair why it is left out."""
        root, members = Path(self.root), [*self.members]
        if not self.partial:
            return complete(root, self._entries, [*members, *self.facts], drop=self.missing == "drop")
        entries, without = with_any(root, self._entries, members)
        return complete(root, entries, [*self.facts], drop=False)[0], without

    def _refuse_unknown_units(self, entries: list[Entry]) -> None:
        """Refuses depth without a `scale_m` and thermal pictures without a `scale_k`.

        The error has the median of the first file in common units.
        """
        self._refuse_unknown_kelvin(entries)
        if "scale_m" in self.members.get(Depth.field, {"scale_m": None}):
            return
        for entry in (entry for entry in entries if Depth.field in entry.files):
            try:
                readings = stored_readings(self._read(entry, Depth.field), self.members[Depth.field].get("invalid", 0))
            except DecodeError:
                continue  # packing decodes the file again and reports the error
            if not readings.size:
                continue
            where = f"{Path(self.root) / entry.files[Depth.field]} ({entry.where})"
            raise SourceError(unit_of_depth(readings, where, f"members.{Depth.field}.scale_m"))

    def _refuse_unknown_kelvin(self, entries: list[Entry]) -> None:
        options = self.members.get(Thermal.field, {"scale_k": None})
        for entry in (entry for entry in entries if Thermal.field in entry.files and "scale_k" not in options):
            try:
                counts = Thermal(scale_k=None).decode(self._read(entry, Thermal.field))
            except DecodeError:
                continue  # packing decodes the file again and reports the error
            median = counts.nanmedian().item()
            raise SourceError(
                f"members.{Thermal.field}.scale_k must be given, the kelvin of a stored 1: the median of "
                f"{Path(self.root) / entry.files[Thermal.field]} ({entry.where}) is {median:g}, which is "
                f"{median * 0.01:g} K with scale_k: 0.01 (kelvin x 100); set scale_k: null for raw counts"
            )

    @cached_property
    def _parts(self) -> dict[str, dict[str, Entry]]:
        """The pairs of each split, by key."""
        groups = tuple(composed(group) for group in self.test_groups)
        parts = divide(self._complete, test_share=self.test_share, test_groups=groups, test_seed=self.test_seed)
        for entries in parts.values():
            _check_alike(entries, [*self.members])
        return {split: by_key(entries) for split, entries in parts.items()}

    def _stamp(self, path: str) -> tuple[str, int, int]:
        status = (Path(self.root) / path).stat()
        return path, status.st_size, status.st_mtime_ns

    def _read(self, entry: Entry, name: str) -> bytes:
        path = Path(self.root) / entry.files[name]
        try:
            return path.read_bytes()
        except OSError as error:
            raise SourceError(f"{path} ({entry.where}) cannot be read: {error.strerror}") from error

    def _numbers(self, entry: Entry, name: str) -> list[float]:
        payload = self._read(entry, name)
        place = f"{Path(self.root) / entry.files[name]} ({entry.where})"
        try:
            text = payload.decode("utf-8-sig")
            if "\0" in text:
                raise ValueError("it holds zero bytes, as UTF-16 does; save it as UTF-8")
            numbers = [float(word) for word in _words(text)]
        except UnicodeDecodeError as error:
            raise SourceError(f"{place} must be a text file of numbers in UTF-8; save it in that encoding") from error
        except ValueError as error:
            raise SourceError(f"{place} must be a text file of numbers: {error}") from error
        if not numbers:
            raise SourceError(f"{place} must be a text file of numbers, but it holds none")
        for number in numbers:
            if not math.isfinite(number):
                raise SourceError(
                    f"{place} must hold finite numbers, got {number}; mend the file, or remove it and set missing: drop"
                )
        return numbers


def _words(text: str) -> list[str]:
    """The words of a text, separated by white space, semicolons or commas.

    Raises:
        ValueError: a comma may be a decimal comma.
    """
    for line in text.splitlines():
        words = re.split(r"[\s;]+", line.strip("; \t"))
        for word in words:
            separates = len(words) == 1 and ("." in word or word.count(",") > 1)
            if re.search(r"\d,\d", word) and not separates:
                raise ValueError(
                    f"the comma in {word!r} may be a decimal comma; write 1.25 instead of 1,25, or put a space after a "
                    "comma that separates numbers"
                )
    return re.split(r"[\s;,]+", text.strip("; \t\r\n,")) if text.strip("; \t\r\n,") else []


def _check_extension(path: str, name: str, modality: Modality, where: str) -> None:
    if extension_of(path) not in modality.extensions:
        raise SourceError(
            f"{where}: {name} must be one of {', '.join(modality.extensions)}, got {path!r}; "
            "files are packed unchanged, so convert them first"
        )


def _check_alike(entries: list[Entry], members: list[str]) -> None:
    """Refuses members with several extensions in one split: shards have one extension for a field."""
    for name in members:
        present = [entry for entry in entries if name in entry.files]
        for entry in present:
            if extension_of(entry.files[name]) != extension_of(present[0].files[name]):
                raise SourceError(
                    f"{entry.where}: {name} must have the extension of {present[0].files[name]!r} ({present[0].where}) "
                    f"in all pairs of a split, got {entry.files[name]!r}; rename or convert the files"
                )


def _check_known(fact: Pattern, known: tuple[str, ...], where: str) -> None:
    unknown = [name for name in fact.names if name not in known]
    if unknown:
        raise SourceError(f"{fact.option}: {fact.text!r} needs {{{unknown[0]}}}, which is not in {where}")
