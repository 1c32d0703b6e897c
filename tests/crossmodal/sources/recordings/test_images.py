"""Pictures in messages: colour and depth are exact, files stay as they are."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from rvl_by_hand import encode_rvl

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.images import Compressed, Raw, describe_picture, read_picture

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (4, 6, 3), np.uint8)
STORED = RNG.integers(0, 65536, (4, 6), np.uint16)


def raw(encoding: str, pixels: np.ndarray, *, padding: int = 0) -> Raw:
    """A picture in the byte order of its pixels, with `padding` bytes after each row."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=7)
    return Raw(encoding, pixels.shape[0], pixels.shape[1], rows.shape[1], pixels.dtype.byteorder == ">", rows.tobytes())


def read(picture: Raw | Compressed, topic: str = "/camera/image") -> bytes | np.ndarray:
    return read_picture(picture, describe_picture(picture, topic).kind)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("encoding", "places"),
    [("rgb8", "rgb"), ("bgr8", "bgr"), ("8UC3", "bgr"), ("rgba8", "rgba"), ("bgra8", "bgra"), ("8UC4", "bgra")],
)
def test_colour_is_exact_whatever_the_order_of_its_channels(encoding: str, places: str) -> None:
    channels = dict(zip("rgba", [*np.moveaxis(RGB, 2, 0), RGB[..., 0] // 2], strict=True))
    picture = raw(encoding, np.stack([channels[name] for name in places], axis=2), padding=5)
    np.testing.assert_array_equal(read(picture), RGB)
    assert describe_picture(picture, "/image").kind == "rgb"


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_is_exact(encoding: str) -> None:
    picture = raw(encoding, RGB[..., 0], padding=2)
    np.testing.assert_array_equal(read(picture), RGB[..., 0])
    assert describe_picture(picture, "/image").kind == "grey"


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16"])
def test_16_bit_numbers_are_exact_in_both_byte_orders(encoding: str, padding: int, order: str) -> None:
    read_back = read(raw(encoding, STORED.astype(f"{order}u2"), padding=padding))
    assert isinstance(read_back, np.ndarray)
    np.testing.assert_array_equal(read_back, STORED, strict=True)


@pytest.mark.parametrize("order", "<>")
def test_depth_in_metres_is_exact_and_keeps_nan(order: str) -> None:
    metres = RNG.random((4, 6), np.float32)
    metres[1, 2] = np.nan
    np.testing.assert_array_equal(read(raw("32FC1", metres.astype(f"{order}f4"), padding=8)), metres, strict=True)


def test_rows_without_a_step_are_not_padded() -> None:
    picture = raw("16UC1", STORED)
    unset = Raw("16UC1", picture.height, picture.width, 0, False, picture.data)
    np.testing.assert_array_equal(read(unset), STORED)


@pytest.mark.parametrize(
    ("encoding", "kind", "stated"),
    [("16UC1", "depth", {"scale_m": 0.001}), ("32FC1", "depth", {"scale_m": 1.0}), ("mono16", "thermal", {})],
)
def test_ros_states_the_unit_of_depth(encoding: str, kind: str, stated: dict) -> None:
    described = describe_picture(raw(encoding, STORED.astype("f4" if encoding == "32FC1" else "u2")), "/image")
    assert (described.kind, described.stated) == (kind, stated)
    assert described.source.startswith("ROS REP 118") == bool(stated)


def test_mono16_of_a_depth_topic_is_depth_without_a_unit() -> None:
    described = describe_picture(raw("mono16", STORED), "/device_0/sensor_0/Depth_0/image/data")
    assert (described.kind, described.stated) == ("depth", {})


def mosaic(colour: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor sees behind a Bayer filter."""
    rows, columns = np.indices(colour.shape[:2])
    channel = np.array(["rgb".index(name) for name in pattern]).reshape(2, 2)
    return np.take_along_axis(colour, channel[rows % 2, columns % 2][..., None], axis=2)[..., 0]


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_bayer_patterns_give_back_flat_colour_and_slopes(pattern: str, bits: int) -> None:
    rows, columns = np.indices((8, 10))
    slopes = np.stack([20 * rows, 10 * columns + 3, 5 * rows + 7 * columns], axis=2).astype(np.uint8)
    flat = np.broadcast_to(np.array([10, 90, 200], np.uint8), (8, 10, 3))
    for colour, inner in ((flat, np.s_[:, :]), (slopes, np.s_[1:-1, 1:-1])):
        seen = mosaic(colour, pattern)
        stored = seen if bits == 8 else seen.astype("<u2") * 256 + 99
        found = read(raw(f"bayer_{pattern}{bits}", stored))
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found[inner].astype(int), colour[inner], atol=0.5 + 1e-6)
        np.testing.assert_array_equal(mosaic(found, pattern), seen)


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuv422_yuy2", "YUYV"), ("yuyv", "YUYV")]
)
def test_yuv_becomes_the_colour_it_was_made_from(encoding: str, order: str) -> None:
    color = pytest.importorskip("skimage.color", reason="scikit-image is the oracle")
    colour = np.repeat(RNG.integers(0, 256, (4, 3, 3), np.uint8), 2, axis=1)  # two neighbours share their chroma
    y, u, v = np.moveaxis(color.rgb2ycbcr(colour).round().astype(np.uint8), 2, 0)
    chroma = np.where(np.arange(6) % 2, v, u)
    pixels = np.stack([chroma, y] if order == "UYVY" else [y, chroma], axis=2)
    found = read(raw(encoding, pixels))
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found.astype(int), colour, atol=2)


@pytest.mark.parametrize(
    ("form", "payload", "kind"),
    [
        ("jpeg", jpeg(RGB), "rgb"),
        ("rgb8; jpeg compressed bgr8", jpeg(RGB), "rgb"),
        ("mono8; jpeg compressed ", jpeg(RGB[..., 0]), "grey"),
        ("png", png(RGB), "rgb"),
        ("16UC1; png compressed ", png(STORED), "depth"),
        ("mono16; png compressed ", png(STORED), "thermal"),
        ("png", png(STORED), "thermal"),
    ],
)
def test_files_stay_as_they_are_byte_for_byte(form: str, payload: bytes, kind: str) -> None:
    picture = Compressed(form, payload)
    described = describe_picture(picture, "/image/compressed")
    assert (described.kind, described.height, described.width) == (kind, 4, 6)
    assert read(picture) == payload


def test_compressed_depth_is_the_png_behind_its_header() -> None:
    picture = Compressed("16UC1; compressedDepth png", struct.pack("<iff", 0, 0, 0) + png(STORED))
    assert describe_picture(picture, "/depth/compressedDepth").stated == {"scale_m": 0.001}
    assert read(picture) == png(STORED)


def test_compressed_depth_in_metres_is_dequantised() -> None:
    # the encoder of image_transport_plugins: depth_quantization 100, depth_max 10
    a = np.float32(100 * 101)
    b = np.float32(1 - a / 10)
    metres = np.linspace(0.5, 9.5, 24, dtype=np.float32).reshape(4, 6)
    stored = (a / metres + b).astype(np.uint16)
    stored[0, 0] = 0
    found = read(Compressed("32FC1; compressedDepth png", struct.pack("<iff", 0, a, b) + png(stored)))
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    assert np.isnan(found[0, 0])
    steps = metres**2 / a  # metres that a stored 1 means at this depth
    assert (np.abs(found - metres)[metres > 0.5] <= 1.01 * steps[metres > 0.5]).all()


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_rvl_gives_the_numbers_that_png_gives(encoding: str) -> None:
    smooth = (np.add.outer(np.arange(40), np.arange(50)) * 30 + 500).astype(np.uint16)
    smooth[5:9, 10:30] = 0
    header = struct.pack("<iff", 0, 10100, -1009)
    form = f"{encoding}; compressedDepth"
    rvl = Compressed(f"{form} rvl", header + struct.pack("<II", 50, 40) + encode_rvl(smooth))
    described = describe_picture(rvl, "/depth/compressedDepth")
    assert (described.kind, described.height, described.width) == ("depth", 40, 50)
    expected = read(Compressed(f"{form} png", header + png(smooth))) if encoding == "32FC1" else smooth
    np.testing.assert_array_equal(read(rvl), expected, strict=True)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Compressed("16UC1; jpeg compressed ", jpeg(RGB[..., 0])), "its frames are JPEG, which holds 8 bits.*png"),
        (
            Compressed("16UC1; compressedDepth jpeg", bytes(12) + jpeg(RGB[..., 0])),
            "its frames are JPEG, which holds 8 bits",
        ),
        (Compressed("h264", b"\0\0\0\1gQ"), "the format 'h264' .* cannot be read; readable are jpeg and png"),
        (Compressed("32FC1; compressedDepth png", bytes(12) + png(STORED)), "states no quantisation of 32FC1: a = 0"),
        (Compressed("32FC1; png compressed ", png(STORED)), "states no quantisation of 32FC1: a = 0"),
        (Compressed("32FC1; compressedDepth png", bytes(12) + png(RGB)), "16-bit grey PNG, got PNG .8-bit RGB"),
        (Compressed("16UC1; compressedDepth rvl", bytes(15)), "its RVL is cut short: 15 bytes"),
        (Compressed("16UC1; compressedDepth rvl", bytes(12) + b"\xff" * 8), "pixels, more than the 50000000 allowed"),
        (raw("yuv422", np.zeros((2, 3, 2), np.uint8)), "even width, got 3"),
        (raw("32SC1", STORED.astype("i4")), "the encoding '32SC1' cannot be read; readable are rgb8, "),
        (Raw("16UC1", 4, 6, 12, False, bytes(47)), "cut short: 4 rows of 12 bytes are 48, but there are 47"),
        (Raw("mono16", 4, 0, 0, False, b""), "no pixels: its width is 0 and its height 4"),
        (Raw("rgb8", 4, 6, 12, False, bytes(48)), "a row of 6 pixels of rgb8 has 18 bytes, but step is 12"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(picture: Raw | Compressed, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read(picture, "/depth")


@pytest.mark.parametrize("picture", [raw("32SC1", STORED.astype("i4")), Compressed("h264", b"\0\0\0\1gQ")])
def test_an_encoding_that_cannot_be_read_is_of_kind_other(picture: Raw | Compressed) -> None:
    assert describe_picture(picture, "/image").kind == "other"
