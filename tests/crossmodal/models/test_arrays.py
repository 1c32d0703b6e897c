"""Models on arrays in a modality's unit."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from crossmodal import ENCODERS
from crossmodal.data.inputs import InputError
from crossmodal.models import Card, Model
from modalities import MODALITIES, CropBox

OPTIONS: dict[str, Any] = {"width": 4, "stages": 2}


def model_of(modality: str, **view: Any) -> Model:
    torch.manual_seed(0)
    seen = MODALITIES.get(modality)(**view)
    card = Card("convnet", OPTIONS, seen.shape, [], modality, view)
    return Model(card, ENCODERS.get("convnet")(seen.shape, 0, **OPTIONS).eval(), seen, {})


def test_sound_has_channels_or_none() -> None:
    model = model_of("audio", window_s=0.25, mels=32, rate_hz=8000)
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 2000)).astype(np.float32)
    with torch.inference_mode():
        expected = model.encoder(model.modality.normalise(model.modality.adapt(torch.tensor(sound), CropBox())[None]))
    assert torch.equal(model.embed(sound), expected.embedding)
    assert torch.equal(model.embed(sound[0]), expected.embedding)


@pytest.mark.parametrize("modality", ["depth", "thermal", "raster"])
@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_numbers_of_a_map_that_are_not_finite_are_no_readings(modality: str, bad: float) -> None:
    model = model_of(modality, size=16, **({"low": 0.0, "high": 9.0} if modality == "raster" else {}))
    numbers = np.full((16, 16), 300.0 if modality == "thermal" else 2.0, dtype=np.float32)
    numbers[3:6], gaps = bad, numbers.copy()
    gaps[3:6] = 0.0 if modality == "depth" else math.nan
    vectors = model.embed(numbers)
    assert vectors.isfinite().all() and torch.equal(vectors, model.embed(gaps))


@pytest.mark.parametrize(("modality", "shape", "kind"), [
    ("rgb", (3, 16, 16), "uint8"), ("rgb", (16, 16, 3), "uint16"), ("depth", (16, 16), "uint16"),
    ("depth", (16, 16, 3), "uint8"), ("audio", (1, 2000), "int16"),
])  # fmt: skip
def test_integers_without_a_unit_are_refused(modality: str, shape: tuple[int, ...], kind: str) -> None:
    model = model_of(modality, **({"window_s": 0.25, "rate_hz": 8000} if modality == "audio" else {"size": 16}))
    with pytest.raises(InputError, match=f"an array of {kind} has no unit; give floats in the modality's unit"):
        model.embed(np.ones(shape, dtype=kind))


@pytest.mark.parametrize(("modality", "shape"), [("rgb", (3, 16, 16)), ("audio", (1, 2000))])
def test_other_signals_must_be_finite(modality: str, shape: tuple[int, ...]) -> None:
    model = model_of(modality, **({"size": 16} if modality == "rgb" else {"window_s": 0.25, "rate_hz": 8000}))
    signal = np.zeros(shape, dtype=np.float32)
    signal[0, 0] = math.nan
    with pytest.raises(InputError, match=f"an array holds NaN or infinity, which {modality} cannot have"):
        model.embed(signal)


@pytest.mark.parametrize(("modality", "value", "text"), [
    ("depth", 1500.0, r"the median distance must be from 0\.005 to 1000 m, got 1500 m; is the array in another unit\?"),
    ("depth", 0.001, r"got 0\.001 m; is the array in another unit\?"),
    ("thermal", 25.0, r"the median temperature must be from 150 to 2000 K, got 25 K; is the array in another unit\?"),
])  # fmt: skip
def test_numbers_in_another_unit_are_refused(modality: str, value: float, text: str) -> None:
    numbers = np.full((16, 16), value, dtype=np.float32)
    numbers[:5] = 0.0 if modality == "depth" else math.nan
    with pytest.raises(InputError, match=text):
        model_of(modality, size=16).embed(numbers)


@pytest.mark.parametrize(("modality", "shape", "text"), [
    ("depth", (5, 16, 16), r"\[5, 16, 16\] is no .*; it must be \[1, height, width\] or \[height, width\]"),
    ("depth", (5, 1, 16, 16), r"\[5, 1, 16, 16\] is no signal .*, and several signals a list"),
    ("depth", (16,), r"\[16\] is no signal"),
    ("depth", (0, 16), r"\[0, 16\] is no signal"),
    ("rgb", (16, 16), r"\[16, 16\] is no signal of rgb; it must be \[3, height, width\], and"),
    ("rgb", (16, 16, 3), r"\[16, 16, 3\] is no signal of rgb"),
    ("audio", (1, 1, 2000), r"\[1, 1, 2000\] is no .*; it must be \[channels, samples\] or \[samples\], and"),
])  # fmt: skip
def test_an_array_of_another_shape_is_refused_with_the_right_one(
    modality: str, shape: tuple[int, ...], text: str
) -> None:
    model = model_of(modality, **({"window_s": 0.25, "rate_hz": 8000} if modality == "audio" else {"size": 16}))
    with pytest.raises(InputError, match=f"an array of shape {text}"):
        model.embed(np.ones(shape, dtype=np.float32))
