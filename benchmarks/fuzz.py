"""Mutate shards, manifests, payloads, features and exported models; read each; count what comes of it.

A mutation ends well in one of three ways: every value is the one before ("right"); a named error of ours ("named"); or,
where nothing could tell (no checksum covers the changed bytes), values of the promised shape, type and range ("sound").
Any other exception, another value where a checksum covers it, more than 5 s or more than 1 GB is a fault.

    python benchmarks/fuzz.py [--count 20000] [--seed 0] [--kinds manifest,tar]
"""

import argparse
import faulthandler
import hashlib
import io
import json
import logging
import random
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from torch import Tensor

from crossmodal import ENCODERS, OBJECTIVES
from crossmodal.data.feature_writer import MARK, FeatureTar, is_done, write_manifest
from crossmodal.data.features import FeatureShards, kept
from crossmodal.data.index import index_path
from crossmodal.data.manifest import MANIFEST, ShardError
from crossmodal.data.order import Plan
from crossmodal.data.reader import PairStream, SampleBatch, open_view, read_pair
from crossmodal.data.shards import Shards
from crossmodal.data.verify import check
from crossmodal.data.views import Crop, View
from crossmodal.data.writer import write_shards
from crossmodal.models import CARD, WEIGHTS, Card, ExportError, Head, load_model, save_model
from crossmodal.sources import Pair
from crossmodal.weights import WeightsError
from modalities import MODALITIES, CropBox, DecodeError, Modality
from modalities.common.random import generator
from pipelines.training.memory import peak_mb

NAMED = (ShardError, DecodeError, ExportError, WeightsError)
SECONDS, MEGABYTES = 5.0, 1000.0  # bars of one mutation
GUARD = 6 * 2**30  # bytes of address space beyond which memory is refused
PAIRS, SIDE, WINDOWS, DIM, RATE_HZ = 4, 8, 2, 4, 8000
AUDIO = {"rate_hz": RATE_HZ, "window_s": 0.05, "mels": 4}
OPTIONS: dict[str, dict[str, Any]] = {"rgb": {"size": SIDE}, "depth": {"size": SIDE}, "audio": AUDIO}
NUMBERS = (0, -1, 1, 2, 3, 5, 127, 255, 10**5, 2**31 - 1, 2**31, 2**32, 10**10, 2**63 - 1, 2**63, 10**30, 0.5, -1e-9,
           1e308)  # fmt: skip
TEXTS = ("", ".", "..", "/", "a/b", "../x.tar", "\\", "\0", "\ud800", "é", "000000.tar", "000001.tar", "rgb", "depth",
         "audio", "png", "x" * 5000, "crossmodal-shards/1", "float16", "float32")  # fmt: skip
FIELDS = {
    "name": (0, 100), "mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "size": (124, 12), "mtime": (136, 12),
    "checksum": (148, 8), "type": (156, 1), "link": (157, 100), "magic": (257, 8), "user": (265, 32),
    "group": (297, 32), "major": (329, 8), "minor": (337, 8), "prefix": (345, 155), "all": (0, 512),
}  # of a tar's header: offset and size in bytes  # fmt: skip


class Fault(Exception):  # noqa: N818  # the name of what it is
    """A mutation that ended in none of the good ways."""


# --- changes ---


