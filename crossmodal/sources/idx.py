"""MNIST (LeCun et al. 1998), Fashion-MNIST (Xiao et al. 2017, https://arxiv.org/abs/1708.07747), from IDX files."""

import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from crossmodal.sources import Pair, Source, SourceError
from crossmodal.sources.common.stamps import digest_of
from modalities import MODALITIES, Modality
from modalities.codecs.raster import write_pixels
from modalities.common.catalogue import suggest

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
NAMES = {
    "digits": tuple("0123456789"),
    "fashion": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
}


@dataclass(frozen=True)
class Idx(Source):
    """Grey pictures of 10 classes, 60,000 and 10,000 of 28 pixels as published, as PNG: no number changes.

    `root` holds the four files, each as it is published (.gz) or unpacked; of two that differ in that alone, the
    unpacked one is read. Debian's package dataset-fashion-mnist puts them in /usr/share/datasets/fashion-mnist.

    A file is two bytes of 0, a byte for the type (8: bytes), one for the number of dimensions, then each dimension's
    size in four bytes, the highest first, then all numbers, the last dimension's side by side.

    Raises:
        SourceError: `root` lacks a file.
    """

    root: str  # folder that holds train-images-idx3-ubyte.gz and so on
    names: Literal["digits", "fashion"] = "digits"  # of the classes: "0" to "9", or the clothes of Fashion-MNIST

    def __post_init__(self) -> None:
        for part in FILES.values():
            for name in part:
                self._existing(name)

    def fields(self) -> dict[str, Modality]:
        """The pictures; `luminance` reads the same member."""
        return {"rgb": MODALITIES.get("rgb")()}

    def classes(self) -> tuple[str, ...]:
        """The ten names, in the order of the labels."""
        return NAMES[self.names]

    def splits(self) -> tuple[str, ...]:
        """The published ones, "train" and "test"."""
        return tuple(FILES)

    def digest(self) -> str:
        """Names the classes' names, and every file by name, size and time; reads none."""
        return digest_of(self.names, (self._existing(name) for part in FILES.values() for name in part))

    def dropped(self) -> list[str]:
        """None: every picture is whole."""
        return []

    def pairs(self, split: str) -> Iterator[Pair]:
        """The pictures of a part, in the file's order; a key is the part and the place in it.

        Raises:
            SourceError: the part is unknown, or a file is no IDX file of these dimensions, is damaged or cut short,
                does not fit its companion, or has a label beyond the classes.
        """
        if split not in self.splits():
            raise SourceError(f"split {split!r} is not known{suggest(split, list(self.splits()))}")
        images, labels = (self._existing(name) for name in FILES[split])
        pictures, known = _read(images, 3), _read(labels, 1)
        if len(pictures) != len(known):
            raise SourceError(f"{labels} has {len(known)} labels, and {images.name} has {len(pictures)} pictures")
        for number in np.flatnonzero(known >= len(self.classes()))[:1]:
            raise SourceError(
                f"{labels}: picture {number} has label {known[number]}, and there are {len(self.classes())} classes"
            )
        for number, (label, pixels) in enumerate(zip(known.tolist(), pictures, strict=True)):
            yield Pair(f"{split}_{number:05d}", {"rgb.png": write_pixels(pixels, "PNG")}, label)

    def _existing(self, name: str) -> Path:
        for path in (Path(self.root) / name, Path(self.root) / f"{name}.gz"):
            if path.is_file():
                return path
        raise SourceError(
            f"root: {Path(self.root).absolute()} holds neither {name} nor {name}.gz; apt-get install "
            "dataset-fashion-mnist puts Fashion-MNIST into /usr/share/datasets/fashion-mnist"
        )


def _read(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """The bytes of an IDX file, in its shape."""
    payload = _unpack(path)
    start, header = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
    if not payload.startswith(start):
        raise SourceError(
            f"{path} must begin with {start.hex(' ')}, as IDX files of bytes in {dimensions} dimensions do, "
            f"got {payload[:4].hex(' ') or 'nothing'}"
        )
    if len(payload) < header:
        raise SourceError(f"{path} must begin with a header of {header} bytes, got {len(payload)}; fetch it again")
    shape = np.frombuffer(payload, ">u4", dimensions, 4).tolist()
    if math.prod(shape) == 0 or len(payload) != header + math.prod(shape):
        raise SourceError(
            f"{path} must hold {' x '.join(map(str, shape))} bytes, at least one, after a header of {header}, "
            f"got {len(payload) - header}; fetch it again"
        )
    return np.frombuffer(payload, np.uint8, offset=header).reshape(shape)


def _unpack(path: Path) -> bytes:
    payload = path.read_bytes()
    if path.suffix != ".gz":
        return payload
    try:
        return gzip.decompress(payload)
    except (EOFError, OSError, zlib.error) as error:
        raise SourceError(f"{path} is no gzip file, is damaged or cut short: {error}; fetch it again") from error
