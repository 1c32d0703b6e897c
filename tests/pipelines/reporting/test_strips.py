"""Pictures in rows, and keys of depth whose colours are those of the pictures."""

import base64
import io
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from crossmodal import SOURCES
from crossmodal.data.reader import open_view
from crossmodal.data.shards import Shards
from crossmodal.data.writer import write_shards
from modalities import MODALITIES
from modalities.depth import Depth
from pipelines.reporting.strips import (
    STEPS,
    Shown,
    class_legends,
    colour_bars,
    legend_bar,
    picture_strips,
    retrieval_strips,
)


def pixels(source: str) -> Tensor:
    """A data URI as bytes [3, height, width]."""
    return pil_to_tensor(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


@pytest.mark.parametrize("scale", ["log", "linear", "inverse"])
def test_a_bar_of_depth_has_the_colour_of_every_distance_at_its_place(scale: str) -> None:
    depth = Depth(size=4, min_m=0.5, max_m=8.0, scale=scale)  # type: ignore[arg-type]
    (bar,) = colour_bars({"front": depth, "rgb": MODALITIES.get("rgb")(size=4)})
    forward = {"log": math.log, "linear": float, "inverse": lambda metres: -1 / metres}[scale]
    shown, ends = pixels(bar.source)[:, 0].float(), (forward(0.5), forward(8.0))
    for metres in (0.5, 0.7, 1.0, 2.0, 4.0, 6.5, 8.0):
        place = round((forward(metres) - ends[0]) / (ends[1] - ends[0]) * (STEPS - 1))
        expected = 255 * depth.picture(torch.full((1, 1, 1), metres))[:, 0, 0]
        assert (shown[:, place] - expected).abs().max() <= 8  # half a step of 96
    middle = {"log": "2 m", "linear": "4.2 m", "inverse": "0.94 m"}[scale]
    assert bar.title == "front" and (bar.ticks[0], bar.ticks[2], bar.ticks[-1]) == ("0.5 m", middle, "8 m")


def test_a_bar_of_a_raster_has_its_unit_and_the_colour_of_every_number_at_its_place() -> None:
    raster = MODALITIES.get("raster")(size=4, unit="mm", low=-10.0, high=30.0)
    (bar,) = colour_bars({"height": raster})
    assert bar.ticks == ["-10 mm", "0 mm", "10 mm", "20 mm", "30 mm"]
    shown = pixels(bar.source)[:, 0].float()
    for number in (-10.0, -3.0, 0.0, 12.0, 30.0):
        expected = 255 * raster.picture(torch.full((1, 1, 1), number))[:, 0, 0]
        assert (shown[:, round((number + 10) / 40 * (STEPS - 1))] - expected).abs().max() <= 8


def test_a_bar_of_temperatures_is_in_kelvin() -> None:
    (bar,) = colour_bars({"heat": MODALITIES.get("thermal")(size=4, low=280.0, high=300.0)})
    assert bar.ticks == ["280 K", "285 K", "290 K", "295 K", "300 K"]


def test_a_legend_of_distances_is_a_bar_and_one_of_classes_is_not() -> None:
    bar = legend_bar("depth", {"no truth": "#000000", "0.3 m": "#7a0403", "1.7 m": "#a4fc3c", "10 m": "#30123b"})
    assert bar is not None and bar.ticks == ["0.3 m", "1.7 m", "10 m"] and bar.note == "black: no truth"
    shown = pixels(bar.source)[:, 0].int()
    for place, colour in ((0, 0x7A0403), ((STEPS - 1) // 2, 0xA4FC3C), (-1, 0x30123B)):
        expected = torch.tensor([colour >> 16, colour >> 8 & 255, colour & 255])
        assert (shown[:, place] - expected).abs().max() <= 12
    assert legend_bar("classes", {"wall": "#ff0000", "3 metres": "#00ff00"}) is None


def test_sound_has_a_bar_and_classes_of_pixels_have_a_legend() -> None:
    names = ("wall", "floor", "ball")
    labels = MODALITIES.get("labels")(size=4, classes=names)
    views = {"ear": MODALITIES.get("audio")(), "truth": labels}
    (bar,) = colour_bars(views)
    assert (bar.title, bar.ticks) == ("ear", ["soft", "loud"])
    assert pixels(bar.source).sum(0).diff().min() >= 0  # the louder, the brighter
    (legend,) = class_legends(views).values()
    for number, name in enumerate(names):
        red, green, blue = (255 * labels.picture(torch.full((1, 1, 1), float(number)))).round().int().flatten().tolist()
        assert legend[name] == f"#{red:02x}{green:02x}{blue:02x}"


def test_every_picture_of_a_strip_says_what_it_shows() -> None:
    (strip,) = picture_strips({"ours": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)})
    assert strip.label == "ours" and [one.alt for one in strip.pictures] == ["ours, pair 1", "ours, pair 2"]


def test_a_query_is_shown_with_its_pair_and_what_it_finds_and_the_right_one_is_framed(tmp_path: Path) -> None:
    source = SOURCES.get("synthetic")(train_pairs=4, test_pairs=1, size=16, modalities=("rgb", "depth"))
    write_shards(source.pairs("train"), tmp_path / "pairs", fields=source.fields(), classes=source.classes())
    shards = Shards.open(tmp_path / "pairs")
    depth, rgb = (open_view(shards, name, size=16) for name in ("depth", "rgb"))
    strips = retrieval_strips(shards, depth, rgb, [2, 0], [[3, 2], [1, 3]])
    assert [[one.is_right for one in strip.pictures] for strip in strips] == [[False] * 3 + [True], [False] * 4]
    query, own, _, right = strips[0].pictures
    assert own.source == right.source != query.source and right.alt == "query 1: found 2, which is right"
    assert query == Shown(query.source, "query 1") and strips[1].pictures[2].alt == "query 2: found 1"
