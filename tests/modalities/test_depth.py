"""Depth: exact steps, holes that stay holes, refusals by name, and pixel-true alignment with colour."""

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
from modalities.rgb import Rgb
from modalities.synthetic.render import silhouettes
from modalities.synthetic.scene import SHAPES, Scene, Solid, draw_scene

STILL = {"drift": 0.0, "noise": 0.0, "holes": 0}


def png(values: np.ndarray, mode: str | None = None) -> bytes:
    with io.BytesIO() as file:
        image = Image.fromarray(values)
        (image.convert(mode) if mode else image).save(file, "PNG")
        return file.getvalue()


def npy(values: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        np.save(file, values, allow_pickle=True)
        return file.getvalue()


def interlaced_png(values: np.ndarray) -> bytes:
    """A 16-bit grey PNG in Adam7 order (PNG specification, 8.2), which Pillow cannot write."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [values[top::down, left::right] for top, left, down, right in passes]
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for part in parts if part.size for row in part)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 0, 0, 0, 1)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


STEPS = np.arange(11 * 13, dtype=np.uint16).reshape(11, 13) * 450


@pytest.mark.parametrize("write", [png, npy, interlaced_png])
def test_sixteen_bits_stay_sixteen_bits(write):
    metres = Depth(scale_m=0.001).decode(write(STEPS))

    assert torch.equal(metres[0], torch.from_numpy(STEPS * np.float64(0.001)).float())
    assert torch.equal((metres[0].double() / 0.001).round(), torch.from_numpy(STEPS.astype(np.float64)))


def test_every_step_survives_a_round_trip():
    depth = Depth(scale_m=0.00025)
    payload = png(np.arange(65536, dtype=np.uint16).reshape(256, 256))

    assert torch.equal(depth.decode(depth.encode(depth.decode(payload))), depth.decode(payload))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "f2", "i4", ">u2", "u1"])
def test_arrays_of_any_number_type_are_metres_by_scale(dtype):
    values = np.array([[1, 2], [3, 0]], dtype=dtype)

    assert Depth(scale_m=1.0).decode(npy(values)).tolist() == [[[1, 2], [3, 0]]]
    assert Depth(scale_m=1.0).decode(npy(values[None])).tolist() == [[[1, 2], [3, 0]]]
    assert Depth(scale_m=1.0).decode(npy(values[..., None])).tolist() == [[[1, 2], [3, 0]]]
    assert Depth(scale_m=1.0).decode(npy(np.asfortranarray(values))).tolist() == [[[1, 2], [3, 0]]]


def test_what_is_no_reading_is_0():
    values = np.array([[1.5, np.nan, np.inf, -np.inf], [-1.0, 0.0, 9.0, 2.5]])

    assert Depth(scale_m=1.0, invalid=9.0).decode(npy(values)).tolist() == [[[1.5, 0, 0, 0], [0, 0, 0, 2.5]]]
    assert Depth(invalid=65535.0).decode(png(np.array([[65535, 2000]], dtype=np.uint16))).tolist() == [[[0, 2]]]


@pytest.mark.parametrize("invalid", [65.535, 99.9, 9999.9, 1e20])
def test_an_invalid_value_is_known_however_few_bits_hold_it(invalid):
    values = np.array([[1.5, invalid]], dtype=np.float32)

    assert Depth(scale_m=1.0, invalid=invalid).decode(npy(values)).tolist() == [[[1.5, 0]]]


@pytest.mark.parametrize("dtype", [">f4", "f2", "f8"])
def test_an_invalid_value_is_known_in_any_type(dtype):
    assert Depth(scale_m=1.0, invalid=9999.9).decode(npy(np.array([[1.5, 9999.9]], dtype))).tolist() == [[[1.5, 0]]]
    assert Depth(scale_m=1.0, invalid=1e20).decode(npy(np.array([[1.5, np.inf]], dtype))).tolist() == [[[1.5, 0]]]


@pytest.mark.parametrize("invalid", [2.5, 1e20])
def test_an_invalid_value_is_not_rounded_to_an_integer(invalid):
    assert Depth(scale_m=1.0, invalid=invalid).decode(npy(np.array([[2, 3]], np.uint16))).tolist() == [[[2, 3]]]


def test_a_map_without_any_reading_is_a_map():
    assert Depth().decode(png(np.zeros((3, 4), dtype=np.uint16))).tolist() == [[[0] * 4] * 3]


PIXELS = (STEPS % 251).astype(np.uint8)
REFUSED = [
    (
        png(PIXELS),
        r"16-bit .* or .npz, got PNG \(8-bit grey\): 8 bits or colours cannot hold metres",
    ),
    (png(PIXELS, "P"), r"got PNG \(8-bit palette\)"),
    (png(PIXELS, "1"), r"got PNG \(1-bit grey\)"),
    (png(PIXELS, "RGB"), r"got PNG \(8-bit RGB\)"),
    (png(PIXELS, "RGBA"), r"got PNG \(8-bit RGB and alpha\)"),
    (Rgb().encode(torch.rand(3, 8, 8)), "got JPEG"),
    (b"garbage", "got 7 bytes that begin with b'garbage'$"),
    (png(STEPS)[:60], "is damaged or cut short"),
    (interlaced_png(STEPS)[:33] + png(STEPS)[-12:], "is damaged or cut short"),  # without pixels
    (npy(STEPS).replace(b"(11, 13)", b"(11, 13 "), "is damaged or cut short"),
    (npy(STEPS).replace(b"'fortran_order'", b"b'ortran_order'"), "is damaged or cut short"),
    (npy(STEPS).replace(b"(11, 13)", b"(4,True)"), "is damaged or cut short"),
    (npy(STEPS)[:-9], r"\.npy array of .* is damaged or cut short"),
    (npy(np.zeros((2, 3, 4))), r"\[height, width\], got float64 \[2, 3, 4\]"),
    (npy(np.zeros((0, 4))), r"got float64 \[0, 4\]"),
    (npy(np.zeros((3, 4), dtype=bool)), "got bool"),
    (npy(np.zeros((3, 4), dtype=complex)), "got complex"),
    (npy(np.array([[None]])), "allow_pickle=False"),
]


@pytest.mark.parametrize(("payload", "message"), REFUSED)
def test_what_cannot_hold_metres_is_refused_by_name(payload, message):
    with pytest.raises(DecodeError, match=message):
        Depth().decode(payload)


def test_a_damaged_byte_never_changes_a_distance():
    payload = png(STEPS)
    whole, passed = Depth().decode(payload), 0

    for place in range(8, len(payload)):
        damaged = bytearray(payload)
        damaged[place] ^= 0x41
        try:
            assert torch.equal(Depth().decode(bytes(damaged)), whole)
            passed += 1
        except DecodeError:
            pass

    assert passed <= 8  # length and checksum of the empty chunk at the end


@pytest.mark.parametrize(
    ("stored", "scale_m", "message"),
    [
        (2000, 1.0, r"got 2000 m with scale_m=1; does the file store millimetres \(scale_m=0.001\)"),
        (2, 0.001, r"got 0.002 m with scale_m=0.001; does the file store metres \(scale_m=1\)"),
    ],
)
def test_a_wrong_scale_is_noticed(stored, scale_m, message):
    with pytest.raises(DecodeError, match=message):
        Depth(scale_m=scale_m).decode(png(np.full((9, 9), stored, dtype=np.uint16)))


@pytest.mark.parametrize(
    ("metres", "options", "message"),
    [
        (70.0, {}, "65535 steps of scale_m=0.001, got 70 m; scale_m=0.01 would fit"),
        (math.nan, {}, "got nan"),
        (0.0004, {}, "stored above 0 and not as invalid=0, got 0.0004 m"),
        (-1.0, {}, "got -1 m"),
        (math.inf, {}, "must be finite, .* got inf m"),
        (2.0, {"invalid": 2000.0}, "not as invalid=2000, got 2 m"),
    ],
)
def test_a_distance_that_cannot_be_stored_is_refused(metres, options, message):
    with pytest.raises(ValueError, match=message):
        Depth(**options).encode(torch.full((1, 2, 2), metres))


@pytest.mark.parametrize("size", [5, 16, 40])
def test_resizing_invents_no_distance(size):
    signal = torch.rand(1, 17, 23, generator=generator(0)) + 1
    signal[:, 4:9, 3:8] = 0

    adapted = Depth(size=size).adapt(signal, CropBox(top=0.1, left=0.05, height=0.7, width=0.8, flip=True))

    assert torch.isin(adapted, signal).all()
    assert (adapted == 0).any() and (adapted > 0).any()


def test_augmentation_of_strength_0_changes_nothing():
    batch = Depth().render(draw_scene(generator(0)))[None]
    depth = Depth(**STILL)

    assert torch.equal(depth.augment(batch, depth.draw(generator(1))[None]), batch)


def test_noise_grows_with_the_square_of_the_distance():
    depth = Depth(**STILL | {"noise": 0.002})
    batch = torch.tensor([1.0, 2.0, 4.0])[:, None, None, None].expand(3, 1, 64, 64)

    noise = depth.augment(batch, torch.stack([depth.draw(generator(i)) for i in range(3)])) - batch

    torch.testing.assert_close(noise.std((1, 2, 3)), torch.tensor([0.002, 0.008, 0.032]), rtol=0.05, atol=0)
    assert (noise.mean((1, 2, 3)).abs() < 4 * noise.std((1, 2, 3)) / 64).all()  # 64 * 64 pixels
    assert torch.corrcoef(noise.flatten(1)).triu(1).abs().max() < 0.08


def test_noise_has_an_address():
    depth = Depth()
    batch = torch.stack([depth.render(draw_scene(generator(i))) for i in range(5)])
    draws = torch.stack([depth.draw(generator(i)) for i in range(5)])

    together = depth.augment(batch, draws)

    for row in range(5):  # to the bit: no logarithm, cosine or matrix product is in it
        assert torch.equal(depth.augment(batch[row : row + 1], draws[row : row + 1])[0], together[row])


def test_no_reading_stays_no_reading_and_a_reading_stays_above_0():
    depth = Depth(holes=0, noise=0.5)
    batch = torch.rand(2, 1, 32, 32, generator=generator(0)) * 200
    batch[:, :, :4] = 0

    augmented = depth.augment(batch, torch.stack([depth.draw(generator(i)) for i in range(2)]))

    assert torch.equal(augmented == 0, batch == 0) and augmented.min() == 0


def test_holes_are_rectangles_of_limited_size():
    depth = Depth(**STILL | {"holes": 1, "hole_side": 0.25})
    draws = torch.rand(64, 7, generator=generator(0))

    cut = (depth.augment(torch.ones(64, 1, 40, 40), draws) == 0)[:, 0]

    rows, columns = cut.any(2).sum(1), cut.any(1).sum(1)
    assert torch.equal(cut.sum((1, 2)), rows * columns)
    assert rows.max() == 10 and columns.max() == 10


@pytest.mark.parametrize("scale", ["log", "linear", "inverse"])
def test_the_encoder_sees_near_high_far_low_and_no_reading_as_far(scale):
    depth = Depth(min_m=0.5, max_m=8.0, scale=scale)
    metres = torch.tensor([0.1, 0.5, 2.0, 8.0, 100.0, 0.0]).view(1, 1, 1, -1)

    seen = (depth.normalise(metres) * 0.25 + 0.5).flatten()

    middle = {"log": 0.5, "linear": 6 / 7.5, "inverse": (1 / 2 - 1 / 8) / (2 - 1 / 8)}[scale]
    torch.testing.assert_close(seen, torch.tensor([1, 1, middle, 0, 0, 0]), atol=1e-6, rtol=0)


def test_no_reading_is_black():
    picture = Depth().picture(torch.tensor([[[0.0, 1.0], [5.0, 50.0]]]))

    assert (picture.sum(0) == 0).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("shape", SHAPES)
def test_colour_and_depth_share_their_silhouettes(shape):
    solid = Solid(shape, 0.1, -0.15, 0.5, 2.0, (1.0, 0.3, 0.2))
    scene = Scene((solid,), 5.0, (0.2, 0.4, 1.0), 0.8)
    empty = Scene((), 5.0, (0.2, 0.4, 1.0), 0.8)

    seen = (Rgb().render(scene) != Rgb().render(empty)).any(0)
    near = Depth().render(scene)[0]
    shadow = near == 0

    assert torch.equal(seen[~shadow], (near < 4)[~shadow])
    assert torch.equal(seen, silhouettes(scene) == 0)
    assert not seen[shadow].any() and 0 < shadow.sum() < 64  # at most every other row's left edges
    assert 200 < seen.sum() < 1500


def test_a_wider_picture_of_a_scene_shows_a_ball_that_is_round():
    scene = Scene((Solid("ball", 0.5, 0.0, 0.4, 2.0, (1.0, 1.0, 1.0)),), 5.0, (0.5, 0.5, 0.5), 1.0, size=60, width=80)

    seen = silhouettes(scene) == 0

    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    assert len(rows) == len(columns) == 24 and columns.float().mean() == 59.5  # three quarters of the width


def test_solids_have_their_form():
    def bulge(shape: str) -> torch.Tensor:
        scene = Scene((Solid(shape, 0.0, 0.0, 0.5, 2.0, (1.0, 1.0, 1.0)),), 5.0, (0.5, 0.5, 0.5), 1.0, size=65)
        return Depth().render(scene)[0]

    ball, ring, cross = bulge("ball"), bulge("ring"), bulge("cross")
    assert ball[32, 32] < ball[32, 40] < ball[32, 47] < 2  # nearest in the middle
    assert ring[32, 32] == 5 and ring[32, 43] < 2  # the wall is seen through it
    assert cross[32, 32] == cross[32, 47] < 2  # flat


def test_a_nearer_solid_hides_a_farther_one():
    near, far = (Solid("disc", 0.0, 0.0, 0.4, metres, (1.0, 0.0, 0.0)) for metres in (1.0, 3.0))

    for solids in ((near, far), (far, near)):
        assert Depth().render(Scene(solids, 5.0, (0.5, 0.5, 0.5), 1.0))[0, 32, 32] < 1.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be from 1"),
        ({"scale_m": 0.0}, "scale_m must be from 1e-09"),
        ({"min_m": 3.0, "max_m": 2.0}, "0 < min_m < max_m < inf is needed, got 3.0 and 2.0"),
        ({"max_m": math.inf}, "0 < min_m < max_m < inf is needed, got 0.3 and inf"),
        ({"min_m": math.nan}, "0 < min_m < max_m < inf is needed, got nan"),
        ({"noise": -1.0}, "noise must be from 0 to 0.5, got -1.0"),
        ({"holes": -1}, "holes must be from 0 to 64, got -1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Depth(**options)


def test_an_unknown_scale_is_refused_where_types_are_not_checked():
    depth = Depth()
    object.__setattr__(depth, "scale", "cubic")  # under test the type of the argument is refused before

    with pytest.raises(ValueError, match="scale must be log, linear or inverse, got 'cubic'"):
        depth.__post_init__()


@pytest.mark.parametrize("write", [png, npy])
def test_a_map_larger_than_allowed_is_refused_with_the_way_out(write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CROSSMODAL_MAX_PIXELS", "142")
    with pytest.raises(DecodeError, match=r"has 143 pixels, more than the 142 allowed; .* CROSSMODAL_MAX_PIXELS=143"):
        Depth().decode(write(STEPS))
    monkeypatch.setenv("CROSSMODAL_MAX_PIXELS", "143")
    assert Depth().decode(write(STEPS)).shape == (1, 11, 13)


def test_an_array_that_claims_too_much_is_refused_by_its_header():
    claimed = npy(STEPS).replace(b"(11, 13), } ", b"(99999,99999)}")
    with pytest.raises(
        DecodeError, match=r"\.npy array \[99999, 99999\] has 9999800001 pixels, more than the 50000000"
    ):
        Depth().decode(claimed)


def test_a_depth_png_is_turned_by_its_tag():
    exif = Image.Exif()
    exif[0x0112] = 6
    with io.BytesIO() as memory:
        Image.fromarray(STEPS).save(memory, "PNG", exif=exif)
        turned = Depth().decode(memory.getvalue())

    assert torch.equal(turned[0], torch.rot90(Depth().decode(png(STEPS))[0], -1))


@pytest.mark.parametrize("rows", [0, 1, 5, 9])
def test_a_png_that_lacks_rows_is_refused_though_its_checksums_are_right(rows):
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in STEPS[:rows])
    whole = png(STEPS)
    place = whole.index(b"IDAT") - 4
    chunk = struct.pack(">I4s", len(zlib.compress(raw)), b"IDAT") + zlib.compress(raw)
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))

    with pytest.raises(DecodeError, match="is damaged or cut short"):
        Depth().decode(whole[:place] + chunk + whole[-12:])
    assert Depth().decode(png(np.vstack([STEPS[:5], np.zeros((2, 13), np.uint16)]))).shape == (1, 7, 13)