def change_bytes(draw: random.Random, content: bytes) -> bytes:
    """A few changed, cut, inserted, repeated or moved bytes."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        place = draw.randrange(len(changed) + 1)
        end = min(len(changed), place + draw.choice((1, 2, 4, 8, 64, 512)))
        match draw.randrange(9):
            case 0 | 1 if changed:
                changed[min(place, len(changed) - 1)] ^= 1 << draw.randrange(8)
            case 2:
                changed[place:end] = draw.choice((b"\0", b"\xff", b"\x7f", b"9")) * (end - place)
            case 3:
                changed[place:place] = draw.randbytes(draw.choice((1, 3, 16, 512)))
            case 4:
                del changed[place:end]
            case 5:
                del changed[place:]
            case 6:
                changed[place:place] = changed[place:end]
            case 7:
                piece = changed[place:end]
                del changed[place:end]
                to = draw.randrange(len(changed) + 1)
                changed[to:to] = piece
            case 8:
                order = draw.choice(("<", ">"))
                number = draw.choice((0, 1, 2**7, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1))
                changed[place : place + 4] = struct.pack(f"{order}I", number)
    return bytes(changed)


def change_headers(draw: random.Random, tar: bytes) -> bytes:
    """Other content of a field of a tar's headers; mostly with the right checksum."""
    changed = bytearray(tar)
    with tarfile.open(fileobj=io.BytesIO(tar)) as found:
        start = draw.choice([entry.offset for entry in found])
    for _ in range(draw.choice((1, 1, 2))):
        offset, size = FIELDS[draw.choice([*FIELDS])]
        number = draw.choice((0, 1, 511, 512, 2**20, 2**33 - 1, 2**62, -1, -512, -(2**40)))
        filling = (
            draw.randbytes(size), b"\0" * size, b"\xff" * size, b"7" * size, b"\x80" + b"\xff" * (size - 1),
            number.to_bytes(12, "big", signed=True)[-size:], b"%o" % abs(number), b"-%o" % abs(number),
            bytes([draw.choice(b"0123456789gxLKSDMNV\0")]), draw.choice(TEXTS).encode("utf-8", "surrogatepass"),
        )  # fmt: skip
        changed[start + offset : start + offset + size] = draw.choice(filling)[:size].ljust(size, b"\0")
    if draw.random() < 0.9:
        _sum(changed, start)
    return bytes(changed)


def change_blocks(draw: random.Random, tar: bytes) -> bytes:
    """Blocks of a tar cut, repeated, moved, left out, or headers of other kinds put in."""
    blocks = [tar[start : start + 512] for start in range(0, len(tar), 512)]
    place = draw.randrange(len(blocks))
    count = draw.choice((1, 1, 2, 4))
    match draw.randrange(6):
        case 0:
            return tar[: draw.randrange(len(tar))]
        case 1:
            del blocks[place : place + count]
        case 2:
            blocks[place:place] = blocks[place : place + count] * draw.choice((1, 1, 300))
        case 3:
            piece = blocks[place : place + count]
            del blocks[place : place + count]
            to = draw.randrange(len(blocks) + 1)
            blocks[to:to] = piece
        case 4:
            blocks[place:place] = [draw.choice((bytes(512), draw.randbytes(512)))]
        case 5:
            blocks[place:place] = [_extended(draw)] * draw.choice((1, 2, 2000))
    return b"".join(blocks)


