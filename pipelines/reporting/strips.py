"""Pictures in rows, and the keys that say what their colours mean."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch

import torch
from jaxtyping import Float
from torch import Tensor

from crossmodal.data.reader import read_pair
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.evaluation.common.pictures import to_legend
from modalities import Modality
from modalities.audio import Audio
from modalities.common.numbers import RangeView
from modalities.common.picture import colour_map
from modalities.depth import Depth
from modalities.labels import Labels
from modalities.raster import Raster
from modalities.thermal import Thermal
from pipelines.reporting.pictures import BLANK, classes_of, embed_picture, legible, picture_pairs

STEPS = 96  # colours of a bar
TICKS = 5
DISTANCE = re.compile(r"[\d.e+-]+ m")


@dataclass(frozen=True)
class Shown:
    """A picture for the page."""

    source: str  # a data URI
    alt: str
    is_right: bool = False  # framed


@dataclass(frozen=True)
class Strip:
    """Pictures beside each other."""

    label: str
    pictures: Sequence[Shown]


@dataclass(frozen=True)
class ColourBar:
    """What the colours of a view mean."""

    title: str
    source: str  # a data URI
    ticks: Sequence[str]  # evenly spaced
    note: str


def pair_strips(shards: Shards, views: Mapping[str, View], indices: Sequence[int]) -> list[Strip]:
    """What each network would see of some pairs: a strip for each view, whole and as training sees it."""
    names = classes_of(shards, indices)
    strips = []
    for title, row in picture_pairs(shards, views, indices).items():
        told = [f"{legible(title)}: {name or f'pair {number}'}" for number, name in enumerate(names, 1)]
        strips.append(_strip(legible(title), [BLANK if one is None else one for one in row], told))
    return strips


def picture_strips(rows: Mapping[str, Tensor]) -> list[Strip]:
    """A strip for each row of pictures of the same pairs."""
    return [_strip(label, [*row], [f"{label}, pair {number + 1}" for number in range(len(row))])
            for label, row in rows.items()]  # fmt: skip


def retrieval_strips(
    shards: Shards, query: View, answer: View, queries: Sequence[int], found: Sequence[Sequence[int]]
) -> list[Strip]:
    """A strip for each query: what the student saw, its own pair, and the pairs that it finds; the right one framed."""
    strips = []
    for number, (index, hits) in enumerate(zip(queries, found, strict=True), 1):
        pair = read_pair(shards, {"query": query, "answer": answer}, index)
        shown = [
            Shown(embed_picture(query.modality.picture(pair.adapted["query"][0])), f"query {number}"),
            Shown(embed_picture(answer.modality.picture(pair.adapted["answer"][0])), f"query {number}: its own pair"),
        ]
        for rank, hit in enumerate(hits, 1):
            other = read_pair(shards, {"answer": answer}, hit)
            words = f"query {number}: found {rank}" + (", which is right" if hit == index else "")
            shown.append(Shown(embed_picture(answer.modality.picture(other.adapted["answer"][0])), words, hit == index))
        strips.append(Strip("", shown))
    return strips


def colour_bars(views: Mapping[str, Modality]) -> list[ColourBar]:
    """A bar for each view whose colours mean numbers."""
    return [bar for name, modality in views.items() if (bar := _bar(modality, legible(name))) is not None]


@singledispatch
def _bar(modality: Modality, title: str) -> ColourBar | None:
    """The bar of a view; None where its colours mean no numbers."""
    return None


@_bar.register
def _depth_bar(depth: Depth, title: str) -> ColourBar | None:
    ticks = [f"{distance(depth, step / (TICKS - 1)):.2g} m" for step in range(TICKS)]
    return ColourBar(title, _ramp(depth), ticks, "black: no reading")


@_bar.register
def _raster_bar(raster: Raster, title: str) -> ColourBar | None:
    return _range_bar(raster, raster.unit, title)


@_bar.register
def _thermal_bar(thermal: Thermal, title: str) -> ColourBar | None:
    return _range_bar(thermal, thermal.unit, title)


def _range_bar(view: RangeView, unit: str, title: str) -> ColourBar:
    ticks = torch.linspace(*view.span, TICKS).tolist()
    source = embed_picture(view.picture(torch.linspace(*view.span, STEPS)[None, None]))
    return ColourBar(title, source, [f"{tick:.3g} {unit}".strip() for tick in ticks], "black: no reading")


@_bar.register
def _audio_bar(audio: Audio, title: str) -> ColourBar | None:
    ramp = embed_picture(colour_map(torch.linspace(0, 1, STEPS)[None], "magma"))
    return ColourBar(title, ramp, ["soft", "loud"], "low frequencies at the bottom")


def class_legends(views: Mapping[str, Modality]) -> dict[str, dict[str, str]]:
    """The colour of each class, for each view of labels of pixels."""
    return {
        legible(name): to_legend([*map(legible, modality.classes)], _all_classes(modality))
        for name, modality in views.items()
        if isinstance(modality, Labels) and modality.classes
    }


def _all_classes(labels: Labels) -> Float[Tensor, "3 1 classes"]:
    return labels.picture(torch.arange(len(labels.classes)).float()[None, None])


def legend_bar(title: str, legend: Mapping[str, str]) -> ColourBar | None:
    """The bar of a legend of distances; None where the legend is of something else."""
    ticks = [label for label in legend if DISTANCE.fullmatch(label)]
    if len(ticks) < 2:
        return None
    note = "; ".join(f"{_named(legend[label])}: {label}" for label in legend if label not in ticks)
    return ColourBar(title, _ramp(Depth()), ticks, note)


def _ramp(depth: Depth) -> str:
    """All colours of a view of depth, from the nearest to the farthest."""
    metres = torch.tensor([distance(depth, step / (STEPS - 1)) for step in range(STEPS)])
    return embed_picture(depth.picture(metres[None, None]))


def _named(colour: str) -> str:
    return {"#000000": "black", "#ffffff": "white"}.get(colour, colour)


def distance(depth: Depth, share: float) -> float:
    """The distance in metres at a share of the way from the nearest to the farthest that the view shows."""
    near, far = depth.min_m, depth.max_m
    if depth.scale == "log":
        return near * (far / near) ** share
    if depth.scale == "inverse":
        return 1 / (1 / near + share * (1 / far - 1 / near))
    return near + share * (far - near)


def _strip(label: str, pictures: Sequence[Tensor], alts: Sequence[str]) -> Strip:
    return Strip(label, [Shown(embed_picture(picture), alt) for picture, alt in zip(pictures, alts, strict=True)])
