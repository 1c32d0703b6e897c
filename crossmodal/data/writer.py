"""Pairs -> shards: checked, packed in order, and described by a manifest that is written last."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import webdataset
from torch import Tensor

from crossmodal.checkpoint import write, writing
from crossmodal.data.index import seal
from crossmodal.data.manifest import MANIFEST, Field, Manifest, Shard, ShardError, list_groups, to_json
from crossmodal.data.views import Picture, tell_turned, tell_uneven
from crossmodal.sources import Pair
from modalities import DecodeError, Modality

DAMAGED = 5  # maximum number of unreadable members to report at once
KEY = re.compile(r"[A-Za-z0-9_-]+")
PIECE = 1 << 22  # numbers of a signal whose moments are computed at once, in float64


def write_shards(
    pairs: Iterator[Pair],
    folder: Path,
    *,
    fields: dict[str, Modality],
    classes: tuple[str, ...],
    pairs_per_shard: int = 1000,
    partial: bool = False,
    progress: Callable[[int], None] = lambda written: None,
    warn: Callable[[str], None] = lambda message: None,
) -> Manifest:
    """Packs pairs into shards and writes the manifest last; equal pairs give equal bytes.

    Every member is decoded once, for its statistics and so that nothing unreadable is packed. The first `DAMAGED`
    unreadable members are reported together. With `partial`, a pair may lack fields, but not all; the manifest omits a
    field that no pair has. `warn` gets an option of stored bytes that changes no signal, such as an invalid value that
    never occurs, and the first pair whose pictures have different proportions.

    Raises:
        ShardError: a pair lacks a field, has an invalid or repeated key or an EXIF tag that rotates only one picture, a
            member does not decode, a fact is not JSON, or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    writer = _Writer(folder, fields, pairs_per_shard, partial)
    try:
        for number, pair in enumerate(pairs, 1):
            writer.add(pair)
            progress(number)
            if len(writer.damaged) >= DAMAGED:
                break
    finally:
        writer.close()
    if writer.damaged:
        more = "; there may be more" if len(writer.damaged) >= DAMAGED else ""
        raise ShardError("; ".join(writer.damaged) + more)
    if not writer.shards:
        raise ShardError(f"no pairs came from the source; nothing was written to {folder}")
    for name, option in writer.idle:
        value = getattr(fields[name], option)
        warn(f"{name}.{option}={value:g} changes nothing in these pairs; is this how their files are stored?")
    pairs_written = sum(shard.pairs for shard in writer.shards)
    for first in writer.uneven:
        warn(f"{first}; so do {writer.uneven.total()} of {pairs_written} pairs; crop one of the pictures, or set "
             "aligned: false for one of the views in a run")  # fmt: skip
    extensions = {name.split(".")[0]: name.split(".")[1] for name in writer.extensions}
    written = {name: modality for name, modality in fields.items() if name in extensions}
    groups, unlisted = list_groups(writer.groups)
    manifest = Manifest(
        pairs=pairs_written,
        classes=list(classes),
        fields={
            name: Field(_name_of(modality), extensions[name], {key: getattr(modality, key) for key in modality.stored})
            for name, modality in written.items()
        },
        shards=writer.shards,
        statistics={name: writer.statistics[name].summary() for name in written},
        labels={classes[label]: count for label, count in sorted(writer.labels.items()) if label >= 0},
        groups=groups,
        unlisted_groups=unlisted,
        lacking={name: count for name, count in sorted(writer.lacking.items()) if name in written},
    )
    write(folder / MANIFEST, to_json(manifest))
    return manifest


def open_tar(path: Path) -> webdataset.TarWriter:
    """A writer of a tar in WebDataset's layout; equal members give equal bytes, and a link at `path` is replaced."""
    if path.is_symlink():
        path.unlink()  # opening it would overwrite the link's target
    return webdataset.TarWriter(str(path), encoder=False, mtime=0, user="", group="")


