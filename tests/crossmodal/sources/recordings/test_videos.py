"""Videos: pictures, times and sound against what was written."""

import struct
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.picture_track import PictureTrack
from crossmodal.sources.recordings.videos import is_video, open_videos

av = pytest.importorskip("av", reason="videos are read by av")
from filmed import pictures, write  # noqa: E402

EXACT = {"codec": "ffv1", "pixels": "bgr0"}  # without loss, in mkv
MS = 10**6


def read(path: Path, stream: str, numbers: Sequence[int]) -> list[np.ndarray]:
    [recording] = open_videos(path)
    frames = list(recording.frames({stream: np.array(numbers)}))
    assert [frame.number for frame in frames] == list(numbers)
    return [np.asarray(frame.content) for frame in frames]


@pytest.mark.parametrize(("suffix", "options"), [(".mp4", {}), (".mkv", EXACT), (".avi", EXACT), (".mov", {})])
def test_pictures_come_back_exactly_whichever_are_wanted(tmp_path: Path, suffix: str, options: dict[str, str]) -> None:
    written = pictures(60)
    path = write(tmp_path / f"a{suffix}", written, **options)
    for numbers in (range(60), [0], [59], [3, 4, 31, 59], range(1, 60, 13)):
        for number, got in zip(numbers, read(path, "video", numbers), strict=True):
            np.testing.assert_array_equal(got, written[number])


def test_a_jump_over_key_frames_gives_what_decoding_from_the_start_gives(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", pictures(90), codec="libx264", pixels="yuv420p", options={"g": "12", "bf": "2"})
    with av.open(str(path)) as container:
        oracle = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    wanted = [0, 1, 25, 59, 60, 61, 89]
    for number, got in zip(wanted, read(path, "video", wanted), strict=True):
        np.testing.assert_array_equal(got, oracle[number])


def test_a_jump_does_not_decode_what_lies_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mkv", pictures(300), codec="mjpeg", pixels="yuvj420p")  # each frame is a key frame
    [recording] = open_videos(path)
    recording.stamps("video")
    numbers = []
    track = recording._tracks["video"]
    decode = track._numbered
    monkeypatch.setattr(
        track,
        "_numbered",
        lambda *a, **b: ((numbers.append(place), (place, frame))[1] for place, frame in decode(*a, **b)),
    )
    assert len(list(recording.frames({"video": np.array([0, 150, 290])}))) == 3
    assert len(numbers) < 40 and 290 in numbers


def test_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    times = [1500, 1533, 1600, 1601, 1900, 3000]
    written = pictures(6)
    for path in (
        write(tmp_path / "a.mkv", written, **EXACT, times=times, base=Fraction(1, 1000)),
        write(tmp_path / "a.mp4", written, times=times, base=Fraction(1, 1000)),
    ):
        [recording] = open_videos(path)
        assert recording.stamps("video").tolist() == [time * MS for time in times]
        np.testing.assert_array_equal(read(path, "video", [4])[0], written[4])


def test_times_are_exact_where_frames_are_stored_in_another_order(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.mp4", pictures(30), codec="libx264", pixels="yuv420p", options={"bf": "3", "b-adapt": "0"}
    )
    with av.open(str(path)) as container:
        assert any(packet.pts != packet.dts for packet in container.demux(video=0))
    [recording] = open_videos(path)
    assert recording.stamps("video").tolist() == [round(Fraction(number * 10**9, 30)) for number in range(30)]


def test_packets_without_times_are_replaced_by_decoded_order(tmp_path: Path) -> None:
    written = pictures(12)
    path = tmp_path / "a.h264"
    write(path, written)  # a bare stream: no times at all
    path = path.rename(tmp_path / "a.mp4")
    [recording] = open_videos(path)
    assert len(recording.stamps("video")) == 12 and (np.diff(recording.stamps("video")) > 0).all()
    np.testing.assert_array_equal(read(path, "video", [7])[0], written[7])


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels", "options"),
    [
        (".mkv", "ffv1", "gray12le", {}),
        (".mkv", "ffv1", "gray16le", {}),
        (".mkv", "ffv1", "gray10le", {}),
        (".mp4", "libx265", "gray12le", {"x265-params": "lossless=1:log-level=0"}),
    ],
)
def test_deep_grey_is_depth_to_the_bit(
    tmp_path: Path, suffix: str, codec: str, pixels: str, options: dict[str, str]
) -> None:
    bits = int(pixels[4:6])
    written = np.random.default_rng(1).integers(0, 2**bits, (5, 30, 44)).astype(np.uint16)
    path = write(tmp_path / f"d{suffix}", written, codec=codec, pixels=pixels, options=options)
    [recording] = open_videos(path)
    stream = recording.streams()["video"]
    assert (stream.kind, stream.height, stream.width, stream.frames) == ("depth", 30, 44, 5) and not stream.stated
    for got, expected in zip(read(path, "video", range(5)), written, strict=True):
        assert got.dtype == np.uint16
        np.testing.assert_array_equal(got, expected)


