"""Sound."""

import functools
import io
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor
from torchaudio.functional import resample
from torchaudio.transforms import MelSpectrogram

from modalities import CropBox, DecodeError, Modality
from modalities.codecs.raster import colour_map, spans
from modalities.common.options import Limit, check_within
from modalities.synthetic.scene import SHAPES, Scene, Solid

FLOOR = 1e-8  # power of a band below which 16-bit sound holds only its own rounding: -80 dB
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


@dataclass(frozen=True)
class Audio(Modality):
    """Sound as log-mel spectrograms in dB, one per channel, from FLAC, WAV or OGG of any rate.

    A signal is the amplitude in [-1, 1] at `rate_hz`. `adapt`, in the worker, cuts a piece and takes its spectrogram.
    Augmentation is SpecAugment's two masks (Park et al. 2019, https://arxiv.org/abs/1904.08779, section 2), without
    time warping, a gain, and a steady noise in all bands; the window's place in the slack shifts it in time.

    Raises:
        ValueError: an option is out of its range, no spectrum fits into the window, or the mel bands are finer than
            the spectrum.
    """

    field: ClassVar[str] = "audio"
    plane: ClassVar[str] = "spectrogram"
    extensions: ClassVar[tuple[str, ...]] = ("flac", "wav", "ogg")

    rate_hz: int = 16000  # samples per second; files of another rate are resampled
    window_s: float = 0.96  # length of the piece an encoder hears, seconds; shorter sound is followed by silence
    channels: int = 1  # 1: the mean of what is stored; 2: left and right
    mels: int = 64  # frequency bands
    frame_ms: float = 25.0  # length of one spectrum, milliseconds
    hop_ms: float = 10.0  # from one spectrum to the next, milliseconds
    min_hz: float = 60.0  # lowest frequency
    max_hz: float | None = None  # highest frequency; null: half of rate_hz
    gain_db: float = 6.0  # greatest change of loudness, dB
    time_mask: float = 0.15  # longest silenced stretch, as a fraction of the piece
    mel_mask: float = 0.15  # widest silenced stretch of bands, as a fraction of them
    noise: float = 0.0  # chance of a steady noise
    snr_db: float = 10.0  # how far the loudest noise lies below the piece's mean power, dB; the softest 30 dB further
    mean_db: float = -20.0  # subtracted, dB
    std_db: float = 25.0  # divided by, dB

    def __post_init__(self) -> None:
        check_within(SLOWEST_HZ, FASTEST_HZ, rate_hz=self.rate_hz)
        check_within(1, 2, channels=self.channels)
        check_within(1, 1000, frame_ms=self.frame_ms, hop_ms=self.hop_ms)
        check_within(self.frame_ms / 1000, 600, window_s=self.window_s)
        if not self.shape[-1]:
            raise ValueError(f"hop_ms must be at most the {1000 * self.window_s:g} ms of window_s, got {self.hop_ms:g}")
        check_within(0, self.top_hz, min_hz=self.min_hz)
        check_within(self.min_hz + 1, self.rate_hz / 2, max_hz=self.top_hz)
        check_within(0, 1, time_mask=self.time_mask, mel_mask=self.mel_mask, noise=self.noise)
        check_within(-60, 120, snr_db=self.snr_db)
        check_within(0, 60, gain_db=self.gain_db)
        check_within(1e-6, math.inf, std_db=self.std_db)
        check_within(1, self._most_mels(), mels=self.mels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, mel bands from low to high, and time."""
        return (self.channels, self.mels, self._samples() // self._count(self.hop_ms))

    @property
    def top_hz(self) -> float:
        """The highest frequency an encoder hears."""
        return self.rate_hz / 2 if self.max_hz is None else self.max_hz

    def decode(self, payload: bytes) -> Float[Tensor, "channels samples"]:
        """Amplitude in [-1, 1] at `rate_hz`, clipped to that range.

        Raises:
            DecodeError: it is no sound that can be read, is cut short or too long, holds no samples, no numbers or
                numbers on the scale of integers, has a rate that cannot be resampled to `rate_hz` at a bearable cost,
                or more than two channels where `channels` is 2.
        """
        samples, rate_hz = _read(payload)
        if self.channels == 2 and len(samples) > 2:
            raise DecodeError(f"channels=2 needs mono or stereo sound, got {len(samples)} channels; use channels=1")
        if rate_hz != self.rate_hz:
            self._check_rate(rate_hz)
            MAX_SAMPLES.check(samples.numel() * self.rate_hz // rate_hz, f"sound resampled to {self.rate_hz} Hz")
            samples = resample(samples, rate_hz, self.rate_hz)
        return samples.clamp_(-1, 1)

    def encode(self, signal: Float[Tensor, "channels samples"]) -> bytes:
        """FLAC of 16 bits at `rate_hz`."""
        with io.BytesIO() as file:
            soundfile.write(file, signal.T.numpy(), self.rate_hz, format="FLAC", subtype="PCM_16")
            return file.getvalue()

    def adapt(
        self, signal: Float[Tensor, "stored samples"], window: CropBox
    ) -> Float[Tensor, "{self.channels} {self.mels} frames"]:
        """The log-mel spectrogram of the window's piece, in dB; a full-scale sine has about 40."""
        heard = signal.mean(0, keepdim=True) if self.channels == 1 else signal.expand(2, -1)
        heard = heard.flip(0) if window.flip else heard
        slack = heard.shape[1] - self._samples()
        start = round(min(max(window.start, 0.0), 1.0) * max(slack, 0))
        piece = F.pad(heard[:, start : start + self._samples()], (0, max(-slack, 0)))
        power = _mel(self)(piece)[..., : self.shape[-1]]
        return 10 * power.clamp(min=FLOOR).log10()

    def draw(self, generator: torch.Generator) -> Float[Tensor, "7"]:
        """Seven uniform numbers: places and widths of both masks, gain, chance and level of noise."""
        return torch.rand(7, generator=generator)

    def augment(
        self, batch: Float[Tensor, "batch channels mels frames"], draws: Float[Tensor, "batch 7"]
    ) -> Float[Tensor, "batch channels mels frames"]:
        """The batch in noise, louder or softer, with a stretch of time and one of frequencies at `mean_db`."""
        place, length, band, width, gain, chance, level = draws.unbind(1)
        if self.noise:
            noisy = self._add_noise(batch, self.snr_db + 30 * level)
            batch = torch.where(chance[:, None, None, None] < self.noise, noisy, batch)
        late = spans(place, length * self.time_mask, batch.shape[-1])
        high = spans(band, width * self.mel_mask, batch.shape[-2])
        masked = late[:, None, None, :] | high[:, None, :, None]
        return torch.where(masked, self.mean_db, batch + (2 * gain[:, None, None, None] - 1) * self.gain_db)

    def normalise(
        self, batch: Float[Tensor, "batch channels mels frames"]
    ) -> Float[Tensor, "batch channels mels frames"]:
        """The dB less `mean_db`, over `std_db`."""
        return (batch - self.mean_db) / self.std_db

    def picture(self, adapted: Float[Tensor, "channels mels frames"]) -> Float[Tensor, "3 height frames"]:
        """Loud bright, soft dark, low frequencies at the bottom; left above right."""
        loudness = (self.normalise(adapted[None])[0] / 5 + 0.5).clamp(0, 1)
        return colour_map(loudness.flip(1).flatten(0, 1), "magma")

    def render(self, scene: Scene) -> Float[Tensor, "2 samples"]:
        """Every solid sings in the voice of its shape: the nearer the louder, and from where it is."""
        time = torch.arange(round(scene.duration_s * self.rate_hz)) / self.rate_hz
        return sum((_sing(solid, time, self.rate_hz) for solid in scene.solids), torch.zeros(2, len(time)))

    def _add_noise(self, batch: Tensor, below_db: Float[Tensor, " batch"]) -> Tensor:
        """Adds the power, equal in all bands, that lies so far below the mean power of each piece."""
        power = 10 ** (batch / 10)
        noise = power.mean(dim=(1, 2, 3), keepdim=True) * 10 ** (-below_db[:, None, None, None] / 10)
        return 10 * torch.log10(power + noise)

    def _check_rate(self, stored_hz: int) -> None:
        if not (SLOWEST_HZ <= stored_hz <= FASTEST_HZ and _filter_size(stored_hz, self.rate_hz) <= LARGEST_FILTER):
            fitting = sorted(
                {self.rate_hz} | {hz for hz in USUAL_HZ if _filter_size(hz, self.rate_hz) <= LARGEST_FILTER}
            )
            raise DecodeError(
                f"sound must have a rate from {SLOWEST_HZ} to {FASTEST_HZ} Hz that is a simple ratio of "
                f"rate_hz={self.rate_hz}, got {stored_hz} Hz; fitting are {', '.join(map(str, fitting))}"
            )

    def _count(self, milliseconds: float) -> int:
        return max(1, round(milliseconds * self.rate_hz / 1000))

    def _samples(self) -> int:
        return round(self.window_s * self.rate_hz)

    def _spectrum(self) -> int:
        return 2 ** math.ceil(math.log2(self._count(self.frame_ms)))

    def _most_mels(self) -> int:
        """As many bands as leave the narrowest, the lowest, wider than a line of the spectrum."""
        low, high = (2595 * math.log10(1 + hz / 700) for hz in (self.min_hz, self.top_hz))
        line_hz = self.rate_hz / self._spectrum()
        # a band reaches from its lower to its upper neighbour's centre: two steps in mel
        steps = 2595 * math.log10(1 + line_hz / (700 + self.min_hz))
        return math.floor(2 * (high - low) / steps) - 1


@functools.lru_cache(maxsize=16)
def _mel(audio: Audio) -> MelSpectrogram:
    return MelSpectrogram(
        audio.rate_hz,
        n_fft=audio._spectrum(),
        win_length=audio._count(audio.frame_ms),
        hop_length=audio._count(audio.hop_ms),
        f_min=audio.min_hz,
        f_max=audio.top_hz,
        n_mels=audio.mels,
        power=2.0,
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
    """Whether the last page says that it is the last, and is whole (RFC 3533, section 6)."""
    page = ogg[ogg.rfind(OGG) :]
    if len(page) < 27 or not page[5] & 4:
        return False
    sizes = page[27 : 27 + page[26]]
    return len(page) >= 27 + page[26] + sum(sizes)


def _sing(solid: Solid, time: Float[Tensor, " samples"], rate_hz: int) -> Float[Tensor, "2 samples"]:
    """A tone in left and right: pitch and overtones by shape, loudness by distance, side by place."""
    voice = SHAPES.index(solid.shape)
    pitch_hz = 200 * 2 ** (voice / 4)
    tone = torch.zeros_like(time)
    for overtone in range(1, 7):
        # even voices have all overtones, odd ones the odd only; the higher the voice the duller
        if overtone * pitch_hz < rate_hz / 2 and (voice % 2 == 0 or overtone % 2 == 1):
            tone += torch.sin(2 * math.pi * overtone * pitch_hz * time) * overtone ** (-0.5 - voice / 8)
    beat = 0.6 + 0.4 * torch.cos(2 * math.pi * (3 + voice) * time)
    side = (min(max(solid.x, -1.0), 1.0) + 1) * math.pi / 4  # equal power from left, 0, to right, a quarter turn
    return 0.12 / max(solid.distance_m, 0.5) * tone * beat * torch.tensor([[math.cos(side)], [math.sin(side)]])
