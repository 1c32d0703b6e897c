"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html), in their binary versions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from crossmodal.sources import Numbered, Pair, Source, SourceError
from crossmodal.sources.common.stamps import digest_of
from modalities import MODALITIES, Modality
from modalities.codecs.raster import write_pixels
from modalities.common.catalogue import suggest

SIDE = 32  # pixels
PIXELS = 3 * SIDE * SIDE  # bytes of a picture in a row: first all red, then all green, then all blue


@dataclass(frozen=True)
class _Archive:
    """The file layout of one of the two data sets."""

    files: dict[str, tuple[str, ...]]  # split -> file names
    names: dict[str, tuple[str, int]]  # kind of label -> file of class names, and the label's byte in a row
    labels: int  # number of label bytes at the start of a row


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
class Cifar(Numbered, Source):
    """CIFAR-10 or CIFAR-100: 60,000 colour photographs of 32 x 32 pixels, stored as PNG without loss.

    `root` is the unpacked "binary version (suitable for C programs)": cifar-10-batches-bin or cifar-100-binary. The
    Python version is not read, because it holds pickles, which could run code.

    Raises:
        SourceError: `root` does not hold the binary version, or the data set has no such labels.
    """

    root: str  # folder with train.bin and test.bin (CIFAR-100), or data_batch_1.bin etc. (CIFAR-10)
    labels: Literal["fine", "coarse"] = "fine"  # coarse: CIFAR-100's 20 superclasses instead of its 100 classes

    def __post_init__(self) -> None:
        if self.labels not in self._archive.names:
            raise SourceError(f"labels must be fine, because CIFAR-10 has no superclasses, got {self.labels}")

    def fields(self) -> dict[str, Modality]:
        """Colour pictures."""
        return {"rgb": MODALITIES.get("rgb")()}

    def classes(self) -> tuple[str, ...]:
        """The class names in the archive, in its order."""
        path = Path(self.root) / self._archive.names[self.labels][0]
        if not path.is_file():
            raise SourceError(f"root: {path} with the class names is missing; unpack the archive again")
        return tuple(path.read_text(encoding="utf-8").split())

    def splits(self) -> tuple[str, ...]:
        """The published splits, "train" and "test"."""
        return tuple(self._archive.files)

    def digest(self) -> str:
        """A hash of the kind of labels and of each file's name, size and time; no file is read."""
        names = [name for part in self._archive.files.values() for name in part] + [self._archive.names[self.labels][0]]
        return digest_of(self.labels, map(self._existing, names))

    def dropped(self) -> list[str]:
        """Empty: no row is incomplete."""
        return []

    def numbered(self, split: str, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Pair]]:
        """The wanted pictures of a split, in the archive's order; the key is the split and the position in it.

        Raises:
            SourceError: the split is unknown, or a file is missing, cut short, or has an invalid label.
        """
        if split not in self.splits():
            raise SourceError(f"split {split!r} is not known{suggest(split, list(self.splits()))}")
        files = map(self._existing, self._archive.files[split])
        rows = chain.from_iterable(self._rows(path, len(self.classes())) for path in files)
        for number, (label, pixels) in enumerate(rows):
            if wanted(number):
                png = write_pixels(np.ascontiguousarray(pixels.reshape(3, SIDE, SIDE).transpose(1, 2, 0)), "PNG")
                yield number, Pair(f"{split}_{number:05d}", {"rgb.png": png}, label)

    @cached_property
    def _archive(self) -> _Archive:
        """The layout of the data set whose files are in `root`."""
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
        """The label and pixels of each row of a file."""
        row, place = self._archive.labels + PIXELS, self._archive.names[self.labels][1]
        payload = np.fromfile(path, np.uint8)
        if not len(payload) or len(payload) % row:
            raise SourceError(
                f"{path} must hold rows of {row} bytes, got {len(payload)} bytes; fetch the archive again"
            )
        rows = payload.reshape(-1, row)
        for number, label in enumerate(rows[:, place].tolist()):
            if label >= classes:
                raise SourceError(f"{path}: row {number} has label {label}, but there are {classes} classes")
            yield label, rows[number, self._archive.labels :]


def _what_is_there(root: Path) -> str:
    if not root.is_dir():
        return "is not a folder"
    if any((root / name).is_file() for name in ("data_batch_1", "meta", "train")):
        return "holds the Python version, whose pickles are not read"
    inside = [name for name in ("cifar-100-binary", "cifar-10-batches-bin") if (root / name).is_dir()]
    return (
        f"holds a folder {inside[0]}, which is the root" if inside else "holds neither train.bin nor data_batch_1.bin"
    )
