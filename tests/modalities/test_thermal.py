"""Thermal pictures: kelvin by scale and offset, raw counts with a range, previews refused, errors of a detector."""

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modalities import CropBox, DecodeError
from modalities.common.random import generator
from modalities.thermal import Thermal

NAN = math.nan
COUNTS = (27_000 + np.arange(11 * 13).reshape(11, 13) * 30).astype(np.uint16)


def saved(values: np.ndarray, form: str, mode: str | None = None) -> bytes:
    with io.BytesIO() as file:
        image = Image.fromarray(values)
        (image.convert(mode) if mode else image).save(file, form)
        return file.getvalue()


def npy(values: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        np.save(file, values)
        return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_hundredths_of_a_kelvin(form: str) -> None:
    kelvin = Thermal().decode(saved(COUNTS, form))

    np.testing.assert_array_equal(kelvin.numpy(), (COUNTS * 0.01).astype(np.float32)[None])


def test_celsius_in_floating_numbers_is_kelvin_by_the_offset() -> None:
    celsius = np.linspace(-20, 40, 12).reshape(3, 4).astype(np.float32)

    for payload in (npy(celsius), saved(celsius, "TIFF")):
        kelvin = Thermal(scale_k=1.0, offset_k=273.15).decode(payload)
        np.testing.assert_allclose(kelvin[0].numpy(), celsius + 273.15, rtol=2e-7)


def test_raw_counts_stay_counts() -> None:
    counts = Thermal(scale_k=None, low=0.0, high=9000.0).decode(saved(COUNTS, "PNG"))

    np.testing.assert_array_equal(counts.numpy(), COUNTS[None].astype(np.float32))


def test_zero_nan_and_infinity_are_no_reading() -> None:
    values = np.array([[290.0, 0.0], [np.nan, np.inf]], np.float32)

    kelvin = Thermal(scale_k=1.0).decode(npy(values))

    np.testing.assert_array_equal(kelvin.numpy(), [[[290, NAN], [NAN, NAN]]])
    assert Thermal(scale_k=None, invalid=None).decode(npy(values))[0, 0, 1] == 0


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (saved(COUNTS.astype(np.uint8), "PNG"), "a thermal picture must be a 16-bit .*, got PNG .8-bit grey.: 8 bits"),
        (saved(COUNTS.astype(np.uint8), "PNG", "RGB"), "got PNG .8-bit RGB.: 8 bits or colours make a preview"),
        (saved(COUNTS.astype(np.uint8), "JPEG"), "got JPEG: 8 bits or colours make a preview"),
        (saved(COUNTS.astype(np.uint8), "TIFF"), "a thermal picture in a TIFF must be one channel of 16-bit"),
        (npy(COUNTS.astype(np.uint8)), "must have 16 bits or floating numbers, got 8 bits: 8 bits or colours"),
        (saved(COUNTS // 10, "PNG"), "the median temperature must be from 150 to 2000 K, got 29.13 K with scale_k=0.01 "
                                     r"and offset_k=0; does the file store .* or raw counts \(scale_k: null\)\?"),
    ],
)  # fmt: skip
def test_previews_and_implausible_temperatures_are_refused_with_the_reason(payload: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        Thermal().decode(payload)


def test_no_reading_survives_a_round_trip_and_needs_a_number_to_be_stored_as() -> None:
    signal = torch.tensor([[[280.0, NAN], [301.25, 0.01]]])

    torch.testing.assert_close(Thermal().decode(Thermal().encode(signal)), signal, equal_nan=True)
    with pytest.raises(ValueError, match="a picture that lacks readings needs an invalid from 0 to 65535, got None"):
        Thermal(invalid=None).encode(signal)
    with pytest.raises(ValueError, match=r"from 0 to 65535 and not as invalid=0.0, got 700 K; use another scale_k"):
        Thermal().encode(torch.full((1, 2, 2), 700.0))


def test_a_crop_takes_stored_numbers_and_no_reading_stays_so() -> None:
    signal = Thermal().decode(saved(np.where(COUNTS % 7 == 0, 0, COUNTS), "PNG"))

    cropped = Thermal(size=9).adapt(signal, CropBox(top=0.2, left=0.1, height=0.7, width=0.6))

    assert {*cropped.nan_to_num(-1).unique().tolist()} <= {*signal.nan_to_num(-1).unique().tolist()}
    assert cropped.isnan().any()


def test_the_encoder_sees_equal_steps_and_no_reading_as_cold() -> None:
    values = torch.tensor([100.0, 270.0, 295.0, 320.0, 900.0, NAN]).view(1, 1, 1, -1)

    torch.testing.assert_close(Thermal().normalise(values).flatten(), torch.tensor([-2.0, -2.0, 0.0, 2.0, 2.0, -2.0]))


def test_a_detectors_errors_are_a_drift_offsets_of_columns_and_noise_in_shares_of_the_range() -> None:
    batch = torch.full((400, 1, 8, 8), 300.0)
    batch[:, :, 0, 0] = NAN

    def errors(**options: float) -> torch.Tensor:
        view = Thermal(**{"drift": 0.0, "columns": 0.0, "noise": 0.0, **options})  # type: ignore[arg-type]
        draws = torch.stack([view.draw(generator(number)) for number in range(400)])
        return view.augment(batch, draws)[:, 0] - 300

    assert errors()[:, 0, 0].isnan().all() and errors().nan_to_num().abs().max() == 0
    drifts = errors(drift=0.1)[:, 1:]
    torch.testing.assert_close(drifts, drifts[:, :1, :1].expand_as(drifts))
    assert -5 <= drifts.min() < -4.5 and 4.5 < drifts.max() <= 5  # a tenth of 270 to 320 K
    columns = errors(columns=0.02)[:, 1:]
    torch.testing.assert_close(columns, columns[:, :1].expand_as(columns))
    assert 0.95 < columns.std() < 1.05
    noise = errors(noise=0.02)[:, 1:]
    assert 0.97 < noise.std() < 1.03 and (noise - noise.mean(1, keepdim=True)).std() > 0.9


STATISTICS = {"mean": 7200.0, "std": 100.0, "min": 7000.0, "max": 9000.0}


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ({}, r"raw counts \(scale_k: null\) need the view's low and high; the readings are from 7000 to 9000"),
        ({"low": 7000.0}, "need the view's low and high"),
        (
            {"low": 8000.0, "high": 9000.0},
            "are from 7000 to 9000 counts, .* below 7300, so below low=8000",
        ),
    ],
)
def test_raw_counts_need_a_range_that_shows_them(view: dict[str, Any], message: str) -> None:
    Thermal(scale_k=None, low=7000.0, high=8000.0).refuse_unseen(STATISTICS)
    with pytest.raises(ValueError, match=message):
        Thermal(scale_k=None, **view).refuse_unseen(STATISTICS)


def test_a_sheet_shows_the_whole_range() -> None:
    assert Thermal(scale_k=None).show_all(STATISTICS).span == (7000.0, 9000.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale_k": 0.0}, "scale_k must be from 1e-09"),
        ({"scale_k": None, "offset_k": 273.15}, r"offset_k must be 0 for raw counts \(scale_k: null\), got 273.15"),
        ({"offset_k": math.inf}, "offset_k must be from"),
        ({"invalid": NAN}, "invalid must be finite or null, got nan"),
        ({"low": 330.0}, "low < high is needed, both finite, got 330.0 and 320.0"),
        ({"drift": 0.6}, "drift must be from 0 to 0.5, got 0.6"),
    ],
)
def test_thermal_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Thermal(**options)
