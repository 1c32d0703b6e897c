"""MNIST (LeCun et al. 1998), Fashion-MNIST (Xiao et al. 2017, https://arxiv.org/abs/1708.07747), as IDX files."""

import gzip
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from crossmodal.sources import Numbered, Pair, Source, SourceError
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
class Idx(Numbered, Source):
    """MNIST, Fashion-MNIST or other grey pictures in IDX files, in 10 classes, stored as PNG without loss.

    `root` holds the four files, each packed (.gz) or unpacked; if both exist, the unpacked one is read. Debian's
    package dataset-fashion-mnist puts them into /usr/share/datasets/fashion-mnist.

    A file starts with two zero bytes, a byte for the type (8: bytes) and a byte for the number of dimensions. The size
    of each dimension follows in four bytes (big-endian), then all numbers in C order.

    Raises:
        SourceError: `root` lacks a file.
    """

    root: str  # folder with train-images-idx3-ubyte.gz and the other three files
    names: Literal["digits", "fashion"] = "digits"  # class names: "0" to "9", or those of Fashion-MNIST

    def __post_init__(self) -> None:
        for part in FILES.values():
            for name in part:
                self._existing(name)

    def fields(self) -> dict[str, Modality]:
        """The pictures, as `rgb`; the modality `luminance` reads the same files."""
        return {"rgb": MODALITIES.get("rgb")()}

    def classes(self) -> tuple[str, ...]:
        """The ten names, in the order of the labels."""
        return NAMES[self.names]

    def splits(self) -> tuple[str, ...]:
        """The published splits, "train" and "test"."""
        return tuple(FILES)

    def digest(self) -> str:
        """A hash of `names` and of each file's name, size and time; no file is read."""
        return digest_of(self.names, (self._existing(name) for part in FILES.values() for name in part))

    def dropped(self) -> list[str]:
        """Empty: no picture is incomplete."""
        return []

    def numbered(self, split: str, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Pair]]:
        """The wanted pictures of a split, in the file's order; the key is the split and the position in it.

        Raises:
            SourceError: the split is unknown, or a file is not an IDX file of these dimensions, is damaged, has
                another number of rows than its companion, or has an invalid label.
        """
        if split not in self.splits():
            raise SourceError(f"split {split!r} is not known{suggest(split, list(self.splits()))}")
        images, labels = (self._existing(name) for name in FILES[split])
        pictures, known = _read(images, 3), _read(labels, 1)
        if len(pictures) != len(known):
            raise SourceError(f"{labels} has {len(known)} labels, but {images.name} has {len(pictures)} pictures")
        for number in np.flatnonzero(known >= len(self.classes()))[:1]:
            raise SourceError(
                f"{labels}: picture {number} has label {known[number]}, but there are {len(self.classes())} classes"
            )
        for number, (label, pixels) in enumerate(zip(known.tolist(), pictures, strict=True)):
            if wanted(number):
                yield number, Pair(f"{split}_{number:05d}", {"rgb.png": write_pixels(pixels, "PNG")}, label)

    def _existing(self, name: str) -> Path:
        for path in (Path(self.root) / name, Path(self.root) / f"{name}.gz"):
            if path.is_file():
                return path
        raise SourceError(
            f"root: {Path(self.root).absolute()} holds neither {name} nor {name}.gz; apt-get install "
            "dataset-fashion-mnist puts Fashion-MNIST into /usr/share/datasets/fashion-mnist"
        )


def _read(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """The numbers of an IDX file, in its shape."""
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
        raise SourceError(f"{path} is not a gzip file, or is damaged or cut short: {error}; fetch it again") from error
