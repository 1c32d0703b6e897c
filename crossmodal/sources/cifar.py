"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html), from their binary versions."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from crossmodal.sources import Pair, Source, SourceError
from crossmodal.sources.common.stamps import digest_of
from modalities import MODALITIES, Modality
from modalities.codecs.raster import write_pixels
from modalities.common.catalogue import suggest

SIDE = 32  # pixels
PIXELS = 3 * SIDE * SIDE  # bytes of a picture in a row: all red, all green, all blue


@dataclass(frozen=True)
class _Archive:
    """One of the two data sets, as its archive unpacks."""

    files: dict[str, tuple[str, ...]]  # of each part
    names: dict[str, tuple[str, int]]  # kinds of labels: file of the class names, and the label's place in a row
    labels: int  # bytes of labels at the beginning of a row


_CIFAR10 = _Archive(
    {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)},
    {"fine": ("batches.meta.txt", 0)},
    1,
)
_CIFAR100 = _Archive(
    {"train": ("train.bin",), "test": ("test.bin",)},
    {"coarse": ("coarse_label_names.txt", 0), "fine": ("fine_label_names.txt", 1)},
    2,
)


@dataclass(frozen=True)
class Cifar(Source):
    """60,000 colour photographs of 32 pixels in 10 or 100 classes, as PNG: no number changes.

    `root` is the unpacked folder of the archive "binary version (suitable for C programs)": cifar-10-batches-bin or
    cifar-100-binary. The Python version holds pickles, which could run code, and is not read.

    Raises:
        SourceError: `root` does not hold such a version, or has no labels of this kind.
    """

    root: str  # folder that holds train.bin and test.bin, or data_batch_1.bin and so on
    labels: Literal["fine", "coarse"] = "fine"  # coarse: the 20 groups of CIFAR-100's classes

    def __post_init__(self) -> None:
        if self.labels not in self._archive.names:
            raise SourceError(f"labels must be fine, for CIFAR-10 has no groups of classes, got {self.labels}")

    def fields(self) -> dict[str, Modality]:
        """Colour pictures."""
        return {"rgb": MODALITIES.get("rgb")()}

    def classes(self) -> tuple[str, ...]:
        """The names that come with the archive, in its order."""
        path = Path(self.root) / self._archive.names[self.labels][0]
        if not path.is_file():
            raise SourceError(f"root: {path} with the names of the classes is missing; unpack the archive again")
        return tuple(path.read_text(encoding="utf-8").split())

    def splits(self) -> tuple[str, ...]:
        """The published ones, "train" and "test"."""
        return tuple(self._archive.files)

    def digest(self) -> str:
        """Names the kind of labels, and every file by name, size and time; reads none."""
        names = [name for part in self._archive.files.values() for name in part] + [self._archive.names[self.labels][0]]
        return digest_of(self.labels, map(self._existing, names))

    def dropped(self) -> list[str]:
        """None: every row is whole."""
        return []

    def pairs(self, split: str) -> Iterator[Pair]:
        """The pictures of a part, in the archive's order; a key is the part and the place in it.

        Raises:
            SourceError: the part is unknown, or a file is missing, cut short, or has a label beyond the classes.
        """
        if split not in self.splits():
            raise SourceError(f"split {split!r} is not known{suggest(split, list(self.splits()))}")
        number = 0
        for name in self._archive.files[split]:
            for label, pixels in self._rows(self._existing(name), len(self.classes())):
                png = write_pixels(np.ascontiguousarray(pixels.reshape(3, SIDE, SIDE).transpose(1, 2, 0)), "PNG")
                yield Pair(f"{split}_{number:05d}", {"rgb.png": png}, label)
                number += 1

    @cached_property
    def _archive(self) -> _Archive:
        """Which of the two it is, by the files that are there."""
        root = Path(self.root)
        for archive in (_CIFAR10, _CIFAR100):
            if any((root / name).is_file() for part in archive.files.values() for name in part):
                return archive
        raise SourceError(
            f"root: {root.absolute()} {_what_is_there(root)}; fetch and unpack cifar-100-binary.tar.gz or "
            "cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html"
        )

    def _existing(self, name: str) -> Path:
        path = Path(self.root) / name
        if not path.is_file():
            raise SourceError(f"root: {path} is missing; unpack the archive again")
        return path

    def _rows(self, path: Path, classes: int) -> Iterator[tuple[int, np.ndarray]]:
        """Label and pixels of every row of a file."""
        row, place = self._archive.labels + PIXELS, self._archive.names[self.labels][1]
        payload = np.fromfile(path, np.uint8)
        if not len(payload) or len(payload) % row:
            raise SourceError(
                f"{path} must hold rows of {row} bytes, got {len(payload)} bytes; fetch the archive again"
            )
        rows = payload.reshape(-1, row)
        for number, label in enumerate(rows[:, place].tolist()):
            if label >= classes:
                raise SourceError(f"{path}: row {number} has label {label}, and there are {classes} classes")
            yield label, rows[number, self._archive.labels :]


def _what_is_there(root: Path) -> str:
    if not root.is_dir():
        return "is no folder"
    if any((root / name).is_file() for name in ("data_batch_1", "meta", "train")):
        return "holds the Python version, which is pickled and not read"
    inside = [name for name in ("cifar-100-binary", "cifar-10-batches-bin") if (root / name).is_dir()]
    return (
        f"holds a folder {inside[0]}, which is the root" if inside else "holds neither train.bin nor data_batch_1.bin"
    )
