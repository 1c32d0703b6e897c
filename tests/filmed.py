"""Writes small videos, with chosen times and sound."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

av = pytest.importorskip("av", reason="videos are written by av")


def pictures(frames: int, seed: int = 0, height: int = 24, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def write(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    codec: str = "libx264rgb",
    pixels: str = "rgb24",
    times: Sequence[int] | None = None,
    base: Fraction = Fraction(1, 30),
    options: dict[str, str] | None = None,
    sound: np.ndarray | None = None,
    sound_at: int = 0,
    sound_codec: str = "pcm_s16le",
    rate: int = 16000,
    tracks: int = 1,
) -> Path:
    """Writes a video whose frame i is shown at times[i] * base; sound_at counts samples."""
    options = options or ({"qp": "0"} if codec.startswith("libx264") else {})
    with av.open(str(path), "w") as container:
        streams = []
        for _ in range(tracks):
            stream = container.add_stream(codec, rate=30, options=options)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pixels
            stream.time_base = stream.codec_context.time_base = base
            streams.append(stream)
        voice = None
        if sound is not None:
            voice = container.add_stream(sound_codec, rate=rate, layout="stereo" if len(sound) == 2 else "mono")
            voice.time_base = Fraction(1, rate)
            packed = np.ascontiguousarray((sound * 2**15).astype(np.int16).T.reshape(1, -1))
            heard = av.AudioFrame.from_ndarray(packed, format="s16", layout=voice.layout.name)
            heard.sample_rate, heard.pts, heard.time_base = rate, sound_at, Fraction(1, rate)
            container.mux(voice.encode(heard))
            container.mux(voice.encode(None))
        for number, stream in enumerate(streams):
            for place, picture in enumerate(frames):
                shown = _frame(picture if number == 0 else picture[::-1], pixels)
                shown.pts, shown.time_base = times[place] if times is not None else place, base
                container.mux(stream.encode(shown))
            container.mux(stream.encode(None))
    return path


def _frame(picture: np.ndarray, pixels: str) -> Any:
    if picture.ndim == 3:
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    frame = av.VideoFrame(picture.shape[1], picture.shape[0], pixels)
    plane = frame.planes[0]
    rows = np.zeros((picture.shape[0], plane.line_size // picture.itemsize), dtype=picture.dtype)
    rows[:, : picture.shape[1]] = picture
    plane.update(rows.tobytes())
    return frame
