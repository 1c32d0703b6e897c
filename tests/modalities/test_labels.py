"""Labels: indices and legend colours as they are stored, no label as -1, crops that mix nothing, refusals by name."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from modalities import CropBox, DecodeError
from modalities.common.random import generator
from modalities.depth import Depth
from modalities.labels import Labels
from modalities.synthetic.render import render_distance
from modalities.synthetic.scene import SCENE_CLASSES, draw_scene

ABC = ("a", "b", "c")
LEGEND = ("#ff0000", "#00ff00", "#0a0b0c")


def png(values: np.ndarray, bits: int = 8, colour: int = 0, palette: np.ndarray | None = None) -> bytes:
    """A PNG of these numbers, written by the PNG specification alone: grey (0), RGB (2) or palette (3)."""
    height, width = values.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    elif bits == 8:
        rows = [row.astype(np.uint8).tobytes() for row in values]
    else:
        digits = (values[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(height, -1).astype(np.uint8)
        rows = [np.packbits(row).tobytes() for row in digits]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))]
    chunks += [(b"PLTE", palette.astype(np.uint8).tobytes())] if palette is not None else []
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def rgb_png(colours: list[list[str]]) -> bytes:
    return png(np.array([[[*bytes.fromhex(colour[1:])] for colour in row] for row in colours]), colour=2)


def test_the_writer_of_these_tests_writes_png():
    values = np.arange(6).reshape(2, 3)
    for bits in (4, 8, 16):
        with Image.open(io.BytesIO(png(values * 2, bits))) as image:
            assert np.array_equal(np.array(image) // (17 if bits == 4 else 1), values * 2)


@pytest.mark.parametrize(("bits", "colour"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (1, 3), (2, 3), (4, 3), (8, 3)])
def test_a_class_is_the_stored_number_whatever_the_bits_and_the_palette(bits, colour):
    count = min(1 << bits, 1000)
    values = np.random.default_rng(0).integers(count, size=(5, 7))
    palette = np.random.default_rng(1).integers(256, size=(1 << min(bits, 8), 3)) if colour == 3 else None

    classes = Labels(classes=tuple(map(str, range(count))), ignore=65535).decode(png(values, bits, colour, palette))

    assert classes.dtype == torch.float32 and classes.shape == (1, 5, 7)
    assert classes[0].tolist() == values.tolist()


@pytest.mark.parametrize("ignore", [0, 1, 3, 255])
def test_classes_are_the_stored_numbers_in_order_without_the_ignored_one(ignore):
    stored = [value for value in (0, 1, 2, 3) if value != ignore][:3]
    values = np.array([[*stored, ignore]])

    classes = Labels(classes=ABC, ignore=ignore).decode(png(values))

    assert classes.tolist() == [[[0, 1, 2, -1]]]


def test_other_numbers_are_refused_with_the_classes_there_are():
    with pytest.raises(DecodeError, match=r"values from 0 to 2, of 3 classes, or ignore=255, got 7 in 2 of 4 pixels"):
        Labels(classes=ABC).decode(png(np.array([[0, 7], [255, 7]])))
    with pytest.raises(DecodeError, match=r"values from 1 to 3, of 3 classes, or ignore=0, got 4 in 1 of 2 pixels"):
        Labels(classes=ABC, ignore=0).decode(png(np.array([[0, 4]])))


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "LA"])
def test_colours_in_place_of_indices_are_refused(kind):
    with io.BytesIO() as file:
        Image.new(kind, (4, 4)).save(file, "PNG")
        payload = file.getvalue()
    with pytest.raises(DecodeError, match=r"must hold a class index a pixel, .* give them as colours, one for each"):
        Labels(classes=ABC).decode(payload)


def test_a_jpeg_is_refused():
    with io.BytesIO() as file:
        Image.new("L", (4, 4)).save(file, "JPEG")
        payload = file.getvalue()
    for labels in (Labels(classes=ABC), Labels(classes=ABC, colours=LEGEND)):
        with pytest.raises(DecodeError, match="a label map must be a PNG, which loses nothing, got JPEG"):
            labels.decode(payload)


@pytest.mark.parametrize(("count", "ignore", "fits"), [(255, 255, True), (256, 255, False), (256, 300, True)])
def test_more_classes_than_eight_bits_hold_need_sixteen(count, ignore, fits):
    labels = Labels(classes=tuple(map(str, range(count))), ignore=ignore)
    values = np.zeros((2, 2), dtype=int)
    assert not labels.decode(png(values, 16)).any()
    if fits:
        assert not labels.decode(png(values, 8)).any()
        return
    with pytest.raises(DecodeError, match=r"256 classes with ignore=255 are stored as values up to 256, .* 16"):
        labels.decode(png(values, 8))


def test_a_legend_s_colours_are_its_classes_and_black_is_no_label():
    labels = Labels(classes=ABC, colours=LEGEND)
    rows = [["#00ff00", "#ff0000"], ["#000000", "#0a0b0c"], ["#FF0000", "#000000"]]

    assert labels.decode(rgb_png(rows)).tolist() == [[[1, 0], [-1, 2], [0, -1]]]
    palette = np.array([[0, 0, 0], [10, 11, 12], [0, 255, 0]])
    assert labels.decode(png(np.array([[2, 1, 0]]), 8, 3, palette)).tolist() == [[[1, 2, -1]]]


def test_black_may_be_a_class_and_grey_a_legend():
    labels = Labels(classes=("background", "thing"), colours=("#000000", "#ffffff"))
    assert labels.decode(png(np.array([[0, 255]]))).tolist() == [[[0, 1]]]


def test_a_colour_that_the_legend_lacks_is_refused():
    labels = Labels(classes=ABC, colours=LEGEND)
    with pytest.raises(DecodeError, match=r"colours of the legend only, got #fe0000 in 1 of 2 pixels"):
        labels.decode(rgb_png([["#fe0000", "#000000"]]))
    with pytest.raises(DecodeError, match=r"must have 8 bits a channel, got PNG \(16-bit grey\)"):
        labels.decode(png(np.array([[0]]), 16))


@pytest.mark.parametrize("options", [{}, {"ignore": 1}, {"ignore": 999}, {"colours": LEGEND}])
def test_what_is_written_is_read_again(options):
    labels = Labels(classes=ABC, **options)
    classes = torch.tensor([[[0.0, 1, 2], [-1, 2, 0]]])
    assert torch.equal(labels.decode(labels.encode(classes)), classes)


def test_sixteen_bits_are_written_only_if_they_are_needed():
    classes = torch.tensor([[[0.0, 1]]])
    many = tuple(map(str, range(256)))
    bits = [Labels(classes=names, ignore=ignore).encode(classes)[24] for names, ignore in
            ((ABC, 255), (ABC, 256), (many[:255], 255), (many, 255))]  # fmt: skip
    assert bits == [8, 16, 8, 16]


@pytest.mark.parametrize("wrong", [-2.0, 0.5, 3.0, float("nan")])
def test_numbers_that_are_no_classes_are_not_written(wrong):
    for labels in (Labels(classes=ABC), Labels(classes=ABC, colours=LEGEND)):
        with pytest.raises(ValueError, match=f"a class must be a whole number from -1 to 2, got {wrong:g}"):
            labels.encode(torch.tensor([[[0.0, wrong]]]))


def test_no_label_is_not_written_as_the_colour_of_a_class():
    labels = Labels(classes=("background", "thing"), colours=("#000000", "#ffffff"))
    with pytest.raises(ValueError, match="without a label cannot be stored, because black is the colour of a class"):
        labels.encode(torch.tensor([[[0.0, -1]]]))


@pytest.mark.parametrize(
    "window",
    [CropBox(), CropBox(0.1, 0.2, 0.5, 0.6, flip=True), CropBox(-0.3, 0.4, 1.1, 0.9), CropBox(down=0.9, across=0.1)],
)
@pytest.mark.parametrize("sides", [(8, 8), (6, 20), (61, 43)])
def test_a_crop_shows_the_pixels_that_depth_shows_and_no_label_outside(window, sides):
    height, width = sides
    classes = torch.randint(-1, 9, (1, 30, 40), generator=generator(0)).float()
    metres = classes + 2  # above 0, so that what lies outside shows

    seen = Depth(height=height, width=width).adapt(metres, window)

    expected = torch.where(seen == 0, -1.0, seen - 2)
    assert torch.equal(Labels(height=height, width=width).adapt(classes, window), expected)


def test_a_picture_has_a_colour_for_each_class_and_black_for_none():
    names = tuple(map(str, range(200)))
    classes = torch.arange(-1, 200.0).view(1, 3, 67)

    picture = (Labels(classes=names).picture(classes) * 255).round().long().flatten(1).T.tolist()

    assert picture[0] == [0, 0, 0] and len({tuple(colour) for colour in picture}) == 201
    # published: the colours of aeroplane, bicycle, bird and boat in PASCAL VOC
    assert picture[1:5] == [[128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]


def test_a_picture_has_the_legend_s_colours():
    picture = Labels(classes=ABC, colours=LEGEND).picture(torch.tensor([[[2.0, -1]]]))
    assert (picture * 255).round().tolist() == [[[10, 0]], [[11, 0]], [[12, 0]]]


def test_a_scene_shows_its_wall_where_the_depth_camera_measures_the_wall():
    for seed in range(5):
        scene = draw_scene(generator(seed))
        classes, metres = Labels().render(scene), render_distance(scene)
        read = metres > 0
        assert torch.equal((classes == 0)[read], (metres == scene.wall_m)[read])
        shapes = {SCENE_CLASSES.index(solid.shape) for solid in scene.solids}
        assert {*classes.unique().long().tolist()} <= {0, *shapes} and (classes == 1 + scene.label).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("a",)}, r"classes must be at least two names, got \['a'\]"),
        ({"classes": ("a", " ")}, "classes must have names that are not empty"),
        ({"classes": ("a", "b", "a")}, "classes must be different, got 'a' twice"),
        ({"classes": tuple(map(str, range(65536)))}, "classes must be at most 65535, which 16 bits hold, got 65536"),
        ({"classes": ABC, "ignore": -1}, "ignore must be a whole number from 0 to 65535, got -1"),
        ({"classes": ABC, "ignore": 65536}, "ignore must be a whole number from 0 to 65535, got 65536"),
        ({"classes": ABC, "colours": LEGEND[:2]}, "colours must be one for each of 3 classes, got 2"),
        ({"classes": ABC, "colours": (*LEGEND[:2], "red")}, "colours must be written as \"#rrggbb\", got 'red'"),
        ({"classes": ABC, "colours": (*LEGEND[:2], "#FF0000")}, "colours must be different, got '#ff0000' twice"),
        ({"size": 0}, "size must be from 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Labels(**options)


def test_maps_without_a_label_are_refused_as_a_view():
    Labels().refuse_unseen({})
    Labels().refuse_unseen({"unlabelled_share": 0.999})
    with pytest.raises(ValueError, match="no pixel has a label: all are ignore=255"):
        Labels().refuse_unseen({"unlabelled_share": 1.0})
