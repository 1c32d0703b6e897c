"""Colour pictures, their lightness and their chroma."""

import io
import math
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from modalities import CropBox, DecodeError
from modalities.chrominance import Chrominance
from modalities.codecs.raster import orientation_of
from modalities.common.colour import from_lab, to_lab, turn_hue
from modalities.common.random import generator
from modalities.luminance import Luminance
from modalities.rgb import Rgb
from modalities.synthetic.scene import draw_scene

PLAIN = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "grey": 0.0}
LUMA = torch.tensor([0.299, 0.587, 0.114])


def picture(size: int = 16, *, seed: int = 0) -> torch.Tensor:
    """Moderate colours, so that neither Lab nor a turn of hue leaves the screen's range."""
    return 0.4 + 0.2 * torch.rand(3, size, size, generator=generator(seed))


def file(mode: str, kind: str = "PNG") -> bytes:
    with io.BytesIO() as memory:
        Image.new(mode, (4, 3), 200 if mode in ("L", "P", "1", "I;16") else None).save(memory, kind)
        return memory.getvalue()


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGB", "RGBA"])
def test_any_8_bit_png_becomes_three_channels(mode):
    assert Rgb().decode(file(mode)).shape == (3, 3, 4)


def test_a_jpeg_that_lost_its_end_is_refused():
    whole = Rgb().encode(picture(64))
    for kept in (0.5, 0.8, 0.95):
        cut = int(kept * len(whole))
        for payload in (whole[:cut], whole[:cut] + bytes(len(whole) - cut)):
            with pytest.raises(DecodeError, match=r"JPEG of .* bytes is damaged or cut short"):
                Rgb().decode(payload)
    assert torch.equal(Rgb().decode(whole + bytes(7)), Rgb().decode(whole))  # padding is none of ours


def jpeg(pixels: torch.Tensor, **options: Any) -> bytes:
    with io.BytesIO() as memory:
        Image.fromarray((pixels * 255).byte().permute(1, 2, 0).numpy()).save(memory, "JPEG", **options)
        return memory.getvalue()


@pytest.mark.parametrize("seed", range(8))
def test_bytes_behind_a_jpeg_do_not_matter(seed):
    whole = Rgb().encode(picture(64, seed=seed))
    film = b"MotionPhoto_Data" + torch.randint(256, (100_000,), generator=generator(seed)).byte().numpy().tobytes()

    assert torch.equal(Rgb().decode(whole + film), Rgb().decode(whole))
    assert torch.equal(Rgb().decode(whole + b"\xff\xda" + whole), Rgb().decode(whole))
    with pytest.raises(DecodeError, match="cut short"):
        Rgb().decode(whole[:-9] + bytes(100))