def _extended(draw: random.Random) -> bytes:
    """A header of extended attributes, a long name or a sparse file, with its content."""
    sparse = [f"GNU.sparse.{name}" for name in ("map", "major", "size", "offset", "numblocks")]
    key = draw.choice(("size", "path", "linkpath", "mtime", "uid", "hdrcharset", *sparse))
    value = draw.choice((*map(str, NUMBERS), "", "a", "1,2,3", "BINARY", "x" * 200, "\0", "é"))
    record = f" {key}={value}\n"
    size = draw.choice((len(record) + 2, len(record) + 2, 0, -1, 10**9, 1))
    content = draw.choice((f"{size}{record}".encode(), draw.randbytes(40)))
    header = bytearray(512)
    header[:8], header[257:263] = b"././@Pax", b"ustar\0"
    header[124:136] = b"%011o\0" % draw.choice((len(content), len(content), 0, 2**30, 2**33 - 1))
    header[156:157] = bytes([draw.choice(b"xgLKXS")])
    _sum(header, 0)
    return bytes(header) + content.ljust(-(-len(content) // 512) * 512, b"\0")


def _sum(tar: bytearray, start: int) -> None:
    tar[start + 148 : start + 156] = b" " * 8
    tar[start + 148 : start + 156] = b"%06o\0 " % sum(tar[start : start + 512])


def change_json(draw: random.Random, text: bytes) -> bytes:
    """Other values of keys: wrong types, nulls, numbers out of range, other paths, deep nesting; fewer or more keys."""
    if draw.random() < 0.15:
        return change_bytes(draw, text)
    content = json.loads(text)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places = [*_places(content)]
        parent, key = draw.choice(places)
        match draw.randrange(8):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[draw.choice(TEXTS)] = parent[key]
            case 2:
                other, name = draw.choice(places)
                parent[key] = json.loads(json.dumps(other[name]))  # a copy, so that there is no circle
            case 3 if type(parent[key]) is int:
                was, number = parent[key], draw.choice(NUMBERS)  # wherever it stands: sums agree
                for holder, name in places:
                    if type(holder[name]) is int and holder[name] == was:
                        holder[name] = number
            case 4 if isinstance(parent, list):
                parent += [parent[key]] * draw.choice((1, 2, 1000))
            case _:
                parent[key] = draw.choice((*NUMBERS, *TEXTS, None, True, False, [], {}, [[]], {"a": 1}, [0, None],
                                           float("nan"), float("inf"), "DEEP"))  # fmt: skip
        if not content:
            break
    if draw.random() < 0.3 and isinstance(content, dict) and isinstance(content.get("shards"), list):
        counts = [shard.get("pairs") for shard in content["shards"] if isinstance(shard, dict)]
        content["pairs"] = sum(count for count in counts if type(count) is int)
    depth = draw.choice((100, 900, 100_000))
    return json.dumps(content).replace('"DEEP"', "[" * depth + "]" * depth).encode()


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in plain content, as what holds it and its key there."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield content, key
        if isinstance(value, dict | list):
            yield from _places(value)


def change_png(draw: random.Random, png: bytes) -> bytes:
    """Changed bytes within the chunks, with the right checksums, so that the decoder meets them."""
    chunks, place = [], 8
    while place + 12 <= len(png):
        size = int.from_bytes(png[place : place + 4], "big")
        chunks.append((png[place + 4 : place + 8], png[place + 8 : place + 8 + size]))
        place += 12 + size
    number = draw.randrange(len(chunks))
    name, content = chunks[number]
    chunks[number] = name, change_bytes(draw, content)
    if draw.random() < 0.2:
        chunks.insert(draw.randrange(len(chunks)), draw.choice(chunks))
    return png[:8] + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def change_safetensors(draw: random.Random, content: bytes) -> bytes:
    """Changed bytes, or a changed header whose length is right."""
    if draw.random() < 0.5:
        return change_bytes(draw, content)
    size = int.from_bytes(content[:8], "little")
    header = change_json(draw, content[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


# --- what is changed ---

Change = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class World:
    """A tiny folder of each sort, and what is read from it as long as it is whole."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "World":
        """Shards of four pairs in two tars, features of them, an exported model."""
        fields = {name: MODALITIES.get(name)(**options) for name, options in OPTIONS.items()}
        write_shards(_pairs(fields), folder / "shards", fields=fields, classes=("a", "b", "c"), pairs_per_shard=2)
        _write_features(folder / "features", Shards.open(folder / "shards"))
        _write_model(folder / "model")
        return cls(folder)

    pairs = cached_property(lambda self: dict(self.read_pairs()))
    features = cached_property(lambda self: [*self.read_features()])
    model = cached_property(lambda self: self.read_model())

    def read_pairs(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """The key of each pair and what it adapts to, as the folder is now."""
        shards = Shards.open(self.folder / "shards")
        views = _open_views(shards)
        for index in range(min(len(shards), 2 * PAIRS)):
            part = read_pair(shards, views, index)
            yield shards.locate(index)[1].key, {**part.adapted, "label": part.label}

    def read_features(self) -> Iterator[dict[str, Tensor]]:
        """The teacher's features of each pair, as the folder is now."""
        opened = FeatureShards.open(self.folder / "features")
        for index, key in enumerate([*self.pairs][: len(opened.shards)]):
            read = {window: opened.read(index, key, window) for window in range(WINDOWS)}
            yield {f"{name}{window}": rows for window, rows_of in read.items() for name, rows in rows_of.items()}

    def read_model(self) -> dict[str, Tensor]:
        """The model's embedding and logits of one picture, as the folder is now."""
        model = load_model(self.folder / "model")
        shown = model.modality.normalise(torch.zeros(1, *model.modality.shape))
        with torch.no_grad():
            features = model.encoder(shown)
        return {"embedding": features.embedding} | ({} if features.logits is None else {"logits": features.logits})


def _open_views(shards: Shards) -> dict[str, View]:
    return {name: open_view(shards, name, **options) for name, options in OPTIONS.items()}


def _pairs(fields: dict[str, Modality]) -> Iterator[Pair]:
    for number in range(PAIRS):
        random_ = generator("fuzz", number)
        signals = {
            "rgb.jpg": torch.rand(3, SIDE, SIDE, generator=random_),
            "depth.png": 1 + torch.rand(1, SIDE, SIDE, generator=random_),
            "audio.flac": torch.rand(1, 600, generator=random_) - 0.5,
        }
        members = {name: fields[name.partition(".")[0]].encode(signal) for name, signal in signals.items()}
        yield Pair(f"pair_{number}", members, label=number % 3, group=f"g{number // 2}")


def _write_features(folder: Path, shards: Shards) -> None:
    spec = kept(ENCODERS.get("convnet")((3, SIDE, SIDE), 3, width=DIM, stages=1).spec, maps=False, preactivations=False)
    for number, shard in enumerate(shards.manifest.shards):
        with FeatureTar(folder / shard.file) as tar:
            for row in range(shard.pairs):
                random_ = np.random.default_rng([number, row])
                draw = lambda dim: random_.normal(size=(WINDOWS, dim)).astype(np.float32)  # noqa: B023, E731
                tar.add(shards.locate(2 * number + row)[1].key, {"embedding": draw(spec.dim), "logits": draw(3)})
    write_manifest(folder, [shard.file for shard in shards.manifest.shards], origin={"seed": 0, "data": ["x"]},
                   windows=WINDOWS, dtype="float32", spec=spec, whole=spec, classes=["a", "b", "c"])  # fmt: skip


def _write_model(folder: Path) -> None:
    torch.manual_seed(0)
    card = Card("convnet", {"width": DIM, "stages": 1}, (3, SIDE, SIDE), ["a", "b", "c"], "rgb", {"size": SIDE})
    encoder = card.build()
    options = {"dim": 4, "negatives": {"count": 4}}
    card = replace(card, heads={"crd": Head("crd", options, "rgb", encoder.spec)})
    from crossmodal.contrast.options import Negatives

    head = OBJECTIVES.get("crd")(encoder.spec, encoder.spec, 2, dim=4, negatives=Negatives(count=1))
    save_model(folder, card, encoder, {"crd": head})


@dataclass(frozen=True)
class Kind:
    """One sort of mutation: what is changed, how, and what is read then."""

    share: int  # of all mutations, in parts of 100
    run: Callable[[World, random.Random], str]  # "right", "named" or "sound"


def _alike(found: dict[str, Tensor], expected: dict[str, Tensor] | None) -> bool:
    """Whether values are those before; refuses values that nothing promises."""
    for name, value in found.items():
        if not value.isfinite().all():
            raise Fault(f"{name} is not finite")
    if expected is None or found.keys() != expected.keys():
        return False
    return all(torch.equal(value, expected[name]) for name, value in found.items())


def _settle(draw: random.Random, original: bytes, change: Change) -> bytes:
    """A change that changes something."""
    while (content := change(draw, original)) == original:
        pass
    return content


@contextmanager
def _changed(draw: random.Random, path: Path, change: Change, *, agree: bool = False) -> Iterator[None]:
    """The file with other content for a while; with `agree`, the manifest or card beside it takes it as it is."""
    content = _settle(draw, path.read_bytes(), change)
    files = {path: content}
    if agree:
        listing = path.with_name(CARD if path.name == WEIGHTS else MANIFEST)
        files[listing] = _agreeing(listing, path, content)
    whole = {path: path.read_bytes() for path in files}
    try:
        for file, changed in files.items():
            file.write_bytes(changed)
        yield
    finally:
        for file, original in whole.items():
            file.write_bytes(original)


def _agreeing(listing: Path, path: Path, content: bytes) -> bytes:
    """A manifest that takes an index, or a tar without its index, as it is; or a model's card its weights."""
    told, digest = json.loads(listing.read_bytes()), hashlib.sha256(content).hexdigest()
    if listing.name == CARD:
        told["weights"] = digest
    for shard in told.get("shards", []):
        if shard["file"] == path.name:
            shard |= {"bytes": len(content), "sha256": digest, "index": ""}
        elif index_path(path.with_name(shard["file"])) == path:
            shard["index"] = digest
    return json.dumps(told).encode()


def change_shards(world: World, draw: random.Random, *, file: str, change: Change, agree: bool = False) -> str:
    """Changes a file of the shards and reads every pair; with `agree`, the manifest takes the file as it is.

    Sometimes they are checked before, or trained on for a step.
    """
    expected, outcome, folder = world.pairs, "right", world.folder / "shards"
    with _changed(draw, folder / file, change, agree=agree):
        also = draw.randrange(3)
        if also == 0 and any("allocate" in problem for problem in check(folder)):
            raise Fault("check wants memory")
        if also == 1:
            _read_streamed(folder)
        Shards.open(folder).labels()
        for key, found in world.read_pairs():
            if not _alike(found, expected.get(key)):
                if not agree and file != MANIFEST:
                    raise Fault(f"pair {key!r} has other values")
                outcome = "sound"
    return outcome


def _read_streamed(folder: Path) -> None:
    """A step of a training that takes another pair for one that cannot be read."""
    shards = Shards.open(folder)
    plan = Plan(len(shards), 2, shard_starts=tuple(shards.starts[:-1].tolist()))
    for part in PairStream(shards, _open_views(shards), plan, crop=Crop(), last_step=1, skip_unreadable=True):
        if isinstance(part, SampleBatch):
            _alike(part.adapted, None)


def change_features(world: World, draw: random.Random, *, file: str, change: Change, agree: bool = False) -> str:
    """The same for a folder of features."""
    expected = world.features
    with _changed(draw, world.folder / "features" / file, change, agree=agree):
        found = [*world.read_features()]
    if len(found) == len(expected) and all(map(_alike, found, expected)):
        return "right"
    if not agree and file != MANIFEST:
        raise Fault("features have other values")
    return "sound"


def change_mark(world: World, draw: random.Random) -> str:
    """What says that a tar of features is done: read as done or not, or named."""
    tar = world.folder / "features" / "000000.tar"
    with _changed(draw, tar.with_suffix(MARK), change_json):
        return "sound" if is_done(tar) else "named"


def change_model(world: World, draw: random.Random, *, file: str, change: Change, agree: bool = False) -> str:
    """Changes a file of an exported model and loads it; with `agree`, the card takes the weights as they are."""
    expected, folder = world.model, world.folder / "model"
    with _changed(draw, folder / file, change, agree=agree):
        if agree:  # finite weights of any size are weights
            _alike(load_model(folder).encoder.state_dict(), None)
            return "sound"
        found = world.read_model()
    if _alike(found, expected):
        return "right"
    if file == WEIGHTS:
        raise Fault("the model gives other values")
    return "sound"


def change_payload(
    world: World, draw: random.Random, *, name: str, modality: str, payload: bytes, change: Change, checked: bool
) -> str:
    """Changes a file of a signal and decodes it; `checked` formats have checksums, so that values are the same."""
    decoder = MODALITIES.get(modality)(**OPTIONS[modality])
    whole = decoder.decode(payload)
    found = decoder.decode(_settle(draw, payload, change))
    if found.dtype != torch.float32 or found.ndim != whole.ndim or len(found) > 8 or not found.numel():
        raise Fault(f"{name} decodes to {found.dtype} {list(found.shape)}")
    low, high = {"rgb": (0, 1), "depth": (0, float("inf")), "audio": (-1, 1)}[modality]
    if not ((found >= low) & (found <= high)).all():
        raise Fault(f"{name} has values outside {low} to {high}")
    if _alike({"signal": found}, {"signal": whole}):
        return "right"
    if checked:
        raise Fault(f"{name} has other values")
    _alike({"adapted": decoder.adapt(found, CropBox())}, None)
    return "sound"


def change_facts(world: World, draw: random.Random) -> str:
    """Changes a JSON member."""
    shards = Shards.open(world.folder / "shards")
    told = b'{"group": "g0", "label": 1, "position": [0.5, 1], "name": "x"}'
    facts = shards.parse(0, _settle(draw, told, change_json))
    if type(facts["label"]) is not int or not -1 <= facts["label"] < 3:
        raise Fault(f"label is {facts['label']!r}")
    return "right" if facts == json.loads(told) else "sound"


def payloads() -> dict[str, tuple[str, bytes]]:
    """A small file of each format that is read: its modality and bytes."""
    random_ = np.random.default_rng(0)
    pixels = random_.integers(0, 256, (SIDE + 3, SIDE, 3), dtype=np.uint8)
    depth = random_.integers(900, 2000, (SIDE, SIDE + 3), dtype=np.uint16)
    sound = random_.uniform(-0.5, 0.5, (400, 2))
    found: dict[str, tuple[str, bytes]] = {}

    def picture(name: str, image: Image.Image, kind: str, **options: Any) -> None:
        with io.BytesIO() as file:
            image.save(file, kind, **options)
            found[name] = ("depth" if image.mode.startswith("I") else "rgb"), file.getvalue()

    exif = Image.Exif()
    exif[0x0112] = 6
    picture("jpg", Image.fromarray(pixels), "JPEG", exif=exif)
    picture("jpg progressive", Image.fromarray(pixels), "JPEG", progressive=True)
    picture("jpg cmyk", Image.fromarray(pixels).convert("CMYK"), "JPEG")
    picture("png", Image.fromarray(pixels), "PNG", exif=exif)
    picture("png palette", Image.fromarray(pixels).quantize(16), "PNG", transparency=b"\0\1\2")
    picture("png grey16", Image.fromarray(depth), "PNG")
    for dtype in ("<u2", ">f4", "<f8"):
        with io.BytesIO() as file:
            np.save(file, depth.astype(dtype))
            found[f"npy {dtype[1:]}"] = "depth", file.getvalue()
    subtypes = {"wav": "PCM_16", "wav float": "FLOAT", "flac": "PCM_16", "flac24": "PCM_24", "ogg": "VORBIS"}
    for name, subtype in subtypes.items():
        with io.BytesIO() as file:
            soundfile.write(file, sound, RATE_HZ, format=name.split()[0].removesuffix("24"), subtype=subtype)
            found[name] = "audio", file.getvalue()
    return found


def kinds() -> dict[str, Kind]:
    """Every sort of mutation with its share."""
    tar, index = "000000.tar", index_path(Path("000000.tar")).name
    shards = lambda share, **options: Kind(share, partial(change_shards, **options))  # noqa: E731
    features = lambda share, **options: Kind(share, partial(change_features, **options))  # noqa: E731
    model = lambda share, **options: Kind(share, partial(change_model, **options))  # noqa: E731
    found = {
        "shards: tar": shards(4, file=tar, change=change_bytes),
        "shards: index": shards(4, file=index, change=change_bytes),
        "shards: manifest": shards(12, file=MANIFEST, change=change_json),
        "shards: header, manifest agrees": shards(10, file=tar, change=change_headers, agree=True),
        "shards: blocks, manifest agrees": shards(10, file=tar, change=change_blocks, agree=True),
        "shards: bytes, manifest agrees": shards(5, file=tar, change=change_bytes, agree=True),
        "shards: index, manifest agrees": shards(4, file=index, change=change_bytes, agree=True),
        "shards: facts": Kind(3, change_facts),
        "features: tar": features(2, file=tar, change=change_bytes),
        "features: index": features(2, file=index, change=change_bytes),
        "features: manifest": features(6, file=MANIFEST, change=change_json),
        "features: header, manifest agrees": features(2, file=tar, change=change_headers, agree=True),
        "features: bytes, manifest agrees": features(2, file=tar, change=change_bytes, agree=True),
        "features: mark": Kind(2, change_mark),
        "model: card": model(10, file=CARD, change=change_json),
        "model: weights": model(2, file=WEIGHTS, change=change_safetensors),
        "model: weights, card agrees": model(4, file=WEIGHTS, change=change_safetensors, agree=True),
    }
    files = payloads()
    for name, (modality, payload) in files.items():
        options = {"name": name, "modality": modality, "payload": payload}
        checked = name.startswith("png")
        found[f"payload: {name}"] = Kind(1, partial(change_payload, change=change_bytes, checked=checked, **options))
        if checked:
            agreeing = partial(change_payload, change=change_png, checked=False, **options)
            found[f"payload: {name}, checksums agree"] = Kind(1, agreeing)
    return found


# --- the measurement ---


@dataclass
class Tally:
    """What came of the mutations of one kind."""

    ended: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0  # of the slowest
    grown: float = 0.0  # of this process's peak memory, MB


def _wanted_memory(error: BaseException | None) -> bool:
    """Whether an error comes of more memory asked for than there is: another machine would have given it."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


class _Hang(BaseException):
    """A mutation takes far too long."""


def _stop(*_: Any) -> None:
    raise _Hang


def fuzz(world: World, name: str, kind: Kind, count: int, seed: int) -> Tally:
    """Mutations of one kind, numbered from 0; each is drawn by the seed, the kind and its number alone."""
    tally, cpu = Tally(), torch.device("cpu")
    signal.signal(signal.SIGALRM, _stop)
    for number in range(count):
        draw = random.Random(f"{seed} {name} {number}")
        held, began = peak_mb(cpu), time.process_time()
        faulthandler.dump_traceback_later(120, exit=True)  # where not even the alarm gets through
        signal.alarm(60)
        try:
            outcome = kind.run(world, draw)
        except NAMED as error:
            outcome = "fault: memory: " + str(error)[:200] if _wanted_memory(error) else "named"
        except _Hang:
            outcome = "fault: hangs"
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            outcome = f"fault: {type(error).__name__}: {str(error)[:200]} ({place.filename}, line {place.lineno})"
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()
        seconds, grown = time.process_time() - began, peak_mb(cpu) - held
        tally.seconds, tally.grown = max(tally.seconds, seconds), max(tally.grown, grown)
        if not outcome.startswith("fault") and (seconds > SECONDS or grown > MEGABYTES):
            outcome = f"fault: {seconds:.1f} s, {grown:.0f} MB"
        if outcome.startswith("fault"):
            tally.faults.append(f"{name} {number}: {outcome}")
        tally.ended[outcome.partition(":")[0]] += 1
    return tally


def measure() -> int:
    """Reads the arguments, prints a table; 1 where there are faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="mutations over all kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="", help="those whose names contain one of these, separated by commas")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("PIL").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    chosen = {name: kind for name, kind in kinds().items() if any(word in name for word in asked.kinds.split(","))}
    total = sum(kind.share for kind in chosen.values())
    tallies, began = {}, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        world = World.make(Path(folder))
        _ = world.pairs, world.features, world.model  # of the whole files
        held = peak_mb(torch.device("cpu"))
        resource.setrlimit(resource.RLIMIT_AS, (_virtual() + GUARD, -1))  # a fault must not take the machine with it
        for name, kind in chosen.items():
            tally = tallies[name] = fuzz(world, name, kind, max(1, asked.count * kind.share // total), asked.seed)
            told = ", ".join(f"{tally.ended[how]} {how}" for how in ("right", "sound", "named", "fault"))
            print(f"{name}: {told}; slowest {tally.seconds:.2f} s, {tally.grown:.0f} MB", flush=True)
            print(*(f"  {fault}" for fault in tally.faults[:20]), sep="\n", end="\n" if tally.faults else "")
    ended = sum((tally.ended for tally in tallies.values()), Counter())
    slowest, grown = max(tally.seconds for tally in tallies.values()), peak_mb(torch.device("cpu")) - held
    print(f"{ended.total()} mutations in {time.monotonic() - began:.0f} s: {dict(ended)}; slowest {slowest:.2f} s, "
          f"peak memory grew by {grown:.0f} MB")  # fmt: skip
    return 1 if ended["fault"] else 0


def _virtual() -> int:
    """Address space of this process, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(measure())
