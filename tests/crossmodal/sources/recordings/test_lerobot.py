"""LeRobot data sets, written here from the description of the format, and a real one."""

import io
import json
import math
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.lerobot import is_lerobot, open_lerobot
from crossmodal.sources.recordings.lerobot_features import metres
from crossmodal.sources.recordings.stream import Recording

pytest.importorskip("av", reason="videos are read by av")
pyarrow = pytest.importorskip("pyarrow", reason="parquet is read by pyarrow")
from filmed import pictures, write  # noqa: E402
from pyarrow import parquet  # noqa: E402

SHARED = Path(__file__).parents[5] / "shared" / "data" / "lerobot_g1_6ep.tar"
FPS, LENGTHS, TASKS = 30, (5, 4, 6), ("Lift the cup.", "Close\nthe  drawer.", "Lift the cup.")
FRONT, SIDE, DEPTH, IMAGE = (f"observation.images.{name}" for name in ("front", "side", "depth", "picture"))
LOG = {"video.depth_min": 0.01, "video.depth_max": 10.0, "video.shift": 3.5, "video.use_log": True}
HEIGHT, WIDTH = 24, 40


def colours(episode: int) -> np.ndarray:
    return pictures(LENGTHS[episode], episode, HEIGHT, WIDTH)


def codes(episode: int) -> np.ndarray:
    numbers = np.random.default_rng(episode).integers(0, 4096, (LENGTHS[episode], HEIGHT, WIDTH), dtype=np.uint16)
    numbers[0, 0, :2] = 0, 4095
    return numbers


def png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "png")
    return stream.getvalue()


def tiff(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "tiff", compression="raw")
    return stream.getvalue()


def info(version: str, **features: Any) -> dict[str, Any]:
    numbers = {"dtype": "float32", "shape": [3], "names": None}
    rows = {
        name: {"dtype": kind, "shape": [1], "names": None}
        for name, kind in (("timestamp", "float32"), ("frame_index", "int64"), ("episode_index", "int64"))
    }
    two = version == "v2.1"
    return {
        "codebase_version": version,
        "fps": FPS,
        "chunks_size": 2,
        "total_episodes": len(LENGTHS),
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        if two
        else "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
        if two
        else "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {"action": numbers, **features, **rows},
    }