def test_grey_stays_grey(tmp_path: Path) -> None:
    written = pictures(2)[..., 0]
    path = write(tmp_path / "g.mkv", written, codec="ffv1", pixels="gray")
    [recording] = open_videos(path)
    assert recording.streams()["video"].kind == "grey"
    np.testing.assert_array_equal(read(path, "video", [1])[0], written[1])


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),  # a phone held upright
        ((0, -1, 1, 0), lambda picture: np.rot90(picture, 1)),
        ((-1, 0, 0, -1), lambda picture: picture[::-1, ::-1]),
        ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),  # a mirror image
        ((0, 1, 1, 0), lambda picture: picture.swapaxes(0, 1)),
    ],
)
def test_pictures_are_upright(tmp_path: Path, matrix: tuple[int, ...], shown: Any) -> None:
    written = pictures(2)
    path = write(tmp_path / "a.mp4", written)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    a, b, c, d = (number << 16 for number in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    [recording] = open_videos(path)
    expected = shown(written[1])
    stream = recording.streams()["video"]
    assert (stream.height, stream.width) == expected.shape[:2]
    np.testing.assert_array_equal(read(path, "video", [1])[0], expected)


def test_further_tracks_have_their_own_names(tmp_path: Path) -> None:
    written = pictures(3)
    path = write(tmp_path / "a.mkv", written, **EXACT, tracks=2, sound=np.zeros((1, 800)))
    [recording] = open_videos(path)
    assert list(recording.streams()) == ["video", "video1", "audio"]
    both = {"video": np.array([0, 2]), "video1": np.array([1, 2])}
    frames = list(recording.frames(both))
    assert [(frame.stream, frame.number) for frame in frames] == [
        ("video", 0),
        ("video1", 1),
        ("video", 2),
        ("video1", 2),
    ]
    np.testing.assert_array_equal(frames[1].content, written[1][::-1])


def test_cover_art_is_no_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        for codec, pixels, disposition in (("libx264rgb", "rgb24", 0), ("mjpeg", "yuvj420p", 0x400)):
            stream = container.add_stream(codec, rate=30)
            stream.width, stream.height, stream.pix_fmt = 40, 24, pixels
            if disposition:
                stream.disposition = disposition
        for stream in container.streams.video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pictures(1)[0], format="rgb24")))
            container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 2
    assert list(open_videos(path)[0].streams()) == ["video"]


def click(samples: int, place: int, channels: int = 1) -> np.ndarray:
    sound = np.zeros((channels, samples), dtype=np.float32)
    sound[:, place] = 0.5
    return sound


@pytest.mark.parametrize(
    ("suffix", "codec", "offset"),
    [(".mkv", "pcm_s16le", 4000), (".mov", "pcm_s16le", 4000), (".mkv", "flac", 4000), (".mov", "pcm_s16le", 96)],
)
def test_a_click_is_where_the_offset_of_its_track_puts_it(tmp_path: Path, suffix: str, codec: str, offset: int) -> None:
    rate, place = 16000, 6543
    path = write(
        tmp_path / f"a{suffix}",
        pictures(30),
        **(EXACT if suffix == ".mkv" else {}),
        sound=click(2 * rate, place, channels=2),
        sound_at=offset,
        sound_codec=codec,
    )
    [recording] = open_videos(path)
    stream = recording.streams()["audio"]
    assert (stream.kind, stream.rate_hz) == ("audio", rate)
    assert stream.frames == pytest.approx(2 * rate, abs=100)  # mov shortens its last packet by a small offset
    assert recording.stamps("audio")[0] == offset * 62500
    starts = np.array([0, 200 * MS, 600 * MS, 625 * MS, 650 * MS])
    for start, (piece, got_rate) in zip(starts, recording.sound("audio", starts, 0.05), strict=True):
        assert got_rate == rate and piece.shape == (2, 800)
        expected = offset + place - start * rate // 10**9
        assert np.flatnonzero(piece[1]).tolist() == ([expected] if 0 <= expected < 800 else [])