class _Writer:
    """Shards that are being written: one open tar, and the counts for the manifest."""

    def __init__(self, folder: Path, fields: dict[str, Modality], pairs_per_shard: int, partial: bool) -> None:
        self.folder, self.fields, self.pairs_per_shard, self.partial = folder, fields, pairs_per_shard, partial
        self.shards: list[Shard] = []
        self.statistics: dict[str, _Statistics | _Shares] = {
            name: _Shares(modality.classes) if modality.classes else _Statistics(modality.nothing)
            for name, modality in fields.items()
        }
        self.labels: Counter[int] = Counter()
        self.groups: Counter[str] = Counter()
        self.lacking: Counter[str] = Counter()
        self.extensions: set[str] = set()
        self.damaged: list[str] = []  # members that do not decode
        self.uneven: Counter[str] = Counter()  # number of pairs with pictures of different proportions
        self.idle = dict(_without_options(fields))  # options that have changed no signal yet
        self._keys: set[str] = set()
        self._last = ""  # key of the pair written last
        self._tar: webdataset.TarWriter | None = None
        self._in_tar = 0

    def add(self, pair: Pair) -> None:
        if not KEY.fullmatch(pair.key):
            raise ShardError(f"key {pair.key!r} must be of letters, digits, '_' and '-' (a dot starts the field name)")
        if pair.key in self._keys:
            raise ShardError(f"key {pair.key!r} appears twice in the source; keys must be unique in a split")
        self._keys.add(pair.key)
        self._inspect(pair)
        if self.damaged:
            return  # no shards will be written; the remaining pairs are only checked, to report all damage at once
        facts = {"label": pair.label, "group": pair.group, **pair.facts}
        try:
            text = json.dumps(facts, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ShardError(f"pair {pair.key!r}: its facts must be JSON with finite numbers: {error}") from error
        members = {**pair.members, "json": text.encode()}
        self._last = pair.key
        with writing(self._place):
            self._tar = self._tar or open_tar(self._path)
            self._tar.write({"__key__": pair.key, **members})
        self._in_tar += 1
        self.labels[pair.label] += 1
        if pair.group:
            self.groups[pair.group] += 1
        if self._in_tar == self.pairs_per_shard:
            self.close()

    def close(self) -> None:
        if self._tar is None:
            return
        with writing(self._place), closing(self._tar.stream):  # close() leaves it open if it fails
            self._tar.close()
        with writing(self._place):
            self.shards.append(seal(self._path, self._in_tar))
        self._tar, self._in_tar = None, 0

    @property
    def _path(self) -> Path:
        return self.folder / f"{len(self.shards):06d}.tar"

    @property
    def _place(self) -> str:
        return f"{self._path}: pair {self._last!r}"

    def _inspect(self, pair: Pair) -> None:
        present = {name.split(".")[0]: name for name in pair.members}
        pictures: dict[str, Picture] = {}
        for name, modality in self.fields.items():
            if name not in present and self.partial and present.keys() & self.fields.keys():
                self.lacking[name] += 1
                continue
            if name not in present:
                raise ShardError(f"pair {pair.key!r} has no {name!r}; it has {', '.join(sorted(present))}")
            extension = present[name].split(".")[1]
            if extension not in modality.extensions:
                raise ShardError(
                    f"pair {pair.key!r}: {name} must be one of {', '.join(modality.extensions)}, got {extension!r}"
                )
            try:
                signal = modality.decode(payload := pair.members[present[name]])
                self.statistics[name].add(signal)
                if picture := Picture.of(modality, signal, payload):
                    pictures[name] = picture
                for key, other in [*self.idle.items()]:
                    if key[0] == name and _differs(other, payload, signal):
                        del self.idle[key]
            except DecodeError as error:
                place = f" ({pair.paths[present[name]]})" if present[name] in pair.paths else ""
                self.damaged.append(f"pair {pair.key!r}, field {present[name]}{place}: {error}")
        if message := tell_turned(pictures):
            self.damaged.append(f"{_place_of(pair, pictures, present)}: {message}")
        if message := self._tell_unlike(pictures):
            self.damaged.append(f"{_place_of(pair, pictures, present)}: {message}")
        elif message := tell_uneven(pictures):
            # the first is named, the others are counted
            self.uneven[next(iter(self.uneven), f"pair {pair.key!r}: {message}")] += 1
        self.extensions |= set(pair.members)
        if len({name.split(".")[0] for name in self.extensions}) != len(self.extensions):
            raise ShardError(
                f"pair {pair.key!r}: a field must have one extension in all pairs, got {sorted(self.extensions)}"
            )

    def _tell_unlike(self, pictures: Mapping[str, Picture]) -> str:
        """A clause about the first label map whose proportions differ from another picture's; empty if there is none.

        Other pictures may be packed so, for views that are not aligned; labels are always of the same pixels.
        """
        pairs = combinations(pictures.items(), 2)
        labelled = (dict(pair) for pair in pairs if any(self.fields[name].classes for name, _ in pair))
        return next(filter(None, map(tell_uneven, labelled)), "")


@dataclass
class _Statistics:
    """Running moments of a field's signals; "no reading", NaN or exact zeros (also silence), is counted separately."""

    nothing: float = 0.0  # the modality's value without reading
    count: int = 0
    without: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")

    def add(self, signal: Tensor) -> None:
        for piece in signal.flatten().split(PIECE):
            self._add(piece.numpy())

    def _add(self, signal: np.ndarray) -> None:
        there = ~np.isnan(signal) if math.isnan(self.nothing) else signal != 0
        values = torch.from_numpy(signal[there]).double()  # indexing in torch would take 24 bytes per number
        self.without += signal.size - values.numel()
        if values.numel():
            self.count += values.numel()
            self.total += values.sum().item()
            self.squares += values.square().sum().item()
            self.low, self.high = min(self.low, values.min().item()), max(self.high, values.max().item())

    def summary(self) -> dict[str, float]:
        if not self.count:
            return {self._name: 1.0}
        mean = self.total / self.count
        return {
            "mean": round(mean, 6),
            "std": round(max(self.squares / self.count - mean**2, 0.0) ** 0.5, 6),
            "min": round(self.low, 6),
            "max": round(self.high, 6),
            self._name: round(self.without / (self.without + self.count), 6),
        }

    @property
    def _name(self) -> str:
        return "no_reading_share" if math.isnan(self.nothing) else "zero_share"


class _Shares:
    """The share of pixels of each class in a field's label maps."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.counts = np.zeros(1 + len(classes), dtype=np.int64)  # the first: of pixels without a label

    def add(self, signal: Tensor) -> None:
        self.counts += np.bincount(signal.flatten().long().numpy() + 1, minlength=len(self.counts))

    def summary(self) -> dict[str, float]:
        bare, *counts = self.counts.tolist()
        shares = {
            f"share.{name}": count / max(sum(counts), 1) for name, count in zip(self.classes, counts, strict=True)
        }
        shares["unlabelled_share"] = bare / max(self.counts.sum().item(), 1)
        return {name: float(f"{share:.6g}") for name, share in shares.items()}


def _without_options(fields: dict[str, Modality]) -> Iterator[tuple[tuple[str, str], Modality]]:
    """For each field and number among the options of its stored bytes that is set: the modality with the default."""
    for name, modality in fields.items():
        for option in modality.stored:
            value = getattr(modality, option)
            default = getattr(type(modality), option, value)
            if value != default and isinstance(value, int | float):
                yield (name, option), replace(modality, **{option: default})  # type: ignore[type-var]


def _differs(modality: Modality, payload: bytes, signal: Tensor) -> bool:
    try:
        return not torch.allclose(modality.decode(payload), signal, rtol=0, atol=0, equal_nan=True)
    except DecodeError:
        return True


def _place_of(pair: Pair, names: Iterable[str], members: Mapping[str, str]) -> str:
    """A pair with the files of some of its fields, if they are known, for messages."""
    places = ", ".join(pair.paths[members[name]] for name in names if members[name] in pair.paths)
    return f"pair {pair.key!r}{f' ({places})' if places else ''}"


def _name_of(modality: Modality) -> str:
    return type(modality).__module__.rsplit(".", 1)[1]