def video(**facts: Any) -> dict[str, Any]:
    return {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channel"], "info": facts}


VIDEOS = {FRONT: video(), DEPTH: video(**{"is_depth_map": True, **LOG})}
DEEP = {"codec": "libx265", "pixels": "gray12le", "options": {"x265-params": "lossless=1:log-level=0"}}


def table(episodes: list[int], pictures_of: Mapping[str, Callable[[int], list[bytes]]]) -> Any:
    columns: dict[str, Any] = {
        "action": [[float(episode), float(row), 0.5] for episode in episodes for row in range(LENGTHS[episode])],
        "timestamp": pyarrow.array(
            np.concatenate([np.arange(LENGTHS[episode]) / FPS for episode in episodes]).astype(np.float32)
        ),
        "frame_index": [row for episode in episodes for row in range(LENGTHS[episode])],
        "episode_index": [episode for episode in episodes for _ in range(LENGTHS[episode])],
    }
    for name, stored in pictures_of.items():
        columns[name] = [{"bytes": picture, "path": None} for episode in episodes for picture in stored(episode)]
    return pyarrow.table(columns)


def save(path: Path, content: Any, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content)
    else:
        parquet.write_table(content, path, **options)


def save_2(root: Path, features: Mapping[str, Any] = VIDEOS, **pictures_of: Callable[[int], list[bytes]]) -> Path:
    """Version 2.1: a parquet file and a video of each feature for every episode."""
    facts = info("v2.1", **features)
    save(root / "meta/info.json", json.dumps(facts))
    lines = [{"episode_index": i, "tasks": [task], "length": LENGTHS[i]} for i, task in enumerate(TASKS)]
    save(root / "meta/episodes.jsonl", "\n".join(json.dumps(line) for line in lines) + "\n")
    for episode in range(len(LENGTHS)):
        place = {"episode_chunk": episode // 2, "episode_index": episode}
        save(root / facts["data_path"].format(**place), table([episode], pictures_of))
        for name, feature in features.items():
            if feature["dtype"] == "video":
                path = root / facts["video_path"].format(video_key=name, **place)
                path.parent.mkdir(parents=True, exist_ok=True)
                write(
                    path,
                    *((codes(episode),) if name == DEPTH else (colours(episode),)),
                    **(DEEP if name == DEPTH else {}),
                )
    return root


def save_3(root: Path, features: Mapping[str, Any] = VIDEOS, **pictures_of: Callable[[int], list[bytes]]) -> Path:
    """Version 3.0: episodes 0 and 1 share their files, and episode 2 is in others."""
    facts = info("v3.0", **features)
    save(root / "meta/info.json", json.dumps(facts))
    rows: list[dict[str, Any]] = []
    for file, episodes in enumerate(([0, 1], [2])):
        start = 0
        for episode in episodes:
            row = {"episode_index": episode, "tasks": [TASKS[episode]], "length": LENGTHS[episode]}
            row |= {"data/chunk_index": 0, "data/file_index": file, "stats/action/mean": [0.0]}
            for name in features:
                row |= {f"videos/{name}/chunk_index": 0, f"videos/{name}/file_index": file}
                row |= {f"videos/{name}/from_timestamp": start / FPS}
                row |= {f"videos/{name}/to_timestamp": (start + LENGTHS[episode]) / FPS}
            start += LENGTHS[episode]
            rows.append(row)
        place = {"chunk_index": 0, "file_index": file}
        save(root / facts["data_path"].format(**place), table(episodes, pictures_of), row_group_size=4)
        for name, feature in features.items():
            if feature["dtype"] == "video":
                path = root / facts["video_path"].format(video_key=name, **place)
                path.parent.mkdir(parents=True, exist_ok=True)
                stored = codes if name == DEPTH else colours
                write(
                    path, np.concatenate([stored(episode) for episode in episodes]), **(DEEP if name == DEPTH else {})
                )
    save(root / "meta/episodes/chunk-000/file-000.parquet", pyarrow.Table.from_pylist(rows))
    return root


def change(root: Path, **facts: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def contents(recording: Recording, stream: str, numbers: list[int]) -> list[Any]:
    frames = list(recording.frames({stream: np.array(numbers)}))
    assert [(frame.stream, frame.number) for frame in frames] == [(stream, number) for number in numbers]
    return [frame.content for frame in frames]


@pytest.mark.parametrize("save_as", [save_2, save_3])
def test_every_episode_has_its_own_frames_times_and_numbers(tmp_path: Path, save_as: Callable[..., Path]) -> None:
    root = save_as(tmp_path / "my set")
    assert is_lerobot(root) and not is_lerobot(tmp_path)
    recordings = open_lerobot(root)
    assert [recording.name for recording in recordings] == [f"my_set_00000{episode}" for episode in range(3)]
    assert open_lerobot(root)[0].absent == 0
    for episode, recording in enumerate(recordings):
        streams = recording.streams()
        assert {name: stream.kind for name, stream in streams.items()} == {
            "action": "other",
            FRONT: "rgb",
            DEPTH: "depth",
        }
        assert {stream.frames for stream in streams.values()} == {LENGTHS[episode]}
        assert (streams[FRONT].height, streams[FRONT].width, streams[FRONT].rate_hz) == (HEIGHT, WIDTH, FPS)
        times = np.arange(LENGTHS[episode]) / FPS
        for name in streams:
            np.testing.assert_allclose(recording.stamps(name) / 1e9, times, atol=1e-7)
        for numbers in (list(range(LENGTHS[episode])), [1, 3]):
            for number, got in zip(numbers, contents(recording, FRONT, numbers), strict=True):
                np.testing.assert_array_equal(got, colours(episode)[number])
            rows = [content.tolist() for content in contents(recording, "action", numbers)]
            assert rows == [[episode, number, 0.5] for number in numbers]


@pytest.mark.parametrize("save_as", [save_2, save_3])
def test_rows_with_the_times_of_a_camera_take_the_frames_in_order(tmp_path: Path, save_as: Callable[..., Path]) -> None:
    """The video is written at 30 frames a second, whatever the camera's clock said."""
    root = save_as(tmp_path)
    times = {0: [0.0, 0.05, 0.11, 0.12, 0.2], 1: [0.0, 0.05, 0.11, 0.12], 2: [0.0, 0.04, 0.09, 0.1, 0.17, 0.3]}
    for path in root.glob("data/*/*.parquet"):
        rows = parquet.read_table(path)
        episodes = dict.fromkeys(rows.column("episode_index").to_pylist())
        seconds = pyarrow.array(np.concatenate([times[episode] for episode in episodes]).astype(np.float32))
        parquet.write_table(rows.set_column(rows.column_names.index("timestamp"), "timestamp", seconds), path)
    for episode, recording in enumerate(open_lerobot(root)):
        np.testing.assert_allclose(recording.stamps(FRONT) / 1e9, times[episode], atol=1e-7)
        for number, got in zip((0, 2, 3), contents(recording, FRONT, [0, 2, 3]), strict=True):
            np.testing.assert_array_equal(got, colours(episode)[number])


def test_rows_take_frames_by_their_times_where_the_video_has_more(tmp_path: Path) -> None:
    root = save_2(tmp_path)
    written = pictures(9, 7, HEIGHT, WIDTH)
    write(next(root.glob(f"videos/*/{FRONT}/*0.mp4")), written)
    for number, got in enumerate(contents(open_lerobot(root)[0], FRONT, list(range(5)))):
        np.testing.assert_array_equal(got, written[number])
    root = save_3(tmp_path / "three")
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    rows = parquet.read_table(path).to_pylist()
    rows[1][f"videos/{FRONT}/to_timestamp"] = 12 / FPS  # the second episode of a file, which begins at frame 5
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    written = pictures(12, 8, HEIGHT, WIDTH)
    write(root / f"videos/{FRONT}/chunk-000/file-000.mp4", written)
    for number, got in enumerate(contents(open_lerobot(root)[1], FRONT, list(range(4)))):
        np.testing.assert_array_equal(got, written[5 + number])


def test_frames_of_several_streams_come_by_their_times(tmp_path: Path) -> None:
    recording = open_lerobot(save_3(tmp_path))[1]
    frames = recording.frames({FRONT: np.array([0, 2]), "action": np.array([1, 2])})
    assert [(frame.stream, frame.number) for frame in frames] == [(FRONT, 0), ("action", 1), (FRONT, 2), ("action", 2)]


@pytest.mark.parametrize("save_as", [save_2, save_3])
@pytest.mark.parametrize("log", [True, False])
def test_depth_becomes_metres_by_the_stated_codes(tmp_path: Path, save_as: Callable[..., Path], log: bool) -> None:
    facts = {**LOG, "video.use_log": log}
    root = save_as(tmp_path, {DEPTH: video(**{"video.is_depth_map": True, **facts})})
    for episode, recording in enumerate(open_lerobot(root)):
        stream = recording.streams()[DEPTH]
        assert (stream.kind, stream.stated) == ("depth", {"scale_m": 0.001})
        assert "meta/info.json: l" in stream.source and "from 0.01 to 10.0 m" in stream.source
        for got, stored in zip(contents(recording, DEPTH, [0, 1]), codes(episode), strict=False):
            assert got.dtype == np.uint16
            for code, distance in ((stored[place], got[place]) for place in ((0, 1), (3, 4), (9, 2))):
                ends = [math.log(distance + 3.5) for distance in (0.01, 10)] if log else [0.01, 10]
                step = ends[0] + (ends[1] - ends[0]) * code / 4095
                assert distance * 0.001 == pytest.approx(math.exp(step) - 3.5 if log else step, abs=0.000501)
    assert contents(open_lerobot(root)[0], DEPTH, [0])[0][0, 0] == 0  # code 0: nearer than any reading


def test_codes_come_back_as_the_distances_that_were_stored() -> None:
    """Quantised as the format says: the nearest of 4,096 equal steps of log(distance + shift)."""
    distances = np.random.default_rng(0).uniform(0.05, 9.9, 1000)
    low, high = math.log(0.01 + 3.5), math.log(10 + 3.5)
    stored = np.rint((np.log(distances + 3.5) - low) / (high - low) * 4095).astype(int)
    back = metres(0.01, 10.0, 3.5, log=True)[stored]
    assert np.abs(back - distances).max() < 0.5 * (high - low) / 4095 * 13.5


@pytest.mark.parametrize(("high", "scale_m"), [(1.0, 0.0001), (6.5, 0.0001), (10.0, 0.001), (65.0, 0.001), (80, 0.01)])
def test_every_code_stays_a_distance_of_its_own(tmp_path: Path, high: float, scale_m: float) -> None:
    facts = {"is_depth_map": True, **LOG, "video.depth_max": high, "video.use_log": False}
    root = save_2(tmp_path, {DEPTH: video(**facts)})
    stored = np.arange(4096, dtype=np.uint16).reshape(1, 64, 64).repeat(LENGTHS[0], 0)
    write(next(root.glob("videos/*/*/episode_000000.mp4")), stored, **DEEP)
    recording = open_lerobot(root)[0]
    assert recording.streams()[DEPTH].stated == {"scale_m": pytest.approx(scale_m)}
    [got] = contents(recording, DEPTH, [1])
    assert len(np.unique(got)) == 4096 and got.max() * scale_m == pytest.approx(high, rel=1e-3)


@pytest.mark.parametrize(
    ("facts", "pixels", "message"),
    [
        (
            {},
            "gray12le",
            "is a depth map in a video of 12 bits (gray12le), but meta/info.json does not state how its codes become",
        ),
        (LOG, "yuv420p", "is a depth map in a video of 8 bits (yuv420p), which has lost its distances"),
    ],
)
def test_depth_that_cannot_be_metres_is_refused_and_the_rest_is_read(
    tmp_path: Path, facts: dict[str, Any], pixels: str, message: str
) -> None:
    root = save_2(tmp_path, {FRONT: video(), DEPTH: video(**{"is_depth_map": True, **facts})})
    if pixels == "yuv420p":
        for episode in range(3):
            [path] = root.glob(f"videos/*/{DEPTH}/episode_00000{episode}.mp4")
            write(path, colours(episode), codec="libx264", pixels=pixels)
    recording = open_lerobot(root)[0]
    stream = recording.streams()[DEPTH]
    assert stream.kind == "other" and f"{DEPTH} {message}" in stream.source
    with pytest.raises(SourceError) as error:
        contents(recording, DEPTH, [0])
    assert f"{DEPTH} {message}" in str(error.value)
    assert len(contents(recording, FRONT, [0])) == 1


def test_depth_that_is_stored_in_16_bits_stays_as_it_is_and_has_no_unit(tmp_path: Path) -> None:
    root = save_2(tmp_path, {DEPTH: video(is_depth_map=True)})
    stored = codes(0) * 16
    other = write(tmp_path / "a.mkv", stored, codec="ffv1", pixels="gray16le")
    other.rename(next(root.glob("videos/*/*/episode_000000.mp4")))
    recording = open_lerobot(root)[0]
    assert recording.streams()[DEPTH].kind == "depth" and not recording.streams()[DEPTH].stated
    np.testing.assert_array_equal(contents(recording, DEPTH, [2])[0], stored[2])


@pytest.mark.parametrize("save_as", [save_2, save_3])
def test_pictures_in_parquet_pass_unchanged(tmp_path: Path, save_as: Callable[..., Path]) -> None:
    stored = lambda episode: [png(picture) for picture in colours(episode)]  # noqa: E731
    root = save_as(tmp_path, {IMAGE: {"dtype": "image", "shape": [HEIGHT, WIDTH, 3]}}, **{IMAGE: stored})
    for episode, recording in enumerate(open_lerobot(root)):
        stream = recording.streams()[IMAGE]
        assert (stream.kind, stream.encoding, stream.height, stream.width) == ("rgb", "png", HEIGHT, WIDTH)
        assert contents(recording, IMAGE, [1, 3]) == [stored(episode)[1], stored(episode)[3]]


def test_a_picture_may_be_a_file_beside_the_parquet(tmp_path: Path) -> None:
    root = save_2(tmp_path, {IMAGE: {"dtype": "image"}}, **{IMAGE: lambda i: [b""] * LENGTHS[i]})
    named = table([0], {})
    names = [{"bytes": None, "path": f"images/{row}.png"} for row in range(LENGTHS[0])]
    save(root / "data/chunk-000/episode_000000.parquet", named.append_column(IMAGE, pyarrow.array(names)))
    recording = open_lerobot(root)[0]
    with pytest.raises(SourceError, match=r"episode_000000.parquet: the picture .*images/0.png is missing"):
        recording.streams()
    (root / "images").mkdir()
    for row in range(LENGTHS[0]):
        (root / f"images/{row}.png").write_bytes(png(colours(0)[row]))
    assert contents(recording, IMAGE, [4]) == [png(colours(0)[4])]


@pytest.mark.parametrize(
    ("dtype", "unit", "stated"),
    [("uint16", "mm", {"scale_m": 0.001}), ("float32", "m", {"scale_m": 1.0}), ("uint16", None, {})],
)
def test_depth_in_tiff_has_the_unit_that_the_data_set_states(
    tmp_path: Path, dtype: str, unit: str | None, stated: dict[str, float]
) -> None:
    facts = {"is_depth_map": True} | ({"depth_unit": unit} if unit else {})
    pictures_of = {IMAGE: lambda episode: [tiff(picture.astype(dtype)) for picture in codes(episode)]}
    root = save_3(tmp_path, {IMAGE: {"dtype": "image", "info": facts}}, **pictures_of)
    recording = open_lerobot(root)[1]
    stream = recording.streams()[IMAGE]
    assert (stream.kind, stream.encoding, stream.stated) == ("depth", "tiff", stated)
    [got] = contents(recording, IMAGE, [2])
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, codes(1)[2].astype(dtype))


def test_depth_in_jpeg_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(colours(0)[0]).save(stream, "jpeg")
    pictures_of = {IMAGE: lambda episode: [stream.getvalue()] * LENGTHS[episode]}
    root = save_2(tmp_path, {IMAGE: {"dtype": "image", "info": {"is_depth_map": True}}}, **pictures_of)
    with pytest.raises(SourceError, match=f"{IMAGE} is a depth map in JPEG, which has lost its distances"):
        contents(open_lerobot(root)[0], IMAGE, [0])


def test_the_task_is_the_label_where_there_are_several(tmp_path: Path) -> None:
    root = save_2(tmp_path)
    labels = [recording.label for recording in open_lerobot(root)]
    assert labels == ["Lift the cup.", "Close the drawer.", "Lift the cup."]
    lines = [json.loads(line) | {"tasks": ["one"]} for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    save(root / "meta/episodes.jsonl", "\n".join(map(json.dumps, lines)))
    assert {recording.label for recording in open_lerobot(root)} == {""}


@pytest.mark.parametrize("save_as", [save_2, save_3])
def test_episodes_without_files_are_named_and_the_others_are_read(tmp_path: Path, save_as: Callable[..., Path]) -> None:
    root = save_as(tmp_path)
    gone = next(root.glob(f"videos/**/*{'2' if save_as is save_2 else '1'}.mp4"))
    gone.unlink()
    assert open_lerobot(root)[0].absent == 1
    assert [recording.name[-1] for recording in open_lerobot(root)] == ["0", "1"]
    for path in root.glob("data/*/*.parquet"):
        path.unlink()
    with pytest.raises(SourceError, match=r"none of its 3 episodes has its files; the first one lacks data/chunk-000/"):
        open_lerobot(root)


@pytest.mark.parametrize("version", ["v1.6", "v2.0", "v4.0", None])
def test_other_versions_are_refused_by_name(tmp_path: Path, version: str | None) -> None:
    save(tmp_path / "meta/info.json", json.dumps({**info("v2.1"), "codebase_version": version}))
    with pytest.raises(
        SourceError, match=f"info.json: LeRobot data of version {version} is not read, only v2.1 and v3"
    ):
        open_lerobot(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "meta/info.json").write_text("{"), r"meta/info.json: the file is not JSON"),
        (lambda root: (root / "meta/info.json").write_text(""), r"meta/info.json: the file must hold one JSON object"),
        (
            lambda root: (root / "meta/info.json").write_text("[1]"),
            r"meta/info.json: the file must hold one JSON object",
        ),
        (lambda root: change(root, fps=0), r"meta/info.json: fps must be above 0, got 0"),
        (lambda root: change(root, features={"action": 1}), r"meta/info.json: features must be an object of objects"),
        (lambda root: change(root, video_path=None), r"the list of episodes cannot be read"),
        (lambda root: (root / "meta/episodes.jsonl").unlink(), r"meta/episodes.jsonl: there is no such file"),
        (
            lambda root: (root / "meta/episodes.jsonl").write_text('{"length": 3}'),
            "the list of episodes cannot be read",
        ),
        (
            lambda root: (root / "data/chunk-000/episode_000000.parquet").write_bytes(b"PAR1" * 9),
            r"episode_000000.parquet: the parquet file cannot be read",
        ),
        (
            lambda root: (root / "data/chunk-000/episode_000000.parquet").write_text(
                "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
            ),
            r"episode_000000.parquet: the file is only a pointer of Git LFS; fetch its content: git lfs pull",
        ),
        (
            lambda root: next(root.glob(f"videos/*/{FRONT}/*0.mp4")).write_text("version https://git-lfs.github.com/"),
            r"episode_000000.mp4: the file is only a pointer of Git LFS",
        ),
        (
            lambda root: save(root / "data/chunk-000/episode_000000.parquet", table([1], {})),
            r"episode_000000.parquet: episode 0 has 0 rows, but meta lists 5 frames",
        ),
        (
            lambda root: save(root / "data/chunk-000/episode_000000.parquet", table([0], {}).drop(["timestamp"])),
            r"episode_000000.parquet: there is no column 'timestamp'; it has action",
        ),
        (
            lambda root: write(next(root.glob(f"videos/*/{FRONT}/*0.mp4")), colours(0)[:3]),
            r"episode_000000.mp4: episode 0 has 5 rows but 3 frames in the video, none of its own at 0.100 s",
        ),
    ],
)
def test_damage_is_named_with_its_file(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    root = save_2(tmp_path)
    damage(root)
    with pytest.raises(SourceError, match=message):
        recording = open_lerobot(root)[0]
        recording.streams()
        recording.stamps(FRONT)
        contents(recording, FRONT, [0, 3])


def test_a_stream_that_is_not_there_is_an_error_that_lists_the_features(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"there is no stream 'front'; the data set has action, {FRONT}, {DEPTH}"):
        open_lerobot(save_2(tmp_path))[0].stamps("front")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [recording, *_] = open_lerobot(save_2(tmp_path))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SourceError, match=r"needs the package pyarrow; pip install 'crossmodal-transfer\[video\]'"):
        recording.stamps("action")


def test_a_real_data_set_is_read(tmp_path: Path) -> None:
    if not SHARED.is_file():
        pytest.skip(f"{SHARED} is not here")
    with tarfile.open(SHARED) as tar:
        tar.extractall(tmp_path, filter="data")
    [root] = [path.parents[1] for path in tmp_path.rglob("meta/info.json")]
    recordings = open_lerobot(root)
    assert [recording.name[-2:] for recording in recordings] == ["28", "29", "30", "31", "59", "82"]
    assert open_lerobot(root)[0].absent == 94
    name = "observation.images.cam_high"
    stream = recordings[0].streams()[name]
    assert (stream.kind, stream.encoding, stream.height, stream.width) == ("rgb", "av1 yuv420p", 480, 640)
    stamps = recordings[0].stamps(name)
    assert len(stamps) == stream.frames == 278 and np.abs(np.diff(stamps) / 1e9 - 1 / 30).max() < 1e-5
    frames = list(recordings[0].frames({name: np.array([0, 150, 277]), "action": np.array([150])}))
    assert [frame.number for frame in frames] == [0, 150, 150, 277]
    assert {frame.content.shape for frame in frames} == {(480, 640, 3), (26,)}
