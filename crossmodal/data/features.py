"""Teacher features in shards: the outputs of a frozen network for every crop of every pair.

A folder of features belongs to a folder of paired shards: it has a tar for each tar and a record for each pair, in the
same order. The members of a record are arrays of shape [windows, *size]: ``000123.embedding.npy``,
``000123.logits.npy`` and, if maps are stored, ``000123.map0.npy`` and so on. The manifest, written last, records what
the features were computed from.
"""

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossmodal.data.manifest import MANIFEST, Manifest, Shard, ShardError, check_files, check_format
from crossmodal.data.plain import build, parse
from crossmodal.data.shards import Shards
from crossmodal.encoders import Features, Spec
from crossmodal.stores.errors import MissingError
from crossmodal.stores.paths import AnyPath, to_path

FORMAT = "crossmodal-features/1"  # increased also when the same crop of the same pair gets other values
DTYPES = {"float16": torch.float16, "float32": torch.float32}
ROUNDING = 1e-3  # maximum rounding error, relative to a row's magnitude; float16 has half of it in its range


@dataclass(frozen=True)
class FeatureManifest:
    """The manifest of a folder of features."""

    origin: dict[str, Any]  # everything the numbers depend on: data, network, view, crop, seed
    windows: int  # number of crops of each pair: those of the first epochs
    dtype: str  # type of the stored numbers
    spec: Spec  # sizes of the stored features; without maps that were not stored
    whole: Spec  # sizes of all outputs of the network
    classes: list[str]  # names of the logits, if they are known
    pairs: int
    unreadable: int  # number of pairs whose record has only `json`, with the reason why they could not be read
    shards: list[Shard]
    format: str = FORMAT

    @property
    def digest(self) -> str:
        """A hash of the features: equal for equal bytes of equal origin."""
        content = json.dumps([self.origin, [shard.sha256 for shard in self.shards]], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def read_manifest(folder: AnyPath) -> FeatureManifest:
    """The manifest of a folder of features.

    Raises:
        ShardError: there is no manifest, or it is invalid.
    """
    path = folder / MANIFEST
    try:
        payload = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, MissingError) as error:
        inside = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
        hint = f"; give the folder of one teacher: {', '.join(inside)}" if inside else ""
        hint = hint or "; make features with: crossmodal features CONFIG"
        raise ShardError(f"{path} is missing{hint}") from error
    try:
        content = parse(payload)
        check_format(content, FORMAT)
        manifest = build(FeatureManifest, content)
        check_files(manifest.shards)
        if manifest.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {manifest.dtype!r}")
        if not manifest.windows or not manifest.spec.dim:
            raise ValueError("windows and spec.dim must be above 0")
        if manifest.pairs != (total := sum(shard.pairs for shard in manifest.shards)):
            raise ValueError(f"pairs must be the sum of its shards', {total}, got {manifest.pairs}")
        return manifest
    except ValueError as error:
        raise ShardError(f"{path} is not a manifest of features: {error}") from error


@dataclass(frozen=True)
class FeatureShards:
    """An opened folder of features, with random access by a pair's index in the data and the number of a crop."""

    shards: Shards
    manifest: FeatureManifest

    @classmethod
    def open(cls, folder: str | AnyPath, places: np.ndarray | None = None) -> "FeatureShards":
        """Reads the manifest and checks that every local tar exists and has the right size.

        Args:
            folder: the features of one teacher, or their URL in a store.
            places: positions of the selected pairs, as in the `Shards` of the data.

        Raises:
            ShardError: there is no manifest, it is invalid, or a tar is missing or cut short.
        """
        folder = to_path(folder)
        manifest = read_manifest(folder)
        for shard in manifest.shards if isinstance(folder, Path) else ():
            path = folder / shard.file
            if not path.is_file():
                raise ShardError(f"{path} is missing, though {folder / MANIFEST} lists it; make the features again")
            if (size := path.stat().st_size) != shard.bytes:
                raise ShardError(f"{path} must have {shard.bytes} bytes by its manifest, got {size}; make them again")
        return cls(Shards(folder, Manifest(manifest.pairs, [], {}, manifest.shards, {}), places), manifest)

    def read(self, index: int, key: str, window: int) -> dict[str, Tensor]:
        """The features of one crop of a pair, by member, each as one row; no other bytes are read.

        Raises:
            ShardError: the record is of another pair than `key`, lacks a member, or a member has another size or
                numbers that are not finite.
            IndexError: there is no such crop.
        """
        if not 0 <= window < self.manifest.windows:
            raise IndexError(f"window must be from 0 to {self.manifest.windows - 1}, got {window}")
        names = [f"{name}.npy" for name in self._frames]
        stored, spans = self.shards.spans(index, names)
        whole = self.shards.read(index, names)[1] if self.shards.is_remote else {}
        if not whole:
            self.shards.compare_once(index, names)
        if stored != key:
            raise ShardError(f"{self.shards.locate(index)[0]}: record {index} must be of pair {key!r}, got {stored!r}")
        read = {}
        for (name, frame), (offset, size) in zip(self._frames.items(), spans, strict=True):
            payload = b""
            if size == frame.header + self.manifest.windows * frame.stride:  # a damaged manifest may claim any size
                start = offset + frame.header + window * frame.stride
                if whole:
                    payload = whole[f"{name}.npy"][start - offset : start - offset + frame.stride]
                else:
                    payload = self.shards.read_spans(index, [(start, frame.stride)])[0]
            if len(payload) != frame.stride:
                raise ShardError(
                    f"{self.shards.locate(index)[0]}: pair {key!r} must have {self.manifest.windows} x "
                    f"{frame.shape[1:]} numbers in {name}.npy, got {size} bytes"
                )
            read[name] = torch.frombuffer(bytearray(payload), dtype=frame.dtype).view(frame.shape)
            if not read[name].isfinite().all():
                raise ShardError(f"{self.shards.locate(index)[0]}: pair {key!r} has numbers in {name}.npy that are not "
                                 "finite; make the features again")  # fmt: skip
        return read

    def read_ahead(self, indices: Sequence[int], later: Sequence[int] = ()) -> None:
        """Reads records of a store at the same time; see `Shards.read_ahead`."""
        self.shards.read_ahead(indices, [f"{name}.npy" for name in self._frames], later)

    @cached_property
    def _frames(self) -> "dict[str, _Frame]":
        """The layout of each member in its file."""
        return {
            name: _Frame.of((self.manifest.windows, *size), DTYPES[self.manifest.dtype])
            for name, size in sizes(self.manifest.spec).items()
        }


