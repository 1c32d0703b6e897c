"""Sound: rates, pieces, channels, the spectrogram, and its refusals."""

import io
import itertools
import math
import re
import struct

import numpy as np
import pytest
import soundfile
import torch

from modalities import CropBox, DecodeError
from modalities.audio import Audio
from modalities.common.random import generator
from modalities.synthetic.scene import Scene, Solid


def sine(hz: float, rate_hz: int = 16000, seconds: float = 1.0) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * hz * torch.arange(round(rate_hz * seconds)) / rate_hz)[None]


def file(samples: np.ndarray, rate_hz: int = 16000, kind: str = "WAV", subtype: str | None = None) -> bytes:
    with io.BytesIO() as memory:
        soundfile.write(memory, samples, rate_hz, format=kind, subtype=subtype)
        return memory.getvalue()


def scene(x: float = 0.0, distance_m: float = 2.0) -> Scene:
    return Scene((Solid("ball", x, 0.0, 0.5, distance_m, (1.0, 1.0, 1.0)),), 5.0, (0.5, 0.5, 0.5), 1.0)


@pytest.mark.parametrize(("kind", "tolerance"), [("WAV", 4e-5), ("FLAC", 4e-5), ("OGG", 0.01)])
def test_formats_are_read(kind, tolerance):
    stereo = torch.cat([sine(440), sine(880)])

    decoded = Audio().decode(file(stereo.T.numpy(), kind=kind))

    assert decoded.shape == stereo.shape
    assert (decoded - stereo).abs().mean() < tolerance  # 16 bits: 2**-15


def test_flac_is_exact_to_16_bits():
    audio, signal = Audio(), sine(440)

    torch.testing.assert_close(audio.decode(audio.encode(signal)), signal, atol=2**-15, rtol=0)


@pytest.mark.parametrize("rate_hz", [8000, 22050, 48000])
def test_other_rates_are_resampled(rate_hz):
    decoded = Audio().decode(file(sine(440, rate_hz)[0].numpy(), rate_hz))

    assert decoded.shape == (1, 16000)
    assert (decoded - sine(440))[:, 200:-200].abs().max() < 0.01  # the ends ring


def test_amplitude_is_clipped_to_its_range():
    assert Audio().decode(file(np.array([0.5, 3.0, -3.0]), subtype="FLOAT")).tolist() == [[0.5, 1, -1]]


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 44100, 48000])
def test_every_usual_rate_has_a_spectrogram(rate_hz):
    audio = Audio(rate_hz=rate_hz, channels=2)

    assert audio.adapt(torch.rand(2, rate_hz) - 0.5, CropBox()).shape == audio.shape
    assert audio.shape[:2] == (2, 64) and 95 <= audio.shape[2] <= 97


@pytest.mark.parametrize("hz", [200, 1000, 5000])
def test_a_tone_is_loudest_in_its_band(hz):
    audio = Audio()
    low, high = (2595 * math.log10(1 + edge / 700) for edge in (audio.min_hz, audio.top_hz))

    loudest = audio.adapt(sine(hz), CropBox())[0].mean(1).argmax().item()

    mel = low + (high - low) * (loudest + 1) / (audio.mels + 1)
    assert abs(2595 * math.log10(1 + hz / 700) - mel) <= 1.01 * (high - low) / (audio.mels + 1)


def test_ten_times_the_amplitude_is_20_db():
    audio = Audio()

    louder, softer = audio.adapt(sine(1000), CropBox()), audio.adapt(sine(1000) / 10, CropBox())

    assert (louder.max() - softer.max()).item() == pytest.approx(20, abs=0.01)
    assert audio.adapt(torch.zeros(1, 16000), CropBox()).max().item() == pytest.approx(-80)


def test_the_window_chooses_the_piece():
    audio, signal = Audio(window_s=0.5), torch.cat([sine(500), sine(4000)], dim=1)

    early, late = (audio.adapt(signal, CropBox(start=start)) for start in (0.0, 1.0))

    assert early.mean(2).argmax() < 30
    assert late.mean(2).argmax() > 40


def test_short_sound_is_followed_by_silence():
    adapted = Audio().adapt(sine(1000, seconds=0.3), CropBox())

    assert adapted[..., 35:].max().item() == pytest.approx(-80)
    assert adapted[..., :25].max() > 20


def test_channels_are_mixed_doubled_and_swapped():
    stereo = torch.cat([sine(500), torch.zeros(1, 16000)])
    both = Audio(channels=2)

    left, right = both.adapt(stereo, CropBox())
    mono = Audio().adapt(stereo, CropBox())[0]

    assert torch.equal(both.adapt(stereo, CropBox(flip=True)), torch.stack([right, left]))
    assert (left - mono).max().item() == pytest.approx(20 * math.log10(2), abs=0.01)
    assert torch.equal(*both.adapt(sine(500), CropBox()))
    with pytest.raises(DecodeError, match="channels=2 needs mono or stereo sound, got 3 channels; use channels=1"):
        both.decode(file(np.zeros((16000, 3))))
    assert Audio().decode(file(np.zeros((16000, 3)))).shape == (3, 16000)


