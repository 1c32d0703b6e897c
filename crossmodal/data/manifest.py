"""The manifest of a folder of shards, checked for types and ranges when it is read."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_type_hints

from crossmodal.data.plain import build, build_value, check_text, parse
from crossmodal.stores.errors import MissingError, UnlistableError
from crossmodal.stores.paths import AnyPath
from modalities import MODALITIES, Modality
from modalities.common.catalogue import UnknownNameError

MANIFEST = "manifest.json"
FORMAT = "crossmodal-shards/2"
MOMENTS = ("mean", "std", "min", "max")  # statistics of a field's signal; absent if it has no reading
MOST_GROUPS = 10_000  # groups listed in a manifest; of more, only the number is there, and the indexes have them
SMALLEST = 1024  # minimum bytes of a pair in a tar: a header and a block of content
EARLIER = "crossmodal-shards/1"  # has no indexes
Stored = float | str | tuple[str, ...] | None  # an option that describes stored bytes


class ShardError(ValueError):
    """A shard or manifest is missing or invalid; the message names the shard, key and field."""


@dataclass(frozen=True)
class Field:
    """The type of a field of the pairs."""

    modality: str  # catalogue name
    extension: str  # extension of its members, without the dot
    stored: dict[str, Stored]  # the modality's options that describe the bytes: unit scale, class names


@dataclass(frozen=True)
class Shard:
    """One tar of a folder."""

    file: str
    pairs: int
    bytes: int
    sha256: str
    index: str = ""  # sha256 of the index beside it; empty: there is no index


@dataclass(frozen=True)
class Manifest:
    """The manifest of a folder of shards."""

    pairs: int
    classes: list[str]
    fields: dict[str, Field]
    shards: list[Shard]
    statistics: dict[str, dict[str, float]]  # statistics of each field's signal, in its physical unit
    labels: dict[str, int] = field(default_factory=dict)  # number of pairs of each class
    groups: dict[str, int] = field(default_factory=dict)  # number of pairs of each group, of at most `MOST_GROUPS`
    lacking: dict[str, int] = field(default_factory=dict)  # number of pairs without each field that some lack
    format: str = FORMAT
    unlisted_groups: int = 0  # number of groups if they are too many for `groups`, which is then empty

    @property
    def has_groups(self) -> bool:
        """True if a pair has a group."""
        return bool(self.number_of_groups)

    @property
    def number_of_groups(self) -> int:
        """The number of different groups."""
        return self.unlisted_groups or len(self.groups)

    @property
    def digest(self) -> str:
        """A hash of the data: equal for equal bytes that are read in the same way."""
        fields = {name: asdict(spec) for name, spec in self.fields.items()}
        content = json.dumps([fields, self.classes, [shard.sha256 for shard in self.shards]], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def read_manifest(folder: AnyPath) -> Manifest:
    """The manifest of a folder of shards.

    Raises:
        ShardError: there is no manifest, or it is invalid.
        StoreError: its store cannot be read.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except (MissingError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ShardError(_why_none(folder, error)) from error
    try:
        return _manifest(parse(content))
    except ValueError as error:
        raise ShardError(f"{path} is not a manifest: {error}") from error


def _why_none(folder: AnyPath, error: OSError) -> str:
    """Why a folder has no manifest."""
    if "there is no bucket" in str(error):
        return f"{folder / MANIFEST} is missing (there is no such bucket)"
    try:
        splits = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    except UnlistableError:
        return f"{folder / MANIFEST} is missing; this server cannot list a folder, so give the folder of one split"
    if splits:
        return f"{folder} holds the shards of {', '.join(splits)}: name one of them, as {folder / splits[-1]}"
    cause = "the folder exists but its shards were not finished" if folder.is_dir() else "there is no such folder"
    return f"{folder / MANIFEST} is missing ({cause}); make shards with: crossmodal shards CONFIG"


def _manifest(content: Any) -> Manifest:
    check_format(content, FORMAT, EARLIER)
    manifest = build(Manifest, content)
    check_files(manifest.shards)
    if manifest.pairs != (total := sum(shard.pairs for shard in manifest.shards)):
        raise ValueError(f"pairs must be the sum of its shards', {total}, got {manifest.pairs!r}")
    for name, spec in manifest.fields.items():
        if not _is_name(name) or not _is_name(spec.extension) or "." in name:
            raise ValueError(f"fields must have names that are valid in a file name, got {name!r}")
        if name not in manifest.statistics:
            raise ValueError(f"statistics lack the field {name!r}")
        lacking = [item for item in MOMENTS if item not in manifest.statistics[name]]
        if 0 < len(lacking) < len(MOMENTS):
            raise ValueError(f"statistics.{name} must have all of {', '.join(MOMENTS)} or none, got no {lacking[0]}")
    if unknown := manifest.lacking.keys() - manifest.fields.keys():
        raise ValueError(f"lacking must name fields, got {min(unknown)!r}")
    if manifest.classes and (others := manifest.labels.keys() - {*manifest.classes}):
        raise ValueError(f"labels must name classes, got {min(others)!r}")
    return manifest


def open_field(name: str, spec: Field) -> Modality:
    """The modality of a field, with the options of its stored bytes.

    Raises:
        ShardError: the modality is not known, or its options are invalid.
    """
    try:
        kind = MODALITIES.get(spec.modality)
    except UnknownNameError as error:
        raise ShardError(f"field {name!r} is of modality {spec.modality!r}, which is not known") from error
    if spec.stored.keys() != {*kind.stored}:
        raise ShardError(f"field {name!r}: stored must have {', '.join(kind.stored) or 'no options'}, as the modality "
                         f"{spec.modality!r} needs, got {', '.join(spec.stored) or 'none'}")  # fmt: skip
    try:
        stored = read_stored(kind, spec.stored, "stored")
    except ValueError as error:
        raise ShardError(f"field {name!r}: {error}") from error
    try:
        modality: Modality = kind(**stored)
    except ValueError as error:
        raise ShardError(f"field {name!r}: stored: {error}") from error
    return modality


def read_stored(kind: type[Modality], options: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The options of a modality that describe stored bytes, of the types that it declares.

    Args:
        kind: the modality.
        options: plain content by name; other options are left out.
        place: the key of the options in messages.

    Raises:
        ValueError: an option is of another type; the message names its key.
    """
    types = get_type_hints(kind)
    return {name: build_value(types[name], options[name], f"{place}.{name}") for name in kind.stored if name in options}


def check_format(content: Any, *known: str) -> None:
    """Refuses a manifest of another format, before any other check.

    Raises:
        ValueError: it is not a mapping, or its format is not among `known`, which has the newest first.
    """
    actual = content.get("format") if isinstance(content, dict) else None
    if actual not in known:
        raise ValueError(f"format must be {known[0]!r}, got {str(actual)[:80]!r}")


def check_files(shards: list[Shard]) -> None:
    """Refuses shards that are not different files in the manifest's folder, or have more pairs than fit.

    Raises:
        ValueError: a file is in another folder or is listed twice, or a shard has too few bytes for its pairs.
    """
    names: set[str] = set()
    for shard in shards:
        if not _is_name(shard.file):
            raise ValueError(f"file of a shard must be the name of a file in the same folder, got {shard.file!r}")
        if shard.file in names:
            raise ValueError(f"shards must be different files, got {shard.file!r} twice")
        names.add(shard.file)
        if shard.pairs * SMALLEST > shard.bytes:
            raise ValueError(f"pairs of {shard.file} must be at most {shard.bytes // SMALLEST}, as many as fit into "
                             f"{shard.bytes} bytes, got {shard.pairs}")  # fmt: skip


def _is_name(text: str) -> bool:
    """True if a text can name a file in a folder."""
    return text.isprintable() and text not in ("", ".", "..") and not {"/", "\\"} & {*text}


def parse_facts(payload: bytes, classes: int, label: int | None = None) -> dict[str, Any]:
    """The facts in a pair's JSON member: label (-1: unlabelled), group, and further values of the source.

    Args:
        payload: the bytes of the member.
        classes: number of classes; 0: any label will do.
        label: the label if the member has none; None: it must have one.

    Raises:
        ValueError: it is not an object with an integer label and a text as group, the label is out of range, or a
            number in it is not finite.
    """
    try:
        facts = parse(payload)
        label = facts["label"] if label is None else facts.setdefault("label", label)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if "finite" in str(error):
            raise
        label = None
    # True is an int in Python, and int() accepts 1.0 and "1"
    if type(label) is not int or not -1 <= label < (classes or 1 << 31):
        upper = f"to {classes - 1}" if classes else "up"
        raise ValueError(f"json must be an object with a whole 'label' from -1 {upper}, got {payload[:80]!r}")
    group = facts.get("group")
    if group is not None and type(group) is not int:
        check_text(group, "json: group")
    return facts


def name_group(group: str | int | None) -> str:
    """The name of a group in the facts of a pair; empty if the pair has none. Other programs number groups from 0."""
    return "" if group is None else str(group)


def list_groups(counts: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """The fields `groups` and `unlisted_groups` of a manifest, from the number of pairs of each group."""
    named = {name: count for name, count in sorted(counts.items()) if name and count}
    return (named, 0) if len(named) <= MOST_GROUPS else ({}, len(named))


def to_json(manifest: Manifest) -> str:
    """The manifest as JSON text, without fields that earlier versions do not know if they are not needed."""
    content = asdict(manifest)
    if not manifest.unlisted_groups:
        del content["unlisted_groups"]
    return json.dumps(content, indent=1) + "\n"


def sha256_of(path: AnyPath) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()
