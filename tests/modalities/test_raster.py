"""Rasters: units by scale and offset, holes that stay holes, TIFF against a writer in a few lines, refusals by name."""

import io
import math
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from modalities import CropBox, DecodeError
from modalities.common.random import generator
from modalities.depth import Depth
from modalities.raster import Raster
from modalities.rgb import Rgb
from modalities.synthetic.scene import draw_scene

NAN = math.nan
STEPS = (np.arange(11 * 13).reshape(11, 13) * 450).astype(np.uint16)
HEIGHTS = np.linspace(-40.5, 3000.25, 11 * 13).reshape(11, 13)


def png(values: np.ndarray, mode: str | None = None) -> bytes:
    with io.BytesIO() as file:
        image = Image.fromarray(values)
        (image.convert(mode) if mode else image).save(file, "PNG")
        return file.getvalue()


def npy(values: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        np.save(file, values)
        return file.getvalue()


def tiff(
    *pages: np.ndarray,
    order: str = "<",
    deflate: bool = False,
    tags: dict[int, int | str] | None = None,
    later: dict[int, int | str] | None = None,
) -> bytes:
    """A TIFF of one strip a page (TIFF 6.0, section 2), with further tags, and some more in pages after the first."""
    content = {"<": b"II*\0\x08\0\0\0", ">": b"MM\0*\0\0\0\x08"}[order]
    for number, page in enumerate(pages):
        raw = page.astype(page.dtype.newbyteorder(order)).tobytes()
        raw = zlib.compress(raw) if deflate else raw
        raw += b"\0" * (-len(raw) % 2)
        texts, count = b"", 10 + len(tags or {}) + (len(later or {}) if number else 0)
        start = len(content) + 2 + 12 * count + 4  # of what follows the directory: the strip, then the texts
        bits, channels = 8 * page.dtype.itemsize, 1 if page.ndim == 2 else page.shape[2]
        entries: dict[int, int | str | tuple[int, ...]] = {
            256: page.shape[1], 257: page.shape[0], 258: bits if channels == 1 else (bits,) * channels,
            259: 8 if deflate else 1, 262: 1 if channels == 1 else 2,
            273: start, 277: channels, 278: page.shape[0], 279: len(raw),
            339: {"u": 1, "i": 2, "f": 3}[page.dtype.kind],
        } | (tags or {}) | ((later or {}) if number else {})  # fmt: skip
        listed = struct.pack(order + "H", len(entries))
        for tag, value in sorted(entries.items()):
            if isinstance(value, int):
                listed += struct.pack(order + "HHII", tag, 4, 1, value)
                continue
            text = struct.pack(f"{order}{len(value)}H", *value) if isinstance(value, tuple) else value.encode() + b"\0"
            kind, length = (3, len(value)) if isinstance(value, tuple) else (2, len(text))
            listed += struct.pack(order + "HHI", tag, kind, length)
            listed += (
                text.ljust(4, b"\0") if len(text) <= 4 else struct.pack(order + "I", start + len(raw) + len(texts))
            )
            texts += text + b"\0" * (len(text) % 2)
        following = 0 if number + 1 == len(pages) else start + len(raw) + len(texts)
        assert len(entries) == count
        content += listed + struct.pack(order + "I", following) + raw + texts
    return content


def same(actual: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(actual.numpy(), expected.astype(np.float32)[None])


@pytest.mark.parametrize("write", [png, npy, tiff])
def test_sixteen_bits_are_units_by_scale_and_offset(write):
    values = Raster(scale=0.25, offset=-500.0).decode(write(STEPS))

    same(values, STEPS.astype(np.float64) * 0.25 - 500)
    assert values.min() == -500


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "f2", "i2", "i4", ">u2", "u1"])
def test_arrays_of_any_number_type_are_numbers(dtype):
    values = HEIGHTS.clip(0, 200).astype(dtype)

    for shape in ((11, 13), (1, 11, 13), (11, 13, 1)):
        same(Raster().decode(npy(values.reshape(shape))), values)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("dtype", ["u2", "i2", "i4", "f4"])