def test_masks_and_gain_are_all_that_augmentation_does():
    audio = Audio(time_mask=0.25, mel_mask=0.5)
    draws = torch.tensor([[0.0, 1.0, 1.0, 0.5, 1.0, 0.0, 0.0]])  # first quarter of time, upper of bands

    augmented = audio.augment(torch.full((1, 1, 64, 96), 3.0), draws)[0, 0]

    expected = torch.full((64, 96), 3.0 + audio.gain_db)
    expected[:, :24] = audio.mean_db
    expected[48:] = audio.mean_db
    assert torch.equal(augmented, expected)


def test_noise_lies_as_far_below_the_sound_as_is_drawn():
    audio = Audio(time_mask=0, mel_mask=0, gain_db=0, noise=0.5, snr_db=6)
    sound = torch.full((3, 1, 64, 96), -80.0)
    sound[:, :, :32] = 10 * math.log10(2) - 20  # the mean power is that of -20 dB
    draws = torch.tensor([[0.0, 0, 0, 0, 0.5, 0.4, 0.0], [0, 0, 0, 0, 0.5, 0.4, 0.5], [0, 0, 0, 0, 0.5, 0.6, 0.0]])

    loud, soft, without = audio.augment(sound, draws)[:, 0, 40, 0].tolist()

    assert (loud, soft) == (pytest.approx(-26, abs=0.01), pytest.approx(-41, abs=0.01))
    assert without == -80


def test_low_frequencies_are_at_the_bottom():
    picture = Audio().picture(Audio().adapt(sine(300), CropBox()))

    assert picture.shape == (3, 64, 96)
    assert picture.sum((0, 2)).argmax() > 45


def test_the_nearer_is_louder_and_right_is_right():
    near, far = (Audio().render(scene(distance_m=metres)) for metres in (1.0, 3.0))
    left, right = Audio().render(scene(x=0.8)).square().mean(1)

    assert near.std() / far.std() == pytest.approx(3, rel=1e-4)
    assert right > 5 * left
    assert Audio().render(scene(distance_m=0.1)).abs().max() < 1


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "must be FLAC, WAV or OGG, got 0 bytes"),
        (b"garbage" * 50, "must be FLAC, WAV or OGG, got 350 bytes"),
        (file(sine(440)[0].numpy())[:20000], "must be whole, got 20000 bytes of a WAV of 32044"),
        (file(np.zeros(0)), r"must hold finite samples, got \[1, 0\]"),
        (file(np.array([0.0, math.nan]), subtype="FLOAT"), r"must hold finite samples, got \[1, 2\]"),
    ],
)
def test_what_is_no_whole_sound_is_refused(payload, message):
    with pytest.raises(DecodeError, match=message):
        Audio().decode(payload)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_an_ogg_without_its_end_is_refused(subtype, share):
    payload = file(sine(440, seconds=3)[0].numpy(), kind="OGG", subtype=subtype)

    assert Audio().decode(payload).shape == (1, 48000)
    with pytest.raises(DecodeError, match=r"must be whole, got .* bytes of an OGG without its end"):
        Audio().decode(payload[: int(share * len(payload))])


@pytest.mark.parametrize("rate_hz", [16, 16001, 44101, 500_000])
def test_a_rate_that_costs_too_much_to_resample_is_refused(rate_hz):
    with pytest.raises(DecodeError, match=rf"simple ratio of rate_hz=16000, got {rate_hz} Hz; fitting are 8000, 11025"):
        Audio().decode(file(np.zeros(2000), rate_hz))


