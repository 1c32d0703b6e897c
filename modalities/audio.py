"""Sound."""

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchaudio.transforms import MelSpectrogram

from modalities import CropBox, Modality
from modalities.codecs.audio import FASTEST_HZ, SLOWEST_HZ, decode_sound, encode_sound
from modalities.common.options import check_within
from modalities.common.picture import colour_map, spans
from modalities.synthetic.scene import SHAPES, Scene, Solid

FLOOR = 1e-8  # power of a band below which 16-bit sound holds only its own rounding: -80 dB


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
        return (self.channels, self.mels, self.samples // self._count(self.hop_ms))

    @property
    def samples(self) -> int:
        """Length of the piece that an encoder hears, in samples."""
        return round(self.window_s * self.rate_hz)

    @property
    def top_hz(self) -> float:
        """The highest frequency an encoder hears."""
        return self.rate_hz / 2 if self.max_hz is None else self.max_hz

    def decode(self, payload: bytes) -> Float[Tensor, "channels samples"]:
        """Amplitude in [-1, 1] at `rate_hz`, clipped to that range; see `decode_sound`."""
        return decode_sound(payload, rate_hz=self.rate_hz, channels=self.channels)

    def encode(self, signal: Float[Tensor, "channels samples"]) -> bytes:
        """FLAC of 16 bits at `rate_hz`."""
        return encode_sound(signal, self.rate_hz)

    def adapt(
        self, signal: Float[Tensor, "stored samples"], window: CropBox
    ) -> Float[Tensor, "{self.channels} {self.mels} frames"]:
        """The log-mel spectrogram of the window's piece, in dB; a full-scale sine has about 40."""
        heard = signal.mean(0, keepdim=True) if self.channels == 1 else signal.expand(2, -1)
        heard = heard.flip(0) if window.flip else heard
        slack = heard.shape[1] - self.samples
        start = round(min(max(window.start, 0.0), 1.0) * max(slack, 0))
        piece = F.pad(heard[:, start : start + self.samples], (0, max(-slack, 0)))
        power = mel_spectrogram(self)(piece)[..., : self.shape[-1]]
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

    def _count(self, milliseconds: float) -> int:
        return max(1, round(milliseconds * self.rate_hz / 1000))

    def _spectrum(self) -> int:
        return 2 ** math.ceil(math.log2(self._count(self.frame_ms)))

    def _most_mels(self) -> int:
        """The largest number of bands of which the lowest, the narrowest, is wider than a line of the spectrum."""
        low, high = (2595 * math.log10(1 + hz / 700) for hz in (self.min_hz, self.top_hz))
        line_hz = self.rate_hz / self._spectrum()
        # a band reaches from its lower to its upper neighbour's centre: two steps in mel
        steps = 2595 * math.log10(1 + line_hz / (700 + self.min_hz))
        return math.floor(2 * (high - low) / steps) - 1


@functools.lru_cache(maxsize=16)
def mel_spectrogram(audio: Audio) -> MelSpectrogram:
    """The transform from amplitude to the power of each band, as the view's options say."""
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
