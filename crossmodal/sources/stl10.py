"""STL-10 (Coates et al. 2011, https://cs.stanford.edu/~acoates/stl10/), in its binary files."""

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

SIDE = 96  # pixels
PIXELS = 3 * SIDE * SIDE  # bytes of a picture: first all red, then all green, then all blue, each column by column
NAMES = "class_names.txt"
FILES = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "unlabeled_X.bin", NAMES)


@dataclass(frozen=True)
class Stl10(Numbered, Source):
    """STL-10: 13,000 colour photographs of 96 x 96 pixels in 10 classes and 100,000 unlabelled, as lossless PNG.

    `root` is the unpacked folder of stl10_binary.tar.gz. Its fold_indices.txt is not read.

    Raises:
        SourceError: `root` lacks a file, or a file's size does not fit its pictures or labels.
    """

    root: str  # folder with train_X.bin, train_y.bin, unlabeled_X.bin and the other files
    train: Literal["labelled", "both"] = "labelled"  # both: the split "train" also has the unlabelled pictures

    def __post_init__(self) -> None:
        root = Path(self.root)
        if not any((root / name).is_file() for name in FILES):
            raise SourceError(
                f"root: {root.absolute()} {_what_is_there(root)}; fetch and unpack stl10_binary.tar.gz from "
                "https://cs.stanford.edu/~acoates/stl10/"
            )
        for name in FILES:
            if not (root / name).is_file():
                raise SourceError(f"root: {root / name} is missing; unpack the archive again")
        for kind in ("train", "test", "unlabeled"):
            self._check_sizes(kind)

    def fields(self) -> dict[str, Modality]:
        """Colour pictures."""
        return {"rgb": MODALITIES.get("rgb")()}

    def classes(self) -> tuple[str, ...]:
        """The class names in the archive, in its order."""
        return tuple((Path(self.root) / NAMES).read_text(encoding="utf-8").split())

    def splits(self) -> tuple[str, ...]:
        """The published splits, "train", "test" and "unlabeled"; only "train" and "test" if `train` is both."""
        return tuple(self._kinds)

    def digest(self) -> str:
        """A hash of the option `train` and of each file's name, size and time; no file is read."""
        return digest_of(self.train, (Path(self.root) / name for name in FILES))

    def dropped(self) -> list[str]:
        """Empty: no picture is incomplete."""
        return []

    def numbered(self, split: str, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Pair]]:
        """The wanted pictures of a split, in the files' order; the key is the file and the position in it.

        Raises:
            SourceError: the split is unknown, or a label is invalid.
        """
        if split not in self.splits():
            raise SourceError(f"split {split!r} is not known{suggest(split, list(self.splits()))}")
        first = 0
        for kind in self._kinds[split]:
            pictures = self._pictures(kind)
            labels = [-1] * len(pictures) if kind == "unlabeled" else self._labels(kind)
            for number, (label, pixels) in enumerate(zip(labels, pictures, strict=True)):
                if wanted(first + number):
                    png = write_pixels(np.ascontiguousarray(pixels), "PNG")
                    yield first + number, Pair(f"{kind}_{number:06d}", {"rgb.png": png}, label)
            first += len(pictures)

    @property
    def _kinds(self) -> dict[str, tuple[str, ...]]:
        """The name prefixes of the files that make up each split."""
        if self.train == "both":
            return {"train": ("train", "unlabeled"), "test": ("test",)}
        return {kind: (kind,) for kind in ("train", "test", "unlabeled")}

    def _check_sizes(self, kind: str) -> None:
        pictures, labels = (Path(self.root) / f"{kind}_{letter}.bin" for letter in "Xy")
        count, rest = divmod(size := pictures.stat().st_size, PIXELS)
        if rest or not count:
            raise SourceError(
                f"{pictures} must hold pictures of {PIXELS} bytes, got {size} bytes; unpack the archive again"
            )
        if kind != "unlabeled" and (size := labels.stat().st_size) != count:
            raise SourceError(
                f"{labels} must hold a byte for each of the {count} pictures of {pictures.name}, got {size} bytes; "
                "unpack the archive again"
            )

    def _pictures(self, kind: str) -> UInt8[np.ndarray, "count 96 96 3"]:
        """A memory map [count, height, width, colour] of the file; the unlabelled pictures take 2.8 GB."""
        path = Path(self.root) / f"{kind}_X.bin"
        return np.memmap(path, np.uint8, "r").reshape(-1, 3, SIDE, SIDE).transpose(0, 3, 2, 1)

    def _labels(self, kind: str) -> list[int]:
        """The labels of all pictures, from 0; the files count from 1."""
        path, classes = Path(self.root) / f"{kind}_y.bin", len(self.classes())
        labels = np.fromfile(path, np.uint8)
        for number in np.flatnonzero((labels < 1) | (labels > classes))[:1]:
            raise SourceError(
                f"{path}: picture {number} has label {labels[number]}, but {NAMES} has names for labels 1 to {classes}"
            )
        return [int(label) - 1 for label in labels]


def _what_is_there(root: Path) -> str:
    if not root.is_dir():
        return "is not a folder"
    if (root / "stl10_binary").is_dir():
        return "holds a folder stl10_binary, which is the root"
    if (root / "train.mat").is_file():
        return "holds the Matlab version, which is not read"
    return "holds no train_X.bin"
