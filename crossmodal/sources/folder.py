"""Files on disk, paired by what their paths share or by the lines of a CSV file."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from crossmodal.sources import Pair, Source, SourceError
from crossmodal.sources.common.division import divide
from crossmodal.sources.common.listing import Entry, all_files, by_key, complete, list_files, list_lines, with_any
from crossmodal.sources.common.patterns import Pattern, composed, extension_of
from modalities import MODALITIES, DecodeError, Modality
from modalities.codecs.depth import stored_readings
from modalities.common.catalogue import suggest
from modalities.depth import Depth


@dataclass(frozen=True)
class Folder(Source):
    """Your own files, passed on byte for byte.

    A pattern is a path relative to `root` with placeholders: "{split}/{label}/{key}.jpg". Each of {key}, {label},
    {split} and {group} stands for a piece of the path without "/"; files with equal pieces make a pair. Or every line
    of a CSV file is a pair: a column for each field, with paths relative to `root`, and where wanted the columns key,
    label (may be empty), split and group. Pairs come in natural order of group, key and label (frame2 before frame10),
    or in the CSV file's. Class names are sorted, as torchvision's ImageFolder does.

    Raises:
        SourceError: an option is misspelt or contradicts another.
    """

    root: str  # folder that holds the files
    members: dict[str, dict[str, Any]]  # by field: {files: pattern, modality: name, and how its bytes are stored}
    csv: str | None = None  # file relative to root that lists the pairs; members then have no patterns
    facts: dict[str, str] = field(default_factory=dict)  # patterns of text files of numbers: {pose: "{key}.pose.txt"}
    test_share: float = (
        0.0  # share of every class for testing: whole groups, else each class's last pairs; needs no split
    )
    test_seed: int = 0  # draws the groups of test_share
    test_groups: tuple[str, ...] = ()  # groups for testing, in place of a share
    missing: Literal["error", "drop", "keep"] = "error"  # a pair that lacks a file; drop: left out; keep: without it

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
        """The members, with the options that describe their bytes."""
        return dict(self._modalities)

    @property
    def partial(self) -> bool:
        """Whether a pair may lack some of its files."""
        return self.missing == "keep"

    def classes(self) -> tuple[str, ...]:
        """What stood for {label}, sorted."""
        return tuple(sorted({entry.values.get("label", "") for entry in self._complete} - {""}))

    def splits(self) -> tuple[str, ...]:
        """What stood for {split}, "train" first; else "train", and "test" where a share or groups were asked for."""
        return tuple(self._parts)

    def digest(self) -> str:
        """Names the options except `root`, and every file by path, size and time; reads no signal."""
        options = {name: value for name, value in asdict(self).items() if name != "root"}
        files = {
            split: [
                (key, entry.values, [self._stamp(path) for path in entry.files.values()]) for key, entry in part.items()
            ]
            for split, part in self._parts.items()
        }
        return hashlib.sha256(json.dumps([options, files], sort_keys=True).encode()).hexdigest()

    def dropped(self) -> list[str]:
        """The pairs, of all parts together, that were left out because they lack a file, each with which."""
        return self._divided[1]

    def unmatched(self) -> dict[Path, str]:
        """The files below `root` that no pattern matches, or no line of the CSV file lists."""
        root = Path(self.root)
        matched = {os.path.normpath(path) for entry in self._entries for path in entry.files.values()}
        matched |= {
            os.path.normpath(path) for fact in self._fact_patterns.values() for path in fact.find(root).values()
        }
        matched |= {os.path.normpath(self.csv)} if self.csv is not None else set()
        others = [path for path in all_files(root) if path not in matched]
        return {root / path: self._near(path) for path in others}

    def _near(self, path: str) -> str:
        patterns = [*self._patterns.values(), *self._fact_patterns.values()]
        near = next((pattern for pattern in patterns if pattern.differs_in_case(path)), None)
        return f"its extension differs from {near.option} only in case" if near else ""

    def pairs(self, split: str) -> Iterator[Pair]:
        """The pairs of a part.

        Raises:
            SourceError: the part is unknown; the root, a column or files are missing, files are empty or not of their
                modality, distances are of an unknown unit, keys collide, or a fact is not of finite
                numbers.
        """
        if split not in self._parts:
            raise SourceError(f"split {split!r} is not known{suggest(split, list(self._parts))}")
        labels = {name: label for label, name in enumerate(self.classes())} | {"": -1}
        for key, entry in self._parts[split].items():
            names = {f"{name}.{extension_of(entry.files[name])}": name for name in self.members if name in entry.files}
            yield Pair(
                key=key,
                members={member: self._read(entry, name) for member, name in names.items()},
                label=labels[entry.values.get("label", "")],
                group=entry.values.get("group", ""),
                facts={name: self._numbers(entry, name) for name in self.facts},
                paths={member: str(Path(self.root) / entry.files[name]) for member, name in names.items()},
            )

    @cached_property
    def _modalities(self) -> dict[str, Modality]:
        return {name: _open_modality(name, options) for name, options in self.members.items()}

    @cached_property
    def _patterns(self) -> dict[str, Pattern]:
        """Of the members; none where a CSV file lists them."""
        for name, options in self.members.items():
            if self.csv is not None and "files" in options:
                raise SourceError(f"members.{name}.files: {self.csv} lists the files; take files out, or csv")
            if self.csv is None and not isinstance(options.get("files"), str):
                raise SourceError(f"members.{name}.files must be a pattern such as '{{key}}.{name}.png', or give a csv")
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
                raise SourceError(f"facts.{name}: {name!r} is taken; call it something else")
        if self.csv is not None:
            return
        first, *others = self._patterns.values()
        if "key" not in first.names:
            raise SourceError(f"{first.option}: {first.text!r} must hold {{key}}, which tells the pairs apart")
        for other in others:
            if other.names != first.names:
                raise SourceError(
                    f"{other.option}: {other.text!r} must have the placeholders of {first.option} "
                    f"({', '.join(first.names)}), got {', '.join(other.names) or 'none'}"
                )
        for fact in self._fact_patterns.values():
            _check_known(fact, first.names, first.option)

    @cached_property
    def _entries(self) -> list[Entry]:
        """All pairs, complete or not, with the paths of facts filled in."""
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
                    name: found.get(tuple(entry.values[piece] for piece in fact.names), fact.fill(entry.values))
                    for name, (fact, found) in facts.items()
                },
            )
            for entry in entries
        ]

    @cached_property
    def _complete(self) -> list[Entry]:
        found = self._divided[0]
        self._refuse_unknown_units(found)
        return found

    @cached_property
    def _divided(self) -> tuple[list[Entry], list[str]]:
        """The pairs that are taken, and why the others are not."""
        root, members = Path(self.root), [*self.members]
        if not self.partial:
            return complete(root, self._entries, [*members, *self.facts], drop=self.missing == "drop")
        found, without = with_any(root, self._entries, members)
        return complete(root, found, [*self.facts], drop=False)[0], without

    def _refuse_unknown_units(self, entries: list[Entry]) -> None:
        """Refuses distances without a `scale_m`; says what the first file with readings would hold in common units."""
        if "scale_m" in self.members.get(Depth.field, {"scale_m": None}):
            return
        for entry in (entry for entry in entries if Depth.field in entry.files):
            try:
                readings = stored_readings(self._read(entry, Depth.field), self.members[Depth.field].get("invalid", 0))
            except DecodeError:
                continue  # packing decodes it again and says what is wrong
            if not readings.size:
                continue
            path, option = Path(self.root) / entry.files[Depth.field], f"members.{Depth.field}.scale_m"
            if readings.dtype.kind == "f":
                raise SourceError(
                    f"{path} ({entry.where}) holds floating numbers of a unit that it does not tell; set "
                    f"{option}: 1 for metres, 0.001 for millimetres"
                )
            median = float(np.median(readings))
            raise SourceError(
                f"{option} must be given, the metres that a stored 1 means: the median reading of {path} "
                f"({entry.where}) is {median:g}, which is {median * 0.001:g} m with scale_m: 0.001 (millimetres) and "
                f"{median * 0.0002:g} m with scale_m: 0.0002 (1/5000 m, as in the TUM data)"
            )

    @cached_property
    def _parts(self) -> dict[str, dict[str, Entry]]:
        """The pairs of every part, by key."""
        groups = tuple(composed(group) for group in self.test_groups)
        parts = divide(self._complete, test_share=self.test_share, test_groups=groups, test_seed=self.test_seed)
        for entries in parts.values():
            _check_alike(entries, [*self.members])
        return {split: by_key(entries) for split, entries in parts.items()}

    def _stamp(self, path: str) -> tuple[str, int, int]:
        found = (Path(self.root) / path).stat()
        return path, found.st_size, found.st_mtime_ns

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
            raise SourceError(f"{place} must be a text file of numbers in UTF-8; save it as that") from error
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
    """The numbers of a text, which spaces, line ends, semicolons or commas separate.

    Raises:
        ValueError: a comma may be a decimal one.
    """
    for line in text.splitlines():
        words = re.split(r"[\s;]+", line.strip("; \t"))
        for word in words:
            separates = len(words) == 1 and ("." in word or word.count(",") > 1)
            if re.search(r"\d,\d", word) and not separates:
                raise ValueError(
                    f"the comma of {word!r} may be a decimal one; write 1.25 instead of 1,25, or put a space after a "
                    "comma that separates numbers"
                )
    return re.split(r"[\s;,]+", text.strip("; \t\r\n,")) if text.strip("; \t\r\n,") else []


def _open_modality(name: str, options: Mapping[str, Any]) -> Modality:
    """The modality of a field, made with its stored options."""
    chosen, place = options.get("modality"), f"members.{name}"
    if chosen not in MODALITIES.names():
        raise SourceError(f"{place}.modality: {chosen!r} is not known{suggest(str(chosen), MODALITIES.names())}")
    kind: type[Any] = MODALITIES.get(chosen)
    if kind.field != name:
        raise SourceError(f"{place}: modality {chosen} is stored as {kind.field!r}; call this member {kind.field}")
    for option in options:
        if option not in ("files", "modality", *kind.stored):
            raise SourceError(
                f"{place}.{option} is not known{suggest(option, ['files', 'modality', *kind.stored])}; "
                "what a network sees of it is set with the views of a run"
            )
    for option in kind.stored:  # a text is never equal to a stored number, so no reading would be left out
        if option in options and not _is_finite(options[option]):
            raise SourceError(f"{place}.{option} must be a finite number, got {options[option]!r}")
    try:
        return kind(**{option: options[option] for option in kind.stored if option in options})
    except (TypeError, ValueError) as error:
        raise SourceError(f"{place}: {error}") from error


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # a bool is an int to Python


def _check_extension(path: str, name: str, modality: Modality, where: str) -> None:
    if extension_of(path) not in modality.extensions:
        raise SourceError(
            f"{where}: {name} must be one of {', '.join(modality.extensions)}, got {path!r}; "
            "files are passed on as they are, so convert these first"
        )


def _check_alike(entries: list[Entry], members: list[str]) -> None:
    """Refuses members whose files have several extensions in one part: shards know one of each."""
    for name in members:
        held = [entry for entry in entries if name in entry.files]
        for entry in held:
            if extension_of(entry.files[name]) != extension_of(held[0].files[name]):
                raise SourceError(
                    f"{entry.where}: {name} must have one extension in all pairs of a part, as {held[0].files[name]!r} "
                    f"({held[0].where}), got {entry.files[name]!r}; rename or convert files"
                )


def _check_known(fact: Pattern, known: tuple[str, ...], where: str) -> None:
    unknown = [name for name in fact.names if name not in known]
    if unknown:
        raise SourceError(f"{fact.option}: {fact.text!r} needs {{{unknown[0]}}}, which {where} does not give")