def test_a_tiff_is_read_to_the_bit_or_refused(order, deflate, dtype):
    values = (HEIGHTS + (0 if dtype != "u2" else 50)).astype(dtype)
    payload = tiff(values, order=order, deflate=deflate)

    if order == ">" and deflate and dtype != "u2":  # Pillow would swap the bytes of these twice
        with pytest.raises(DecodeError, match="a raster in a TIFF must not be both big-endian and compressed"):
            Raster().decode(payload)
    else:
        same(Raster().decode(payload), values)


def test_a_tiff_of_pillow_is_read():
    with io.BytesIO() as file:
        Image.fromarray(HEIGHTS.astype(np.float32)).save(file, "TIFF", compression="tiff_lzw")
        same(Raster().decode(file.getvalue()), HEIGHTS)


def test_no_reading_is_nan_and_0_and_negative_numbers_are_readings():
    values = np.array([[1.5, np.nan, np.inf, -np.inf], [-1.0, 0.0, -9999.0, 2.5]])

    same(Raster(invalid=-9999.0).decode(npy(values)), np.array([[1.5, NAN, NAN, NAN], [-1, 0, NAN, 2.5]]))
    same(Raster(invalid=0.0, scale=0.5, offset=-1.0).decode(png(np.array([[0, 2]], np.uint16))), np.array([[NAN, 0]]))
    same(Raster().decode(png(np.array([[0, 65535]], np.uint16))), np.array([[0, 65535]]))


@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f4", "f8"])
def test_an_invalid_number_is_known_however_few_bits_hold_it(dtype):
    values = np.array([[1.5, -99.9]], dtype)

    same(Raster(invalid=-99.9).decode(npy(values)), np.array([[1.5, NAN]]))


@pytest.mark.parametrize(("dtype", "text"), [("i2", "-32768"), ("f4", "-3.4028234663852886e+38"), ("f4", "nan")])
def test_the_number_that_a_tiff_names_as_no_data_is_no_reading(dtype, text):
    marked = np.array([[float(text), 2], [3, -4]]).astype(dtype)

    values = Raster(scale=2.0).decode(tiff(marked, tags={42113: text}))

    same(values, np.array([[NAN, 4], [6, -8]]))


def test_a_tiff_may_hold_smaller_copies_but_no_second_map():
    page, copy = HEIGHTS.astype("f4"), HEIGHTS[::2, ::2].astype("f4")

    same(Raster().decode(tiff(page, copy, later={254: 1})), page)
    with pytest.raises(DecodeError, match="a raster in a TIFF must be its only page, got 2 pages"):
        Raster().decode(tiff(page, page))


def test_a_tiff_is_turned_by_its_tag():
    turned = Raster().decode(tiff(STEPS, tags={274: 6}))

    same(turned, np.rot90(STEPS, -1))


PIXELS = (STEPS % 251).astype(np.uint8)
REFUSED = [
    (
        png(PIXELS),
        r"16-bit .* or .npz, got PNG \(8-bit grey\): 8 bits or colours make a preview",
    ),
    (png(PIXELS, "RGB"), r"got PNG \(8-bit RGB\)"),
    (Rgb().encode(torch.rand(3, 8, 8)), "got JPEG"),
    (b"garbage", "got 7 bytes that begin with b'garbage'$"),
    (png(STEPS)[:60], "is damaged or cut short"),
    (npy(HEIGHTS)[:-9], r"\.npy array of .* is damaged or cut short"),
    (
        npy(np.zeros((2, 3, 4))),
        r"a raster must be an integer or float array \[height, width\], got float64 \[2, 3, 4\]",
    ),
    (npy(np.zeros((3, 4), dtype=complex)), "got complex"),
    (
        tiff(PIXELS),
        "a raster in a TIFF must be one channel of 16-bit, .*, got 1 of 8 bits, sample format 1; convert it",
    ),
    (tiff(STEPS.astype("u4")), "got 1 of 32 bits, sample format 1"),  # Pillow would give negative numbers
    (tiff(HEIGHTS), "TIFF of .* cannot be read: it is damaged, .*, or does not hold one channel of 16-bit, .* float"),
    (tiff(np.zeros((4, 4, 3), "u2")), "got 3 of 16 bits"),  # Pillow would give 8
]