def test_lossy_sound_is_on_time(tmp_path: Path) -> None:
    """AAC has a delay of 1,024 samples, which the file states."""
    rate, place = 48000, 30000
    path = write(tmp_path / "a.mp4", pictures(30), sound=click(rate, place), sound_codec="aac", rate=rate)
    [recording] = open_videos(path)
    [(piece, _)] = recording.sound("audio", np.array([0]), 1.0)
    assert abs(int(np.abs(piece[0]).argmax()) - place) <= 1


def test_sound_is_silent_outside_of_its_track(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", pictures(30), **EXACT, sound=np.full((1, 1600), 0.25), sound_at=8000)
    [recording] = open_videos(path)
    pieces = [piece for piece, _ in recording.sound("audio", np.array([-(10**9), 450 * MS, 550 * MS, 9 * 10**9]), 0.1)]
    assert [float(piece.sum()) for piece in pieces] == [0, 200, 200, 0]
    assert (pieces[1][0, 800:] == 0.25).all() and (pieces[2][0, :800] == 0.25).all()


def test_overlapping_and_distant_pieces_are_slices_of_the_whole(tmp_path: Path) -> None:
    whole = np.random.default_rng(2).integers(-(2**15), 2**15, (1, 48000)) / 2**15
    path = write(tmp_path / "a.mkv", pictures(90), **EXACT, sound=whole)
    [recording] = open_videos(path)
    starts = np.array([0, 10, 20, 1000, 1010, 2800]) * MS
    for start, (piece, _) in zip(starts, recording.sound("audio", starts, 0.2), strict=True):
        np.testing.assert_array_equal(piece[0], whole[0, start * 16 // MS :][:3200].astype(np.float32))


def test_times_that_are_rounded_to_milliseconds_do_not_shift_samples(tmp_path: Path) -> None:
    whole = np.random.default_rng(3).integers(-(2**15), 2**15, (1, 44100)) / 2**15
    path = write(tmp_path / "a.mkv", pictures(30), **EXACT, sound=whole, sound_codec="flac", rate=44100)
    with av.open(str(path)) as container:
        stated = [packet.pts * packet.time_base * 44100 for packet in container.demux(audio=0) if packet.size]
    assert any(abs(samples - number * 4608) >= 1 for number, samples in enumerate(stated))
    [recording] = open_videos(path)
    [(piece, _)] = recording.sound("audio", np.array([0]), 1.0)
    np.testing.assert_array_equal(piece, whole.astype(np.float32))


def test_a_gap_in_the_sound_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for start in (0, 8000):
            block = av.AudioFrame.from_ndarray(np.full((1, 1600), 2**14, np.int16), format="s16", layout="mono")
            block.sample_rate, block.pts, block.time_base = 16000, start, Fraction(1, 16000)
            container.mux(stream.encode(block))
    [recording] = open_videos(path)
    [(piece, _)] = recording.sound("audio", np.array([0]), 1.0)
    assert np.flatnonzero(np.diff(piece[0])).tolist() == [1599, 7999, 9599]


def test_a_folder_has_a_recording_for_each_video_and_labels_from_its_folders(tmp_path: Path) -> None:
    for name in ("dog/one.mkv", "cat/one.mkv", "cat/two words.mkv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, pictures(1), **EXACT)
    assert is_video(tmp_path)
    found = {recording.name: recording.label for recording in open_videos(tmp_path)}
    assert found == {"cat_one": "cat", "cat_two_words": "cat", "dog_one": "dog"}


def test_names_that_only_differ_in_what_keys_cannot_hold_are_told_apart_or_refused(tmp_path: Path) -> None:
    for name in ("a b.mp4", "a_b.mp4"):
        (tmp_path / name).touch()
    assert [recording.name for recording in open_videos(tmp_path)] == ["a_b", "a_b_mp4"]
    (tmp_path / "a.b.mp4").touch()
    with pytest.raises(SourceError, match=r"its name becomes 'a_b_mp4' in keys, as that of .*; rename one"):
        open_videos(tmp_path)


def test_what_is_no_video_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mp4")
    assert not is_video(tmp_path) and not is_video(tmp_path / "notes.txt") and not is_video(tmp_path / "absent.mp4")
    with pytest.raises(SourceError, match=r"there is no video; expected files that end in .mp4"):
        open_videos(tmp_path)
    write(tmp_path / "a.mkv", pictures(1), **EXACT)
    assert is_video(tmp_path)
    (tmp_path / "drive.bag").write_bytes(b"#ROSBAG V2.0")  # the video is a preview of something else
    assert not is_video(tmp_path)


def test_a_stream_that_is_not_there_is_an_error_that_lists_those_that_are(tmp_path: Path) -> None:
    [recording] = open_videos(write(tmp_path / "a.mkv", pictures(2), **EXACT, tracks=2))
    with pytest.raises(SourceError, match=r"a.mkv: there is no stream 'audio'; the file has video, video1"):
        recording.sound("audio", np.array([0]), 1.0)
    with pytest.raises(SourceError, match="video is no sound"):
        recording.sound("video", np.array([0]), 1.0)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", pictures(30), **({} if suffix == ".mp4" else EXACT))
    path.write_bytes(path.read_bytes()[:-2000])
    [recording] = open_videos(path)
    with pytest.raises(SourceError, match=rf"a{suffix}: the file is cut short: .* should end at byte"):
        recording.streams()


def test_a_recorder_that_was_stopped_leaves_no_index(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", pictures(3))
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"moov") - 4])
    [recording] = open_videos(path)
    with pytest.raises(SourceError, match=r"a.mp4: the file has no index \(no moov box\), because its writing"):
        recording.streams()


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "the file is empty"), (b"no video" * 99, "this file is no video")]
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    [recording] = open_videos(tmp_path / "a.mp4")
    with pytest.raises(SourceError, match=f"a.mp4: {message}"):
        recording.streams()


