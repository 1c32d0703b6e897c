"""Rendered scenes: the same few solids as every modality's sensor would tell of them. For tests and first runs."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from crossmodal.sources import Pair, Source, SourceError
from modalities import MODALITIES, Modality
from modalities.common.catalogue import suggest
from modalities.common.picture import PictureSize
from modalities.common.random import generator
from modalities.synthetic.scene import SHAPES, draw_scene


@dataclass(frozen=True)
class Synthetic(PictureSize, Source):
    """Solids before a wall, seen, ranged and heard; what the first solid is, is the class.

    A pair depends on the seed, its part and its number alone: more pairs begin with the same ones.

    Raises:
        SourceError: an option is out of its range, or a modality unknown.
    """

    modalities: tuple[str, ...] = ("rgb", "depth", "audio")  # which sensors; those that share a member give one
    train_pairs: int = 512  # pairs of the part "train"
    test_pairs: int = 256  # pairs of the part "test"; 0: there is none
    size: int | None = None  # pixels a side of square pictures; null: 64, unless height and width are given
    height: int | None = None  # of the pictures, pixels, with width in place of size
    width: int | None = None  # of the pictures, pixels, with height in place of size
    seed: int = 0  # of everything drawn
    labelled: bool = True  # false: the pairs have no class

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
        """What the modalities asked for read, each stored by the modality that is called as the member is."""
        return dict(self._modalities)

    def classes(self) -> tuple[str, ...]:
        """The shapes, or nothing."""
        return SHAPES if self.labelled else ()

    def splits(self) -> tuple[str, ...]:
        """A part to train on and, unless it has no pairs, one to test on."""
        return ("train", "test") if self.test_pairs else ("train",)

    def digest(self) -> str:
        """Names the options."""
        told = {name: value for name, value in asdict(self).items() if value is not None}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def dropped(self) -> list[str]:
        """None: every pair is whole."""
        return []

    def pairs(self, split: str) -> Iterator[Pair]:
        """The pairs of a part, rendered as they are asked for.

        Raises:
            SourceError: the part is unknown.
        """
        if split not in self.splits():
            raise SourceError(f"split {split!r} is not known{suggest(split, list(self.splits()))}")
        for index in range(self.train_pairs if split == "train" else self.test_pairs):
            height, width = self.sides
            scene = draw_scene(generator(self.seed, split, index), size=height, width=width)
            yield Pair(
                key=f"{split}_{index:06d}",
                members={
                    f"{field}.{modality.extensions[0]}": modality.encode(modality.render(scene))
                    for field, modality in self._modalities.items()
                },
                label=scene.label if self.labelled else -1,
            )

    @cached_property
    def _modalities(self) -> dict[str, Modality]:
        known = MODALITIES.names()
        kinds: list[type[Any]] = [MODALITIES.get(name) for name in self.modalities]
        # luminance and chrominance store what rgb does; a manifest should call that rgb
        return {kind.field: (MODALITIES.get(kind.field) if kind.field in known else kind)() for kind in kinds}
