"""Teacher features in shards: what a frozen network says of every pair through each of its windows.

A folder of them goes with a folder of paired shards: a tar for each of its tars, a record for each of its pairs, in the
same order. The members of a record are arrays of shape [windows, *size]: ``000123.embedding.npy``,
``000123.logits.npy`` and, if they were asked for, ``000123.map0.npy`` and so on. The manifest, written last, says what
they were made from.
"""

import hashlib
import io
import json
import math
from collections.abc import Mapping
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

FORMAT = "crossmodal-features/1"  # counted up also where the same pair through the same window comes out differently
DTYPES = {"float16": torch.float16, "float32": torch.float32}
ROUNDING = 1e-3  # greatest share of a row's magnitude that rounding may cost; float16 costs half of it in its range


@dataclass(frozen=True)
class FeatureManifest:
    """What a folder of features holds."""

    origin: dict[str, Any]  # all that decides the numbers: data, network, view, look, seed
    windows: int  # of each pair: those of the first epochs
    dtype: str  # of the stored numbers
    spec: Spec  # of the features as they are stored; maps that were not kept are not in it
    whole: Spec  # of all that the network gives
    classes: list[str]  # names of the logits, where they are known
    pairs: int
    unreadable: int  # pairs whose record holds only `json`, which says why they could not be read
    shards: list[Shard]
    format: str = FORMAT

    @property
    def digest(self) -> str:
        """Names the features: equal for equal bytes of equal origin."""
        told = json.dumps([self.origin, [shard.sha256 for shard in self.shards]], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()


def read_manifest(folder: Path) -> FeatureManifest:
    """The manifest of a folder of features.

    Raises:
        ShardError: there is none, or it is not one.
    """
    path = folder / MANIFEST
    if not path.is_file():
        inside = sorted(found.parent.name for found in folder.glob(f"*/{MANIFEST}"))
        hint = f"; it is in the folder of a teacher: {', '.join(inside)}" if inside else ""
        raise ShardError(f"{path} is missing{hint or '; make features with: crossmodal features CONFIG'}")
    try:
        content = parse(path.read_bytes())
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
    """An opened folder of features: any pair's, by its index in the data, through any of its windows."""

    shards: Shards
    manifest: FeatureManifest

    @classmethod
    def open(cls, folder: str | Path, places: np.ndarray | None = None) -> "FeatureShards":
        """Reads the manifest and looks whether every tar is there and whole.

        Args:
            folder: of one teacher's features.
            places: of the pairs that are taken, as in the `Shards` of the data.

        Raises:
            ShardError: there is no manifest, it is not one, or a tar is missing or cut short.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        for shard in manifest.shards:
            path = folder / shard.file
            if not path.is_file():
                raise ShardError(f"{path} is missing, though {folder / MANIFEST} lists it; make the features anew")
            if (size := path.stat().st_size) != shard.bytes:
                raise ShardError(f"{path} must have {shard.bytes} bytes by its manifest, got {size}; make them anew")
        return cls(Shards(folder, Manifest(manifest.pairs, [], {}, manifest.shards, {}), places), manifest)

    def read(self, index: int, key: str, window: int) -> dict[str, Tensor]:
        """What the teacher says of a pair through one window, by member, a row each; only these bytes are read.

        Raises:
            ShardError: the record is of another pair than `key`, lacks a member, or a member has another size or
                numbers that are not finite.
            IndexError: there is no such window.
        """
        if not 0 <= window < self.manifest.windows:
            raise IndexError(f"window must be from 0 to {self.manifest.windows - 1}, got {window}")
        names = [f"{name}.npy" for name in self._frames]
        found, descriptor, spans = self.shards.spans(index, names)
        self.shards.compare_once(index, names)
        if found != key:
            raise ShardError(f"{self.shards.locate(index)[0]}: record {index} must be of pair {key!r}, got {found!r}")
        read = {}
        for (name, frame), (offset, size) in zip(self._frames.items(), spans, strict=True):
            payload = b""
            if size == frame.header + self.manifest.windows * frame.stride:  # a damaged manifest may tell of any size
                start = offset + frame.header + window * frame.stride
                payload = self.shards.read_bytes(index, descriptor, frame.stride, start)
            if len(payload) != frame.stride:
                raise ShardError(
                    f"{self.shards.locate(index)[0]}: pair {key!r} must have {self.manifest.windows} x "
                    f"{frame.shape[1:]} numbers in {name}.npy, got {size} bytes"
                )
            read[name] = torch.frombuffer(bytearray(payload), dtype=frame.dtype).view(frame.shape)
            if not read[name].isfinite().all():
                raise ShardError(f"{self.shards.locate(index)[0]}: pair {key!r} has numbers in {name}.npy that are not "
                                 "finite; make the features anew")  # fmt: skip
        return read

    @cached_property
    def _frames(self) -> "dict[str, _Frame]":
        """How each member lies in its file."""
        return {
            name: _Frame.of((self.manifest.windows, *size), DTYPES[self.manifest.dtype])
            for name, size in sizes(self.manifest.spec).items()
        }


@dataclass(frozen=True)
class _Frame:
    """The layout of a member: a header, then equal pieces, one a window."""

    header: int  # bytes
    stride: int  # bytes a window
    shape: tuple[int, ...]  # of one window's piece, as a row
    dtype: torch.dtype

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: torch.dtype) -> "_Frame":
        header = _header(shape, np.dtype(_name(dtype)))
        return cls(len(header), math.prod(shape[1:]) * dtype.itemsize, (1, *shape[1:]), dtype)


def sizes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """The members of a record, each with its size for one window."""
    found: dict[str, tuple[int, ...]] = {"embedding": (spec.dim,)}
    if spec.classes:
        found["logits"] = (spec.classes,)
    if spec.stem is not None:
        found["stem"] = spec.stem
    found |= {f"map{number}": size for number, size in enumerate(spec.maps)}
    if spec.preactivations:
        found |= {f"preactivation{number}": size for number, size in enumerate(spec.maps)}
    return found


def kept(spec: Spec, *, maps: bool, preactivations: bool) -> Spec:
    """The sizes of what is stored of an encoder's features."""
    if not maps:
        return replace(spec, maps=(), stem=None, preactivations=False)
    return replace(spec, preactivations=spec.preactivations and preactivations)


def take_apart(features: Features, spec: Spec) -> dict[str, Tensor]:
    """What is stored of a batch's features, by member."""
    given = {"embedding": features.embedding, "logits": features.logits, "stem": features.stem}
    given |= {f"map{number}": item for number, item in enumerate(features.maps)}
    given |= {f"preactivation{number}": item for number, item in enumerate(features.preactivations)}
    found = {}
    for name in sizes(spec):
        item = given[name]
        assert item is not None, f"the encoder's spec promises {name}"
        found[name] = item
    return found


def put_together(members: Mapping[str, Tensor]) -> Features:
    """The inverse of `take_apart`, in float32; what was not stored is absent."""
    wide = {name: item.float() for name, item in members.items()}
    series = [tuple(item for name, item in wide.items() if name.startswith(word)) for word in ("map", "preactivation")]
    return Features(wide["embedding"], series[0], wide.get("logits"), wide.get("stem"), series[1])


def round_rows(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The rows in another precision.

    Raises:
        ValueError: a number is not finite, or a row lies outside the range in which `dtype` is precise.
    """
    wide = values.float()
    rounded = wide.to(dtype)
    if not wide.isfinite().all():
        raise ValueError("got numbers that are not finite")
    lost, whole = ((item.flatten(1).abs().sum(1)) for item in (rounded.float() - wide, wide))
    bad = lost > ROUNDING * whole  # an overflow is infinite here, and what vanishes is lost
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
    """The manifest as it is written."""
    return json.dumps(asdict(manifest), indent=1) + "\n"