def test_a_codec_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", pictures(3))
    content = bytearray(path.read_bytes())
    place = content.index(b"avc1", content.index(b"stsd"))
    content[place : place + 4] = b"zzzz"
    path.write_bytes(content)
    [recording] = open_videos(path)
    with pytest.raises(
        SourceError,
        match=r"a.mp4: track 0 \(video\) is coded by a codec that the installed av does not",
    ):
        recording.streams()


def damaged(path: Path, number: int, start: int, count: int) -> Path:
    """Overwrites part of the packet of one frame."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
    content = bytearray(path.read_bytes())
    place = packet.pos + min(start, packet.size - count)
    content[place : place + count] = b"\x55" * count
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("wanted", [range(30), range(0, 30, 5), [29]])
def test_a_frame_that_cannot_be_decoded_is_named_with_its_time(tmp_path: Path, wanted: Sequence[int]) -> None:
    path = write(tmp_path / "a.mp4", pictures(30), codec="libx264", pixels="yuv420p", options={"g": "999"})
    [recording] = open_videos(damaged(path, 20, 8, 200))  # the decoder holds two frames back
    numbers = []
    with pytest.raises(
        SourceError, match=r"a.mp4: frame (20|29) of track 0 \(at 0\.\d+ s\) cannot be decoded"
    ) as error:
        numbers.extend(frame.number for frame in recording.frames({"video": np.array(wanted)}))
    assert ("frame 20 " in str(error.value)) or "stops at frame 20)" in str(error.value)


def test_packets_whose_times_are_not_those_of_the_frames_are_not_believed(tmp_path: Path) -> None:
    written = pictures(12)
    [recording] = open_videos(write(tmp_path / "a.mkv", written, **EXACT))
    recording._file.packets[0].pts[5] += 1
    assert recording.stamps("video")[5] == 167 * MS
    [frame] = recording.frames({"video": np.array([9])})
    np.testing.assert_array_equal(frame.content, written[9])


def test_frames_of_equal_times_are_told_apart(tmp_path: Path) -> None:
    """A time base of 1 ms is too coarse for a burst."""
    written, times = pictures(6), [0, 10, 11, 12, 13, 100]
    path = write(tmp_path / "a.mkv", written, **EXACT, times=times, base=Fraction(1, 10000))
    [recording] = open_videos(path)
    assert recording.stamps("video").tolist() == [0, MS, MS, MS, MS, 10 * MS]
    for number, got in enumerate(read(path, "video", range(6))):
        np.testing.assert_array_equal(got, written[number])


def test_frames_before_the_damage_are_given(tmp_path: Path) -> None:
    written = pictures(30)
    path = damaged(write(tmp_path / "a.mp4", written, options={"qp": "0", "g": "999"}), 20, 0, 200)
    for got, expected in zip(read(path, "video", range(20)), written, strict=False):
        np.testing.assert_array_equal(got, expected)


def test_a_damaged_frame_that_the_decoder_would_conceal_is_refused(tmp_path: Path) -> None:
    """FFmpeg paints over what it could not read, and gives the frame with a mark."""
    path = write(
        tmp_path / "a.mp4", pictures(40, height=48, width=64), codec="libx264", pixels="yuv420p", options={"bf": "0"}
    )
    damaged(path, 20, 300, 60)
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 40
    with pytest.raises(SourceError, match=r"frame 20 of track 0 .* cannot be decoded .*its data is damaged"):
        read(path, "video", range(40))


def test_a_video_whose_first_frame_is_damaged_is_refused(tmp_path: Path) -> None:
    path = damaged(write(tmp_path / "a.mp4", pictures(3), options={"qp": "0"}), 0, 0, 2000)
    [recording] = open_videos(path)
    with pytest.raises(SourceError, match=r"a.mp4: track 0 (cannot be decoded|has no frame)"):
        recording.streams()


def test_what_an_edit_list_hides_is_no_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a phone trims a video: packets before the start stay in the file, and the decoder needs them."""
    path = write(tmp_path / "a.mp4", pictures(80), codec="libx264", pixels="yuv420p", options={"g": "30", "bf": "2"})
    trimmed = tmp_path / "trimmed.mp4"
    with av.open(str(path)) as whole, av.open(str(trimmed), "w") as container:
        stream = whole.streams.video[0]
        copy = container.add_stream_from_template(stream)
        for packet in whole.demux(stream):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - 5 * 512, packet.dts - 5 * 512, copy
                container.mux(packet)
    with av.open(str(trimmed)) as container:
        oracle = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    [recording] = open_videos(trimmed)
    assert len(oracle) == 75 and recording.stamps("video").tolist()[:2] == [0, 33333333]
    assert len(recording.stamps("video")) == 75
    sequential = lambda *_: pytest.fail("all frames were decoded for want of times")  # noqa: E731
    monkeypatch.setattr(PictureTrack, "_decoded_table", sequential)
    careful = PictureTrack._read
    monkeypatch.setattr(
        PictureTrack,
        "_read",
        lambda *a, **options: pytest.fail("again") if options["careful"] else careful(*a, **options),
    )
    for wanted in ([0, 12, 74], [24, 26, 56], [20]):
        for number, got in zip(wanted, read(trimmed, "video", wanted), strict=True):
            np.testing.assert_array_equal(got, oracle[number])