def test_the_usual_rates_are_resampled_among_each_other():
    usual = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000)
    for stored_hz, rate_hz in itertools.permutations(usual, 2):
        assert len(Audio(rate_hz=rate_hz, mels=8).decode(file(np.zeros(stored_hz // 100), stored_hz))) == 1


def test_a_streamed_wav_of_unknown_length_is_read():
    payload = bytearray(file(sine(440)[0].numpy()))
    payload[4:8] = payload[40:44] = b"\xff" * 4

    assert Audio().decode(bytes(payload)).shape == (1, 16000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 3}, "channels must be from 1 to 2, got 3"),
        ({"max_hz": 9000.0}, "max_hz must be from 61.0 to 8000.0, got 9000.0"),
        ({"mels": 400}, "mels must be from 1 to .*, got 400"),
        ({"window_s": 0.01}, "window_s must be from 0.025"),
        ({"window_s": 0.05, "hop_ms": 100.0}, "hop_ms must be at most the 50 ms of window_s, got 100"),
        ({"time_mask": 2.0}, "time_mask must be from 0 to 1, got 2.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Audio(**options)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
def test_the_most_mels_still_fill_every_band(rate_hz):
    audio = Audio(rate_hz=rate_hz, mels=Audio(rate_hz=rate_hz)._most_mels())

    noise = torch.rand(1, rate_hz, generator=generator(0)) - 0.5

    assert audio.adapt(noise, CropBox()).mean(2).min() > -60  # torchaudio's warning of empty bands is an error here


def sized(wav: bytes, riff: int, data: int) -> bytes:
    """The WAV with other lengths in its header."""
    place = wav.index(b"data") + 4
    return b"RIFF" + struct.pack("<I", riff) + wav[8:place] + struct.pack("<I", data) + wav[place + 4 :]


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize(("riff", "data"), [(2**32 - 1, 2**32 - 1), (0, 0), (0x7FFFF024, 0x7FFFF000),
                                            (0x80000024, 0x80000000), (None, 0)])  # fmt: skip
def test_a_wav_of_open_length_is_read_to_its_end(subtype, riff, data):
    wav = file(sine(440)[0].numpy(), subtype=subtype)
    riff = wav.index(b"data") if riff is None else riff  # nothing follows the header: Python's wave module

    assert torch.equal(Audio().decode(sized(wav, riff, data)), Audio().decode(wav))


def test_a_wav_with_fewer_samples_than_it_says_is_refused():
    wav = file(sine(440)[0].numpy(), subtype="PCM_16")
    size = len(wav) - wav.index(b"data") - 8

    with pytest.raises(DecodeError, match="got 32000 of 32400 bytes of samples of a WAV"):
        Audio().decode(sized(wav, len(wav) - 8, size + 400))


def open_flac(samples: np.ndarray) -> bytes:
    """A FLAC without its number of samples and checksum, as it is written to a pipe (RFC 9639, section 8.2)."""
    flac = file(samples, kind="FLAC", subtype="PCM_16")
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(20) + flac[42:]


def test_a_flac_of_unknown_length_is_read_to_its_end():
    samples = sine(440, seconds=70)[0].numpy()  # more than one block of reading

    assert torch.equal(Audio().decode(open_flac(samples)), Audio().decode(file(samples, kind="FLAC")))
    with pytest.raises(DecodeError, match="sound must be FLAC, WAV or OGG, got 9000 bytes"):
        Audio().decode(open_flac(samples)[:9000])


@pytest.mark.parametrize("scale", [30, 2**15, 2**31])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_floating_samples_on_the_scale_of_integers_are_refused(scale, subtype):
    whole = (sine(440)[0].double() * scale).round()

    with pytest.raises(DecodeError, match=rf"must lie in \[-1, 1\], got a peak of {re.escape(f'{whole.max():g}')}; if"):
        Audio().decode(file(whole.numpy(), subtype=subtype))
    with pytest.raises(DecodeError, match="got a peak of 2; "):
        Audio().decode(file(np.array([0.0, 2.0, -1.0]), subtype=subtype))  # so soft that only wholeness tells


@pytest.mark.parametrize(
    ("subtype", "steps"), [("PCM_U8", 2**7), ("PCM_16", 2**15), ("PCM_24", 2**23), ("PCM_32", 2**31)]
)
def test_integers_of_all_widths_are_scaled_to_one(subtype, steps):
    decoded = Audio().decode(file(np.array([0.5, -1.0, 0.25]), subtype=subtype))

    torch.testing.assert_close(decoded, torch.tensor([[0.5, -1.0, 0.25]]), atol=1 / steps, rtol=0)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_more_samples_than_allowed_are_refused_with_the_way_out(kind, monkeypatch: pytest.MonkeyPatch):
    payload = file(np.zeros((1000, 2)), kind=kind)
    monkeypatch.setenv("CROSSMODAL_MAX_SAMPLES", "1999")
    with pytest.raises(
        DecodeError, match=r"has 2000 samples, more than the 1999 allowed; .* CROSSMODAL_MAX_SAMPLES=2000"
    ):
        Audio().decode(payload)
    monkeypatch.setenv("CROSSMODAL_MAX_SAMPLES", "2000")
    assert Audio().decode(payload).shape == (2, 1000)
    monkeypatch.setenv("CROSSMODAL_MAX_SAMPLES", "many")
    with pytest.raises(DecodeError, match="CROSSMODAL_MAX_SAMPLES must be a whole number above 0, got 'many'"):
        Audio().decode(payload)


def test_a_flac_that_claims_hours_takes_no_memory_for_them():
    flac = file(sine(440)[0].numpy(), kind="FLAC")
    claimed = flac[:22] + struct.pack(">I", 2**32 - 1) + flac[26:]  # of 36 bits the lower 32
    with pytest.raises(DecodeError, match="has 4294967295 samples, more than the 60000000 allowed"):
        Audio().decode(claimed)


def test_an_endless_flac_is_read_no_further_than_allowed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CROSSMODAL_MAX_SAMPLES", "1000")
    with pytest.raises(DecodeError, match="sound of unknown length has 16000 samples"):
        Audio().decode(open_flac(sine(440)[0].numpy()))