@dataclass(frozen=True)
class _Frame:
    """The layout of a member: a header, then equal pieces, one per crop."""

    header: int  # bytes
    stride: int  # bytes per crop
    shape: tuple[int, ...]  # shape of one crop's piece, as a row
    dtype: torch.dtype

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: torch.dtype) -> "_Frame":
        header = _header(shape, np.dtype(_name(dtype)))
        return cls(len(header), math.prod(shape[1:]) * dtype.itemsize, (1, *shape[1:]), dtype)


def sizes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """The members of a record, each with its size for one crop."""
    members: dict[str, tuple[int, ...]] = {"embedding": (spec.dim,)}
    if spec.classes:
        members["logits"] = (spec.classes,)
    if spec.stem is not None:
        members["stem"] = spec.stem
    members |= {f"map{number}": size for number, size in enumerate(spec.maps)}
    if spec.preactivations:
        members |= {f"preactivation{number}": size for number, size in enumerate(spec.maps)}
    return members


def kept(spec: Spec, *, maps: bool, preactivations: bool, stages: Sequence[int] | None = None) -> Spec:
    """The sizes of the features to store of an encoder; `stages` selects maps, and leaves out the stem.

    Raises:
        ValueError: the encoder has no such map.
    """
    if not maps:
        return replace(spec, maps=(), stem=None, preactivations=False)
    if stages is not None:
        if any(not 0 <= stage < len(spec.maps) for stage in stages):
            raise ValueError(f"stages must be maps of the teacher, from 0 to {len(spec.maps) - 1}, got {[*stages]}")
        spec = replace(spec, maps=tuple(spec.maps[stage] for stage in stages), stem=None)
    return replace(spec, preactivations=spec.preactivations and preactivations)


def take_apart(features: Features, spec: Spec, stages: Sequence[int] | None = None) -> dict[str, Tensor]:
    """The features of a batch to store, by member; of the maps only `stages`, numbered anew, if they are given."""
    given = {"embedding": features.embedding, "logits": features.logits, "stem": features.stem}
    for name, items in (("map", features.maps), ("preactivation", features.preactivations)):
        chosen = items if stages is None or not items else [items[stage] for stage in stages]
        given |= {f"{name}{number}": item for number, item in enumerate(chosen)}
    members = {}
    for name in sizes(spec):
        item = given[name]
        assert item is not None, f"the encoder's spec promises {name}"
        members[name] = item
    return members


def put_together(members: Mapping[str, Tensor]) -> Features:
    """The inverse of `take_apart`, in float32; features that were not stored are absent."""
    wide = {name: item.float() for name, item in members.items()}
    series = [tuple(item for name, item in wide.items() if name.startswith(word)) for word in ("map", "preactivation")]
    return Features(wide["embedding"], series[0], wide.get("logits"), wide.get("stem"), series[1])


def round_rows(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The rows as another type.

    Raises:
        ValueError: a number is not finite, or a row is outside the range in which `dtype` is precise.
    """
    wide = values.float()
    rounded = wide.to(dtype)
    if not wide.isfinite().all():
        raise ValueError("got numbers that are not finite")
    lost, whole = ((item.flatten(1).abs().sum(1)) for item in (rounded.float() - wide, wide))
    bad = lost > ROUNDING * whole  # an overflow is an infinite loss here, and an underflow a loss of the whole number
    if bad.any():
        worst = wide[bad].abs().amax()
        raise ValueError(f"got numbers up to {worst:.3g} in a row, which {_name(dtype)} cannot hold")
    return rounded


def encode(values: np.ndarray) -> bytes:
    """An array as the bytes of a .npy file."""
    return _header(values.shape, values.dtype) + np.ascontiguousarray(values).tobytes()


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    file = io.BytesIO()
    layout = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, layout)
    return file.getvalue()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def to_json(manifest: FeatureManifest) -> str:
    """The manifest as JSON text."""
    return json.dumps(asdict(manifest), indent=1) + "\n"
