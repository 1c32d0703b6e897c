"""STL-10 (Coates et al. 2011, https://cs.stanford.edu/~acoates/stl10/), from its binary files."""

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

SIDE = 96  # pixels
PIXELS = 3 * SIDE * SIDE  # bytes of a picture: all red, all green, all blue, each column after column
NAMES = "class_names.txt"
FILES = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "unlabeled_X.bin", NAMES)


@dataclass(frozen=True)
class Stl10(Source):
    """13,000 colour photographs of 96 pixels in 10 classes and 100,000 without a label, as PNG: no number changes.

    `root` is the unpacked folder of stl10_binary.tar.gz. Its fold_indices.txt is not read.

    Raises:
        SourceError: `root` does not hold these files, or one is not as long as its pictures or labels are.
    """

    root: str  # folder that holds train_X.bin, unlabeled_X.bin and so on
    train: Literal["labelled", "both"] = "labelled"  # both: then the unlabelled ones follow in the part "train"

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
        """The names that come with the archive, in its order."""
        return tuple((Path(self.root) / NAMES).read_text(encoding="utf-8").split())

    def splits(self) -> tuple[str, ...]:
        """The published ones, "train", "test" and "unlabeled"; where `train` is both, "train" and "test"."""
        return tuple(self._kinds)

    def digest(self) -> str:
        """Names what the part "train" holds, and every file by name, size and time; reads none."""
        return digest_of(self.train, (Path(self.root) / name for name in FILES))

    def dropped(self) -> list[str]:
        """None: every picture is whole."""
        return []

    def pairs(self, split: str) -> Iterator[Pair]:
        """The pictures of a part, in the files' order; a key is the file and the place in it, for either `train`.

        Raises:
            SourceError: the part is unknown, or a label is none of the classes.
        """
        if split not in self.splits():
            raise SourceError(f"split {split!r} is not known{suggest(split, list(self.splits()))}")
        for kind in self._kinds[split]:
            pictures = self._pictures(kind)
            labels = [-1] * len(pictures) if kind == "unlabeled" else self._labels(kind)
            for number, (label, pixels) in enumerate(zip(labels, pictures, strict=True)):
                png = write_pixels(np.ascontiguousarray(pixels), "PNG")
                yield Pair(f"{kind}_{number:06d}", {"rgb.png": png}, label)

    @property
    def _kinds(self) -> dict[str, tuple[str, ...]]:
        """What a part is put together from: the beginnings of files' names."""
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
        """[count, height, width, colour], a view of the file: the unlabelled ones are 2.8 GB."""
        path = Path(self.root) / f"{kind}_X.bin"
        return np.memmap(path, np.uint8, "r").reshape(-1, 3, SIDE, SIDE).transpose(0, 3, 2, 1)

    def _labels(self, kind: str) -> list[int]:
        """Of all pictures; the files count from 1."""
        path, classes = Path(self.root) / f"{kind}_y.bin", len(self.classes())
        labels = np.fromfile(path, np.uint8)
        for number in np.flatnonzero((labels < 1) | (labels > classes))[:1]:
            raise SourceError(
                f"{path}: picture {number} has label {labels[number]}, and {NAMES} gives names to 1 to {classes}"
            )
        return [int(label) - 1 for label in labels]


def _what_is_there(root: Path) -> str:
    if not root.is_dir():
        return "is no folder"
    if (root / "stl10_binary").is_dir():
        return "holds a folder stl10_binary, which is the root"
    if (root / "train.mat").is_file():
        return "holds the version for Matlab, which is not read"
    return "holds no train_X.bin"
