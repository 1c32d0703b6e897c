"""Sound: FLAC, WAV and OGG <-> amplitude."""

import io
import math

import numpy as np
import soundfile
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torchaudio.functional import resample

from modalities import DecodeError
from modalities.common.options import Limit

OGG = b"OggS"  # begins a page
# in all channels, as stored and as resampled: 62 minutes of mono at 16 kHz; reading them takes less than 1 GB
MAX_SAMPLES = Limit("CROSSMODAL_MAX_SAMPLES", 60_000_000, "samples")
UNKNOWN_FRAMES = 2**62  # libsndfile's length of a FLAC that does not say it lies above
UNKNOWN_BYTES = 0x7FFF0000  # ffmpeg, sox and arecord write some number above this where they do not know the length
HEADROOM = 8.0  # largest amplitude of floating samples, 18 dB above full scale: recordings may be somewhat too loud
SLOWEST_HZ, FASTEST_HZ = 1000, 384000  # rates of sound, stored and heard
USUAL_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000)  # for messages
# most coefficients of a resampling filter, about the product of the rates in lowest terms: torchaudio builds it anew
# for each file, this many in 0.04 s and 50 MB; the usual rates need up to 0.6 million, 44101 to 16000 Hz 700 million
LARGEST_FILTER = 2**21


def decode_sound(payload: bytes, *, rate_hz: int, channels: int) -> Float[Tensor, "channels samples"]:
    """Amplitude in [-1, 1] at `rate_hz`, clipped to that range.

    Raises:
        DecodeError: it is no sound that can be read, is cut short or too long, holds no samples, no numbers or
            numbers on the scale of integers, has a rate that cannot be resampled to `rate_hz` at a bearable cost,
            or more than two channels where `channels` is 2.
    """
    samples, stored_hz = _read(payload)
    if channels == 2 and len(samples) > 2:
        raise DecodeError(f"channels=2 needs mono or stereo sound, got {len(samples)} channels; use channels=1")
    if stored_hz != rate_hz:
        _check_rate(stored_hz, rate_hz)
        MAX_SAMPLES.check(samples.numel() * rate_hz // stored_hz, f"sound resampled to {rate_hz} Hz")
        samples = resample(samples, stored_hz, rate_hz)
    return samples.clamp_(-1, 1)


def encode_sound(signal: Float[Tensor, "channels samples"], rate_hz: int) -> bytes:
    """FLAC of 16 bits at `rate_hz`."""
    with io.BytesIO() as file:
        soundfile.write(file, signal.T.numpy(), rate_hz, format="FLAC", subtype="PCM_16")
        return file.getvalue()


def _check_rate(stored_hz: int, rate_hz: int) -> None:
    if not (SLOWEST_HZ <= stored_hz <= FASTEST_HZ and _filter_size(stored_hz, rate_hz) <= LARGEST_FILTER):
        fitting = sorted({rate_hz} | {hz for hz in USUAL_HZ if _filter_size(hz, rate_hz) <= LARGEST_FILTER})
        raise DecodeError(
            f"sound must have a rate from {SLOWEST_HZ} to {FASTEST_HZ} Hz that is a simple ratio of "
            f"rate_hz={rate_hz}, got {stored_hz} Hz; fitting are {', '.join(map(str, fitting))}"
        )


def _filter_size(stored_hz: int, rate_hz: int) -> int:
    return stored_hz * rate_hz // math.gcd(stored_hz, rate_hz) ** 2


class _Stream(soundfile.SoundFile):
    """Read from beginning to end: soundfile seeks after each read, which fails in a FLAC of unknown length."""

    def seekable(self) -> bool:
        return False


def _read(payload: bytes) -> tuple[Float[Tensor, "channels samples"], int]:
    """Stored samples and their rate. torchaudio's own reader needs torchcodec, which we do not."""
    if payload.startswith(b"RIFF"):
        payload = _whole_wav(payload)
    if payload.startswith(OGG) and not _ends(payload):
        raise DecodeError(f"sound must be whole, got {len(payload)} bytes of an OGG without its end")
    try:
        samples, rate_hz = _read_samples(payload)
    except DecodeError:
        raise
    except Exception as error:  # soundfile lets out what numpy says of a length that a damaged header claims
        raise DecodeError(f"sound must be FLAC, WAV or OGG, got {len(payload)} bytes: {error}") from error
    sound = torch.from_numpy(np.ascontiguousarray(samples.T))
    peak = max(map(abs, map(float, sound.aminmax()))) if sound.numel() else math.nan
    if not math.isfinite(peak):
        raise DecodeError(f"sound must hold finite samples, got {list(sound.shape)} with channels first")
    _check_amplitude(sound, peak)
    return sound, rate_hz


def _read_samples(payload: bytes) -> tuple[Float32[np.ndarray, "samples channels"], int]:
    with _Stream(io.BytesIO(payload)) as file:
        if file.frames < UNKNOWN_FRAMES:
            MAX_SAMPLES.check(file.frames * file.channels, f"sound of {file.frames / file.samplerate:.0f} s")
            return soundfile.read(io.BytesIO(payload), dtype="float32", always_2d=True)
        pieces: list[np.ndarray] = []
        while not pieces or len(pieces[-1]):
            pieces.append(file.read(1 << 20, dtype="float32", always_2d=True))
            MAX_SAMPLES.check(sum(piece.size for piece in pieces), "sound of unknown length")
        return np.concatenate(pieces), file.samplerate


def _check_amplitude(sound: Float[Tensor, "channels samples"], peak: float) -> None:
    """Refuses floating samples on the scale of whole numbers, which clipping would make a square wave."""
    if peak > HEADROOM or (peak > 1 and torch.equal(sound, sound.round())):
        raise DecodeError(
            f"floating samples must lie in [-1, 1], got a peak of {peak:g}; if these are 16-bit numbers, divide them "
            "by 32768 or write the file as 16-bit PCM"
        )


def _whole_wav(wav: bytes) -> bytes:
    """The WAV, with its true length where the header leaves it open, as programs do that write to a pipe.

    Raises:
        DecodeError: it is shorter than its header says; libsndfile would read on in silence.
    """
    told = int.from_bytes(wav[4:8], "little")  # bytes that follow
    place = 12
    while (name := wav[place : place + 4]) != b"data" and place + 8 <= len(wav):
        size = int.from_bytes(wav[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    begin, size = place + 8, int.from_bytes(wav[place + 4 : place + 8], "little")
    is_open = told == 0 or told >= UNKNOWN_BYTES or (name == b"data" and size == 0 and 8 + told <= begin)
    if not is_open and len(wav) + 1 < 8 + told:  # a last byte of padding may lack
        raise DecodeError(f"sound must be whole, got {len(wav)} bytes of a WAV of {8 + told}")
    if name != b"data":
        return wav  # libsndfile says what is wrong
    if is_open and (size == 0 or size >= UNKNOWN_BYTES):
        follow = (len(wav) - 8).to_bytes(4, "little"), (len(wav) - begin).to_bytes(4, "little")
        return wav[:4] + follow[0] + wav[8 : begin - 4] + follow[1] + wav[begin:]
    if begin + size > len(wav) + 1:
        raise DecodeError(f"sound must be whole, got {len(wav) - begin} of {size} bytes of samples of a WAV")
    return wav


def _ends(ogg: bytes) -> bool:
    """True if the last page is complete and has the end-of-stream flag (RFC 3533, section 6)."""
    page = ogg[ogg.rfind(OGG) :]
    if len(page) < 27 or not page[5] & 4:
        return False
    sizes = page[27 : 27 + page[26]]
    return len(page) >= 27 + page[26] + sum(sizes)