@pytest.mark.parametrize(("colours", "red", "blue"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114)])
def test_colours_follow_the_matrix_that_the_file_names(tmp_path: Path, colours: int, red: float, blue: float) -> None:
    """Against ITU-R BT.709 and BT.601, limited range."""
    y, u, v = 100, 90, 200
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace = colours
        frame = av.VideoFrame(64, 64, "yuv420p")
        for plane, number in zip(frame.planes, (y, u, v), strict=True):
            plane.update(bytes([number]) * plane.buffer_size)
        frame.colorspace, frame.pts = colours, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    luma, cb, cr = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    expected = 255 * np.array([r, (luma - red * r - blue * b) / (1 - red - blue), b])
    [got] = read(tmp_path / "a.mp4", "video", [0])
    assert np.abs(got[32, 32] - expected).max() < 3  # FFmpeg's fast conversion truncates


def test_sound_of_an_unknown_codec_does_not_hide_the_pictures(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mov", pictures(2), sound=np.zeros((1, 800)))
    content = bytearray(path.read_bytes())
    place = content.index(b"sowt", content.index(b"stsd"))
    content[place : place + 4] = b"apac"
    path.write_bytes(content)
    [recording] = open_videos(path)
    streams = recording.streams()
    assert streams["video"].frames == 2 and streams["audio"].kind == "other"
    assert "a.mov: track 1 (audio) is coded by a codec that the installed av does not have" in streams["audio"].source
    with pytest.raises(SourceError, match="is coded by a codec"):
        next(recording.sound("audio", np.array([0]), 1.0))


def test_names_that_look_like_protocols_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.mkv", pictures(1), **EXACT).rename(tmp_path / "rtp:12%d.mkv")
    monkeypatch.chdir(tmp_path)
    [recording] = open_videos(Path("rtp:12%d.mkv"))
    assert recording.name == "rtp_12_d" and recording.streams()["video"].frames == 1


def test_without_av_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [recording] = open_videos(write(tmp_path / "a.mkv", pictures(1), **EXACT))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        SourceError, match=r"a.mkv: .* needs the package av; pip install 'crossmodal-transfer\[video\]'"
    ):
        recording.streams()
