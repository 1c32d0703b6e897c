"""Rendered scenes of a few solids, as the sensor of each modality would record them; for tests and first runs."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from crossmodal.sources import Numbered, Pair, Source, SourceError
from modalities import MODALITIES, Modality
from modalities.common.catalogue import suggest
from modalities.common.picture import PictureSize
from modalities.common.random import generator
from modalities.synthetic.scene import SHAPES, draw_scene


@dataclass(frozen=True)
class Synthetic(PictureSize, Numbered, Source):
    """Rendered scenes of one or two solids in front of a wall; the class is the shape of the first.

    A pair depends only on the seed, its split and its number, so a larger data set starts with the same pairs.

    Raises:
        SourceError: an option is out of its range, or a modality is unknown.
    """

    modalities: tuple[str, ...] = ("rgb", "depth", "audio")  # what to record; modalities may share a stored field
    train_pairs: int = 512  # pairs in the split "train"
    test_pairs: int = 256  # pairs in the split "test"; 0: there is no such split
    size: int | None = None  # side of square pictures, in pixels; null: 64, unless height and width are given
    height: int | None = None  # height of the pictures in pixels; with width, replaces size
    width: int | None = None  # width of the pictures in pixels; with height, replaces size
    seed: int = 0  # seed of everything random
    labelled: bool = True  # false: the pairs are unlabelled

    def __post_init__(self) -> None:
        if not self.modalities:
            raise SourceError(f"modalities must name at least one of {', '.join(MODALITIES.names())}, got none")
        for name in self.modalities:
            if name not in MODALITIES.names():
                raise SourceError(f"modalities: {name!r} is not known{suggest(name, MODALITIES.names())}")
        if self.train_pairs < 1 or self.test_pairs < 0:
            raise SourceError(
                f"train_pairs must be above 0 and test_pairs at least 0, got {self.train_pairs} and {self.test_pairs}"
            )
        try:
            self.check_size(least=8)
        except ValueError as error:
            raise SourceError(str(error)) from None

    def fields(self) -> dict[str, Modality]:
        """The fields that `modalities` read; each is stored by the modality of the same name as the field."""
        return dict(self._modalities)

    def classes(self) -> tuple[str, ...]:
        """The shapes; empty if `labelled` is false."""
        return SHAPES if self.labelled else ()

    def splits(self) -> tuple[str, ...]:
        """The split "train" and, unless `test_pairs` is 0, "test"."""
        return ("train", "test") if self.test_pairs else ("train",)

    def digest(self) -> str:
        """A hash of the options."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()

    def dropped(self) -> list[str]:
        """Empty: every pair is complete."""
        return []

    def numbered(self, split: str, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Pair]]:
        """The wanted pairs of a split with their numbers, rendered one by one.

        Raises:
            SourceError: the split is unknown.
        """
        if split not in self.splits():
            raise SourceError(f"split {split!r} is not known{suggest(split, list(self.splits()))}")
        for index in filter(wanted, range(self.train_pairs if split == "train" else self.test_pairs)):
            height, width = self.sides
            scene = draw_scene(generator(self.seed, split, index), size=height, width=width)
            members = {
                f"{field}.{modality.extensions[0]}": modality.encode(modality.render(scene))
                for field, modality in self._modalities.items()
            }
            yield index, Pair(f"{split}_{index:06d}", members, scene.label if self.labelled else -1)

    @cached_property
    def _modalities(self) -> dict[str, Modality]:
        known = MODALITIES.names()
        kinds: list[type[Any]] = [MODALITIES.get(name) for name in self.modalities]
        # luminance and chrominance store what rgb stores; the manifest should name it rgb
        return {kind.field: (MODALITIES.get(kind.field) if kind.field in known else kind)() for kind in kinds}