@pytest.mark.parametrize(("payload", "message"), REFUSED)
def test_what_is_no_raster_is_refused_by_name(payload, message):
    with pytest.raises(DecodeError, match=message):
        Raster().decode(payload)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.25, 0.5, 0.99])
def test_a_tiff_cut_short_is_refused(share, deflate):
    payload = tiff(HEIGHTS.astype("f4"), deflate=deflate)
    with pytest.raises(DecodeError):
        Raster().decode(payload[: int(share * len(payload))])


@pytest.mark.parametrize("write", [png, npy, tiff])
def test_a_raster_larger_than_allowed_is_refused_with_the_way_out(write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CROSSMODAL_MAX_PIXELS", "142")
    with pytest.raises(DecodeError, match=r"has 143 pixels, more than the 142 allowed; .* CROSSMODAL_MAX_PIXELS=143"):
        Raster().decode(write(STEPS))


def test_holes_and_negative_numbers_survive_a_round_trip():
    raster = Raster(scale=0.5, offset=-10.0, invalid=0.0)
    signal = torch.tensor([[[-3.25, NAN], [0.0, 100.5]]])

    np.testing.assert_array_equal(raster.decode(raster.encode(signal)).numpy(), signal.numpy())


def test_a_reading_that_would_be_stored_as_invalid_is_refused():
    with pytest.raises(ValueError, match=r"must not be stored as invalid=20, got 0; use another invalid"):
        Raster(scale=0.5, offset=-10.0, invalid=20.0).encode(torch.zeros(1, 2, 2))


def test_depth_files_are_numbers_by_their_scale():
    metres = Depth().render(draw_scene(generator(0)))

    values = Raster(scale=0.001, invalid=0.0).decode(Depth().encode(metres))

    torch.testing.assert_close(values.nan_to_num(), metres, atol=0.0005, rtol=0)
    assert torch.equal(values.isnan(), metres == 0)


@pytest.mark.parametrize("size", [5, 16, 40])
def test_resizing_invents_no_number_and_beside_the_map_there_is_no_reading(size):
    signal = torch.rand(1, 17, 23, generator=generator(0)) - 0.5
    signal[:, 4:9, 3:8] = NAN
    raster = Raster(size=size)

    within = raster.adapt(signal, CropBox(top=0.1, left=0.05, height=0.7, width=0.8, flip=True))
    beside = raster.adapt(signal, CropBox(top=-0.5, height=1.0))

    assert torch.isin(within[~within.isnan()], signal).all() and 0 < within.isnan().sum() < within.numel()
    assert beside[:, : int(0.4 * size)].isnan().all() and not beside[:, -1].isnan().all()


def test_augmentation_is_off_unless_it_is_asked_for():
    batch = Raster().render(draw_scene(generator(0)))[None]
    assert torch.equal(Raster().augment(batch, Raster().draw(generator(1))[None]), batch)


def test_each_augmentation_does_what_it_says():
    batch = torch.full((64, 1, 40, 40), -20.0)
    batch[:, :, 0] = NAN
    bounds = {"low": -50.0, "high": 50.0}

    def augment(**options: float) -> torch.Tensor:
        raster = Raster(**bounds, **options)
        draws = torch.stack([raster.draw(generator("raster", row)) for row in range(64)])
        changed = raster.augment(batch, draws) - batch
        assert changed[:, :, 0].isnan().all()
        return changed[:, 0, 1:]

    shifts = augment(shift=3.0)
    torch.testing.assert_close(shifts, shifts[:, :1, :1].expand_as(shifts))
    assert -3 <= shifts.min() < -2.5 and 2.5 < shifts.max() <= 3

    noise = augment(noise=2.0)
    assert 1.95 < noise.std() < 2.05 and noise.mean().abs() < 0.05

    holes = augment(holes=1, hole_side=0.25).isnan()
    assert torch.equal(holes.sum((1, 2)), holes.any(2).sum(1) * holes.any(1).sum(1))  # rectangles
    assert holes.any(2).sum(1).max() == 10 and holes.any(1).sum(1).max() == 10


def test_the_encoder_sees_equal_steps_and_no_reading_as_low():
    raster = Raster(low=-5.0, high=15.0)
    values = torch.tensor([-100.0, -5.0, 0.0, 5.0, 15.0, 99.0, NAN]).view(1, 1, 1, -1)

    seen = raster.normalise(values).flatten()

    torch.testing.assert_close(seen, torch.tensor([-2.0, -2.0, -1.0, 0.0, 2.0, 2.0, -2.0]))


def test_a_picture_has_the_colours_of_its_range_and_black_for_no_reading():
    from matplotlib import colormaps

    picture = Raster(low=-5.0, high=15.0).picture(torch.tensor([[[NAN, -5.0], [5.0, 50.0]]]))

    expected = np.array([[(0, 0, 0), colormaps["viridis"](0.0)[:3]], [colormaps["viridis"](f)[:3] for f in (0.5, 1.0)]])
    np.testing.assert_allclose(picture.permute(1, 2, 0).numpy(), expected, atol=1e-6)


STATISTICS = {"mean": 100.0, "std": 20.0, "min": -30.0, "max": 300.0}


@pytest.mark.parametrize(
    ("view", "statistics", "message"),
    [
        ({"high": 79.0}, STATISTICS, "readings are from -30 to 300 mm, with a mean of 100: at least half of them lie "
                                     "above 80, so above high=79, .* set the view's low and high"),
        ({"low": 121.0, "high": 200.0}, STATISTICS, "at least half of them lie below 120, so below low=121"),
        ({"high": 34_000.0}, STATISTICS, "they take less than 1% of the range from low=0 to high=34000"),
        ({"high": 81.0}, STATISTICS, None),
        ({"low": 119.0, "high": 200.0}, STATISTICS, None),
        ({"high": 32_000.0}, STATISTICS, None),
        ({}, {"no_reading_share": 1.0}, None),
    ],
)  # fmt: skip
def test_a_range_that_shows_hardly_anything_is_refused(view, statistics, message):
    raster = Raster(unit="mm", **view)
    if message is None:
        raster.refuse_unseen(statistics)
    else:
        with pytest.raises(ValueError, match=message):
            raster.refuse_unseen(statistics)


def test_a_sheet_shows_the_whole_range_of_the_readings():
    shown = Raster(unit="mm", noise=0.5).show_all(STATISTICS)

    assert shown == Raster(unit="mm", low=-30.0, high=300.0)
    assert Raster().show_all({"no_reading_share": 1.0}) == Raster().show_all({**STATISTICS, "max": -30.0}) == Raster()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be from 1"),
        ({"scale": 0.0}, "scale must be finite and not 0, got 0.0"),
        ({"scale": NAN}, "scale must be finite and not 0, got nan"),
        ({"offset": math.inf}, "offset must be finite, got inf"),
        ({"invalid": NAN}, "invalid must be finite or null, got nan: NaN and infinity are never readings"),
        ({"low": 3.0, "high": 2.0}, "low < high is needed, both finite, got 3.0 and 2.0"),
        ({"high": math.inf}, "low < high is needed, both finite, got 0.0 and inf"),
        ({"low": -math.inf}, "low < high is needed, both finite, got -inf and 1.0"),
        ({"noise": 1.5}, "noise must be from 0 to 1.0, got 1.5"),
        ({"shift": -1.0}, "shift must be from 0 to 1.0, got -1.0"),
        ({"holes": 65}, "holes must be from 0 to 64, got 65"),
        ({"hole_side": 2.0}, "hole_side must be from 0 to 1, got 2.0"),
    ],
)
def test_raster_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Raster(**options)
