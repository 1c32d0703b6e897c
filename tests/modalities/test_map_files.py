"""Files of one number a pixel against independent writers: EXR, TIFF, PFM and .npz; damage, cuts and absurd claims."""

import builtins
import io
import struct
import tempfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modalities import DecodeError
from modalities.depth import Depth
from modalities.raster import Raster

METRES = (0.5 + np.arange(7 * 11).reshape(7, 11) / 16).astype(np.float32)  # halves hold these exactly
DEPTH = Depth(scale_m=1.0)


def exr(channels: dict[str, np.ndarray], **header: Any) -> bytes:
    openexr = pytest.importorskip("OpenEXR", reason="depth in EXR needs the extra exr")
    compression = getattr(openexr, header.pop("compression", "ZIP_COMPRESSION"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.exr"
        openexr.File({"compression": compression, "type": openexr.scanlineimage, **header}, channels).write(str(path))
        return path.read_bytes()


def tiff(values: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(values).save(file, "TIFF")
        return file.getvalue()


def npz(compressed: bool = True, **arrays: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)  # type: ignore[arg-type]
        return file.getvalue()


def pfm(values: np.ndarray, scale: float = -1.0) -> bytes:
    """Rows from the bottom to the top, each number packed by itself; a negative scale is little-endian."""
    order = "<f" if scale < 0 else ">f"
    rows = b"".join(struct.pack(order, number) for row in reversed(values.tolist()) for number in row)
    return f"Pf\n{values.shape[1]} {values.shape[0]}\n{scale}\n".encode() + rows


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.uint32])
@pytest.mark.parametrize("compression", ["NO_COMPRESSION", "ZIP_COMPRESSION", "PIZ_COMPRESSION"])
def test_an_exr_of_one_channel_is_exact(kind: type, compression: str) -> None:
    values = (METRES * 16).astype(kind)
    for name in ("R", "Y", "Z", "View.Depth"):
        decoded = DEPTH.decode(exr({name: values}, compression=compression))
        np.testing.assert_array_equal(decoded[0].numpy(), values.astype(np.float32))


def test_an_exr_of_several_channels_has_z_or_equal_colours() -> None:
    other = METRES + 1
    for channels in ({"Z": METRES, "R": other}, {"Y": METRES, "A": other}, dict.fromkeys("RGB", METRES)):
        np.testing.assert_array_equal(DEPTH.decode(exr(channels))[0].numpy(), METRES)
    for channels, got in (({"R": METRES, "G": other, "B": other}, "B, G, R"), ({"U": METRES, "V": other}, "U, V")):
        with pytest.raises(DecodeError, match=f"depth in an EXR must be its only channel, .* got {got}"):
            DEPTH.decode(exr(channels))


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_a_tiff_of_depth_is_exact(kind: type) -> None:
    values = (METRES * 1000).astype(kind)
    decoded = Depth(scale_m=0.001).decode(tiff(values))
    np.testing.assert_array_equal(decoded[0].numpy(), (values.astype(np.float64) * 0.001).astype(np.float32))


@pytest.mark.parametrize("scale", [-1.0, 1.0, -0.0039, 255.0])
def test_a_pfm_is_exact_and_upright_in_either_byte_order(scale: float) -> None:
    np.testing.assert_array_equal(DEPTH.decode(pfm(METRES, scale))[0].numpy(), METRES)


@pytest.mark.parametrize("compressed", [True, False])
def test_the_only_array_of_an_npz_is_exact(compressed: bool) -> None:
    for values in (METRES, METRES.astype(np.float64), (METRES * 16).astype(np.uint16)):
        decoded = DEPTH.decode(npz(compressed, depth=values))
        np.testing.assert_array_equal(decoded[0].numpy(), values.astype(np.float32))


def test_nan_infinity_and_invalid_are_no_reading_in_every_file() -> None:
    values = METRES.copy()
    values[0, :4] = np.nan, np.inf, -1.0, 99.0
    expected = np.where(np.arange(11 * 7).reshape(7, 11) < 4, 0, METRES)
    for payload in (exr({"Z": values}), tiff(values), pfm(values), npz(depth=values)):
        np.testing.assert_array_equal(Depth(scale_m=1.0, invalid=99.0).decode(payload)[0].numpy(), expected)


def test_rasters_are_read_from_the_same_files() -> None:
    for payload in (exr({"Y": METRES}), pfm(METRES), npz(height=METRES)):
        np.testing.assert_array_equal(Raster().decode(payload)[0].numpy(), METRES)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (npz(a=METRES, b=METRES), "depth in a .npz must be its only array, got a, b; save it apart"),
        (npz(), "depth in a .npz must be its only array, got none"),
        (npz(a=np.array(["text"])), r"depth must be an integer or float array \[height, width\], got <U4"),
        (b"PF\n1 1\n-1\n" + bytes(12), r"depth in a PFM must have one channel \(Pf\), got three \(PF\)"),
        (b"Pf\n11\n", "PFM of 6 bytes is damaged or cut short: its header must be Pf, width, height and scale"),
        (b"Pf\n0 3\n-1\n", "width, height and scale must not be 0, got 0, 3 and -1"),
        (b"Pf\n1 1\nee\n" + bytes(4), "PFM of 14 bytes is damaged"),
        (tiff((METRES * 16).astype(np.uint8)), "depth in a TIFF must be one channel of 16-bit"),
    ],
)
def test_what_is_no_map_is_refused_by_name(payload: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        DEPTH.decode(payload)


def files() -> dict[str, bytes]:
    return {"npz": npz(depth=METRES), "stored npz": npz(False, depth=METRES), "pfm": pfm(METRES), "tiff": tiff(METRES)}


@pytest.mark.parametrize("name", [*files(), "exr"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.6, 0.9, 0.999])
def test_a_file_cut_anywhere_is_refused(name: str, share: float) -> None:
    payload = exr({"Z": METRES}) if name == "exr" else files()[name]
    with pytest.raises(DecodeError):
        DEPTH.decode(payload[: int(share * len(payload))])


def test_a_changed_byte_of_an_npz_is_found_by_its_checksum() -> None:
    payload = bytearray(npz(False, depth=METRES))
    payload[200] ^= 4
    with pytest.raises(DecodeError, match=r".npz of .* bytes is damaged or cut short: Bad CRC-32"):
        DEPTH.decode(bytes(payload))


def claiming_npz() -> bytes:
    """A .npz whose array is far larger than its bytes, because zeros are compressed."""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("depth.npy", "w") as member:
            np.lib.format.write_array_header_1_0(
                member, {"descr": "<f4", "fortran_order": False, "shape": (10_000, 10_000)}
            )
            for _ in range(3):  # far more than the test allows
                member.write(bytes(4_000_000))
        return file.getvalue()


def claiming_exr() -> bytes:
    payload = exr({"Z": METRES})
    window = payload.index(b"dataWindow\0box2i\0") + len(b"dataWindow\0box2i\0") + 4
    return payload[:window] + struct.pack("<4i", 0, 0, 99_999, 99_999) + payload[window + 16 :]


@pytest.mark.parametrize("claim", [claiming_npz, claiming_exr, lambda: b"Pf\n99999 99999\n-1\n" + bytes(64)])
def test_more_pixels_than_allowed_are_refused_before_memory_is_taken(claim: Any) -> None:
    payload = claim()
    tracemalloc.start()
    with pytest.raises(DecodeError, match=r"more than the 50000000 allowed; .* CROSSMODAL_MAX_PIXELS="):
        DEPTH.decode(payload)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_an_exr_without_its_package_is_one_sentence_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    payload, real = exr({"Z": METRES}), builtins.__import__

    def missing(name: str, *rest: Any, **options: Any) -> Any:
        if name == "OpenEXR":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DecodeError, match=r"depth in an EXR needs the package OpenEXR: pip install 'crossmodal-trans"):
        DEPTH.decode(payload)


def test_an_exr_of_several_parts_is_refused() -> None:
    payload = bytearray(exr({"Z": METRES}))
    payload[5] |= 0x10
    with pytest.raises(DecodeError, match="depth in an EXR must be its only part, with one sample a pixel"):
        DEPTH.decode(bytes(payload))