@pytest.mark.parametrize("options", [{}, {"subsampling": "4:4:4"}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_a_jpeg_whose_data_end_early_is_refused_though_it_has_its_end(options, share):
    whole = jpeg(picture(50), **options)
    start = whole.index(b"\xff\xda") + 14

    with pytest.raises(DecodeError, match="its data end before its last rows"):
        Rgb().decode(whole[: start + int(share * (len(whole) - start))].rstrip(b"\xff") + b"\xff\xd9")
    assert Rgb().decode(whole).shape == (3, 50, 50)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
@pytest.mark.parametrize("grey", [127, 128, 129])
def test_a_whole_jpeg_that_is_mid_grey_is_read(options, grey):
    decoded = Rgb().decode(jpeg(torch.full((3, 41, 57), (grey + 0.5) / 255), **options))

    assert decoded.shape == (3, 41, 57) and (decoded * 255 - grey).abs().max() < 1.5


def test_a_small_jpeg_that_claims_much_is_refused_by_its_header():
    whole = jpeg(torch.full((3, 8, 8), 0.5))
    place = whole.index(b"\xff\xc0") + 5
    claimed = whole[:place] + struct.pack(">HH", 13000, 13000) + whole[place + 4 :]

    with pytest.raises(DecodeError, match="is damaged or cut short: 13000 x 13000 pixels take at least 330078 bytes"):
        Rgb().decode(claimed)


def test_a_small_png_that_claims_much_is_refused_by_its_header():
    whole = file("RGB")
    header = whole[12:16] + struct.pack(">II", 5000, 5000) + whole[24:29]
    claimed = whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]

    with pytest.raises(DecodeError, match="is damaged or cut short: 5000 x 5000 pixels take more than"):
        Rgb().decode(claimed)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_larger_than_allowed_is_refused_with_the_way_out(kind, monkeypatch: pytest.MonkeyPatch):
    payload = file("RGB", kind)
    monkeypatch.setenv("CROSSMODAL_MAX_PIXELS", "11")
    with pytest.raises(
        DecodeError, match=r"of 4 x 3 has 12 pixels, more than the 11 allowed; .* CROSSMODAL_MAX_PIXELS=12"
    ):
        Rgb().decode(payload)
    monkeypatch.setenv("CROSSMODAL_MAX_PIXELS", "12")
    assert Rgb().decode(payload).shape == (3, 3, 4)


def test_long_texts_and_large_profiles_of_a_png_do_not_matter():
    texts = PngInfo()
    texts.add_text("notes", "a" * (2 << 20), zip=True)
    texts.add_itxt("more", "b" * (2 << 20), zip=True)
    pixels = Image.fromarray((picture() * 255).byte().permute(1, 2, 0).numpy())
    with io.BytesIO() as plain, io.BytesIO() as full:
        pixels.save(plain, "PNG")
        pixels.save(full, "PNG", pnginfo=texts, icc_profile=bytes(3 << 20))

        assert torch.equal(Rgb().decode(full.getvalue()), Rgb().decode(plain.getvalue()))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_is_turned_by_its_tag(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    with io.BytesIO() as memory:
        Image.fromarray((picture() * 255).byte().permute(1, 2, 0).numpy()[:, :9]).save(memory, kind, exif=exif)
        payload = memory.getvalue()
        expected = ImageOps.exif_transpose(Image.open(memory))

    for modality in (Rgb(), Luminance(), Chrominance()):
        decoded = (modality.decode(payload) * 255).round().byte().permute(1, 2, 0)
        assert decoded.tolist() == np.asarray(expected).tolist()
    assert orientation_of(payload) == (orientation if 1 <= orientation <= 8 else None)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, of the damage made here
def test_a_damaged_tag_turns_nothing():
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = jpeg(picture(), exif=exif)
    damaged = whole.replace(b"Exif\0\0MM\0*\0\0\0\x08", b"Exif\0\0MM\0*\xff\xff\xff\x08")
    assert damaged != whole

    assert torch.equal(Rgb().decode(damaged), Rgb().decode(jpeg(picture())))


def test_whatever_damage_does_to_the_decoder_is_one_kind_of_error(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("bytes of a damaged palette lead here")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DecodeError, match="is damaged or cut short: bytes of a damaged palette lead here"):
        Rgb().decode(file("P"))


def test_a_png_without_its_palette_is_damaged():  # but not without transparency: Pillow raises AssertionError
    with io.BytesIO() as memory:
        Image.new("P", (4, 3), 200).save(memory, "PNG", transparency=b"\0\1\2")
        payload = memory.getvalue()
    palette, transparency = (payload.index(name) - 4 for name in (b"PLTE", b"tRNS"))

    with pytest.raises(DecodeError, match=r"PNG \(.-bit palette\) of .* bytes is damaged"):
        Rgb().decode(payload[:palette] + payload[transparency:])


def test_png_is_exact():
    pixels = (picture() * 255).byte()
    with io.BytesIO() as memory:
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(memory, "PNG")
        assert torch.equal(Rgb().decode(memory.getvalue()), pixels.float() / 255)


@pytest.mark.parametrize("kind", [Rgb, Luminance, Chrominance])
def test_a_depth_map_is_never_taken_for_a_colour(kind):
    with pytest.raises(DecodeError, match=r"must have 8 bits a channel, got PNG \(16-bit grey\): if it is a depth map"):
        kind().decode(file("I;16"))


def test_other_formats_are_refused_by_name():
    with pytest.raises(DecodeError, match=r"must be a JPEG or PNG, got .* bytes that begin with b'GIF8"):
        Rgb().decode(file("P", "GIF"))


def test_a_window_shows_its_part_and_mirrors_it():
    signal = torch.zeros(3, 8, 8)
    signal[:, 2:4, 4:6] = 1

    quarter = Rgb(size=2).adapt(signal, CropBox(top=0.25, left=0.5, height=0.25, width=0.25))
    half = Rgb(size=4).adapt(signal, CropBox(top=0.0, left=0.5, height=0.5, width=0.5, flip=True))

    assert quarter.min() == 1
    assert half[0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_a_window_that_leaves_the_picture_shows_black_there():
    signal = torch.rand(3, 8, 8, generator=generator("window"))

    above = Rgb(size=8).adapt(signal, CropBox(top=-0.25, left=0.125))
    beside = Rgb(size=4).adapt(signal, CropBox(top=0.5, left=0.75, height=0.5, width=0.5))

    assert torch.equal(above, torch.nn.functional.pad(signal, (0, 1, 2, 0))[:, :8, 1:])
    assert torch.equal(beside, torch.nn.functional.pad(signal[:, 4:, 6:], (0, 2)))


def test_shrinking_averages():
    stripes = torch.zeros(3, 64, 64)
    stripes[:, :, ::8] = 1  # plain bilinear sampling by 8 would fall between them

    assert (Rgb(size=8).adapt(stripes, CropBox()).mean() - 1 / 8).abs() < 0.01


def test_an_augmentation_of_strength_0_changes_nothing():
    batch = picture()[None]

    torch.testing.assert_close(Rgb(**PLAIN).augment(batch, torch.rand(1, 8)), batch, atol=1e-5, rtol=0)


def test_every_channel_is_normalised_by_its_own_numbers():
    rgb, batch = Rgb(), torch.stack([picture(), picture(seed=1)])

    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (rgb.mean, rgb.std))
    assert torch.equal(rgb.normalise(batch), (batch - mean) / std)


def test_grey_keeps_luma_and_drops_colour():
    grey = Rgb(**PLAIN | {"grey": 1.0}).augment(picture()[None], torch.rand(1, 8))[0]

    assert (grey - grey[:1]).abs().max() < 1e-6
    torch.testing.assert_close(grey[0], torch.einsum("c,chw->hw", LUMA, picture()), atol=1e-4, rtol=0)


def test_a_blur_keeps_the_sum_and_lowers_the_peak():
    dot = torch.zeros(2, 3, 17, 17)
    dot[:, :, 8, 8] = 1
    draws = torch.full((2, 8), 0.5)
    draws[1, 6] = 0.99  # above the chance: not blurred

    blurred = Rgb(**PLAIN, blur=0.9).augment(dot, draws)

    assert blurred[0].max() < 0.5
    torch.testing.assert_close(blurred.sum((2, 3)), torch.ones(2, 3))
    torch.testing.assert_close(blurred[1], dot[1], atol=1e-5, rtol=0)


def test_a_blur_wider_than_the_picture_is_refused():
    widest = Rgb(size=32, blur=1.0, blur_px=15.5)
    assert widest.augment(torch.rand(1, 3, 32, 32), torch.full((1, 8), 0.5)).isfinite().all()
    with pytest.raises(ValueError, match=r"blur_px must be at most 15\.5 for pictures of 32 pixels, got 15\.6"):
        Rgb(size=32, blur=1.0, blur_px=15.6)
    Rgb(size=32, blur_px=20)  # which blurs nothing


def test_a_turn_of_hue_keeps_luma_and_grey_and_can_be_undone():
    batch, angle = picture()[None], torch.tensor([0.7])

    turned = turn_hue(batch, angle)

    luma = torch.einsum("c,bchw->bhw", LUMA, torch.stack([batch, turned])[:, 0])
    torch.testing.assert_close(luma[0], luma[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(turn_hue(turned, -angle), batch, atol=1e-5, rtol=0)
    torch.testing.assert_close(turn_hue(batch, torch.tensor([2 * math.pi])), batch, atol=1e-5, rtol=0)
    assert (turned - batch).abs().max() > 0.05
    grey = picture()[None, :1].expand(1, 3, -1, -1)
    torch.testing.assert_close(turn_hue(grey, angle), grey, atol=1e-5, rtol=0)


def test_lightness_of_grey_follows_its_definition():
    grey = torch.linspace(0.1, 1, 16)
    linear = ((grey + 0.055) / 1.055) ** 2.4

    lightness = Luminance(size=16).adapt(grey.expand(3, 16, 16), CropBox())

    torch.testing.assert_close(lightness[0, 0], 116 * linear ** (1 / 3) - 16, atol=0.01, rtol=0)


def test_grey_has_no_chroma():
    grey = torch.linspace(0, 1, 16).expand(3, 16, 16)

    assert Chrominance(size=16).adapt(grey, CropBox()).abs().max() < 0.01


def test_chroma_does_not_see_lightness_nor_lightness_chroma():
    lab, other = to_lab(picture()), to_lab(picture(seed=1))
    swapped = from_lab(torch.cat([other[:1], lab[1:]]))

    torch.testing.assert_close(Chrominance(size=16).adapt(swapped, CropBox()), lab[1:], atol=0.05, rtol=0)
    torch.testing.assert_close(Luminance(size=16).adapt(swapped, CropBox()), other[:1], atol=0.05, rtol=0)


def test_augmented_grey_stays_grey():
    assert Chrominance().augment(torch.zeros(1, 2, 4, 4), torch.rand(1, 2)).abs().max() == 0


def test_rgb_luminance_and_chrominance_store_the_same_bytes():
    scene = draw_scene(generator(0))

    assert len({kind().encode(kind().render(scene)) for kind in (Rgb, Luminance, Chrominance)}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be from 1 to inf, got 0"),
        ({"quality": 101}, "quality must be from 1 to 100, got 101"),
        ({"hue": 4.0}, "hue must be from 0 to 3.14.*, got 4.0"),
        ({"grey": math.nan}, "grey must be from 0 to 1, got nan"),
        ({"std": (0.2, 0.0, 0.2)}, "smallest_std must be from 1e-06"),
    ],
)
def test_rgb_refuses_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Rgb(**options)


@pytest.mark.parametrize("kind", [Luminance, Chrominance])
def test_luminance_and_chrominance_refuse_options_out_of_range(kind):
    for options in ({"size": 0}, {"quality": 0}, {"std": 0.0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be from"):
            kind(**options)


def test_bicubic_crops_are_those_of_pillow_up_to_its_rounding() -> None:
    signal = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
    signal = torch.nn.functional.interpolate(signal[None], (64, 64), mode="bicubic").clamp(0, 1)[0]
    pixels = (signal * 255).round().byte()
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((24, 24), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    found = {mode: Rgb(size=24, interpolation=mode).adapt(pixels / 255, CropBox())
             for mode in ("bilinear", "bicubic")}  # fmt: skip
    # Pillow rounds to 8 bits, and cuts what lies outside of them, after each of its two passes
    assert (found["bicubic"] - expected).abs().quantile(0.99) < 1.1 / 255
    assert (found["bilinear"] - expected).abs().max() > 0.02


def test_options_of_later_versions_are_recorded_only_where_they_are_not_default() -> None:
    kinds = {mode: Rgb(interpolation=mode).recorded() for mode in ("bilinear", "bicubic")}
    assert "interpolation" not in kinds["bilinear"]
    assert kinds["bicubic"] == {**kinds["bilinear"], "interpolation": "bicubic"}


def test_pictures_of_8_bits_are_those_of_pillow_resized_once() -> None:
    """Only one side shrinks, because Pillow rounds after each of its two passes; and it rounds halves up."""
    pixels = torch.randint(0, 256, (3, 24, 12), generator=torch.Generator().manual_seed(0)).byte()
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((12, 12), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    found = Rgb(size=12, fit="stretch", bits=8).adapt(pixels / 255, CropBox()) * 255
    assert torch.equal(found, found.round())
    assert (found - expected).abs().max() <= 1 and (found == expected).float().mean() > 0.95
    assert Rgb(bits=8).recorded()["bits"] == 8 and "bits" not in Rgb().recorded()
