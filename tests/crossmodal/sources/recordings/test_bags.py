"""Bags in every container: frames are exact, stamps are those of the sensors, and damage is one sentence."""

import io
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("rosbags", reason="rosbags is not installed; pip install 'crossmodal-transfer[ros]'")
pytest.importorskip("mcap", reason="mcap is not installed; pip install 'crossmodal-transfer[ros]'")

from written_bags import CAMERA_INFO, CONTAINERS, TF, Said, compressed, header, image, transform, write_bag

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.bags import is_bag, open_bags
from crossmodal.sources.recordings.stream import Camera, Recording

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (3, 4, 6, 3), np.uint8)
DEPTH = RNG.integers(0, 65536, (3, 4, 6), np.uint16)
K = [500.0, 0, 3.5, 0, 510, 1.5, 0, 0, 1]
P = [490.0, 0, 3, 0, 0, 490, 1, 0, 0, 0, 1, 0]


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def said(order: str = "<") -> list[Said]:
    """Three moments of colour, depth in both encodings, 16-bit infrared, a Bayer pattern and JPEG, and a pose."""
    messages = []
    for number in range(3):
        stamp = 10_000_000_000 + 33_000_000 * number
        messages += [
            image("/color/image_raw", stamp + 1, "rgb8", COLOUR[number]),
            image("/depth/image_raw", stamp + 2, "16UC1", DEPTH[number].astype(f"{order}u2")),
            image("/metres/image", stamp + 3, "32FC1", (DEPTH[number] / 1000).astype(f"{order}f4")),
            image("/infra/image", stamp + 4, "mono16", DEPTH[number].astype(f"{order}u2")),
            image("/bayer/image", stamp + 5, "bayer_rggb8", COLOUR[number, ..., 0]),
            compressed("/color/image_raw/compressed", stamp + 6, "rgb8; jpeg compressed bgr8", jpeg(COLOUR[number])),
            Said(
                "/odom",
                "nav_msgs/msg/Odometry",
                {"header": header(stamp + 7), "pose": {"pose": {"position": {"x": number}, "orientation": {"w": 1}}}},
                stamp + 12,
            ),
        ]
    return messages


def contents(recording: Recording, stream: str) -> list:
    return [frame.content for frame in recording.frames({stream: np.arange(recording.streams()[stream].frames)})]


def opened(folder: Path, messages: Sequence[Said], container: str = "mcap") -> Recording:
    (recording,) = open_bags(write_bag(folder, container, messages))
    return recording


def one_sentence(error: pytest.ExceptionInfo[SourceError]) -> None:
    assert "\n" not in str(error.value)
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("container", CONTAINERS)
def test_frames_are_exact_in_every_container_and_byte_order(tmp_path: Path, container: str, order: str) -> None:
    path = write_bag(tmp_path, container, said(order), little_endian=order == "<")
    assert is_bag(path)
    (recording,) = open_bags(path)
    kinds = {name: stream.kind for name, stream in recording.streams().items()}
    assert kinds == {
        "/color/image_raw": "rgb",
        "/depth/image_raw": "depth",
        "/metres/image": "depth",
        "/infra/image": "thermal",
        "/bayer/image": "rgb",
        "/color/image_raw/compressed": "rgb",
        "/odom": "pose",
    }
    np.testing.assert_array_equal(contents(recording, "/color/image_raw"), COLOUR)
    np.testing.assert_array_equal(np.stack(contents(recording, "/depth/image_raw")), DEPTH, strict=True)
    metres = (DEPTH / 1000).astype(np.float32)
    np.testing.assert_array_equal(np.stack(contents(recording, "/metres/image")), metres, strict=True)
    np.testing.assert_array_equal(np.stack(contents(recording, "/infra/image")), DEPTH, strict=True)
    red = np.stack(contents(recording, "/bayer/image"))[:, ::2, ::2, 0]
    np.testing.assert_array_equal(red, COLOUR[:, ::2, ::2, 0])
    assert contents(recording, "/color/image_raw/compressed") == [jpeg(pixels) for pixels in COLOUR]
    assert [pose[0, 3] for pose in contents(recording, "/odom")] == [0, 1, 2]
    for place, name in enumerate(recording.streams(), start=1):
        first = 10_000_000_000 + place
        assert recording.stamps(name).tolist() == [first, first + 33_000_000, first + 66_000_000]
        assert recording.streams()[name].clock == "header"


def test_only_wanted_frames_come_in_the_order_in_which_they_are_stored(tmp_path: Path) -> None:
    recording = opened(tmp_path, said())
    wanted = {"/depth/image_raw": np.array([0, 2]), "/color/image_raw": np.array([1, 2]), "/odom": np.array([], int)}
    got = [(frame.stream, frame.number) for frame in recording.frames(wanted)]
    color, depth = "/color/image_raw", "/depth/image_raw"
    assert got == [(depth, 0), (color, 1), (color, 2), (depth, 2)]


@pytest.mark.parametrize("container", ["bag", "db3", "mcap", "folder-mcap"])
def test_stamps_keep_the_stored_order_and_frames_follow_them(tmp_path: Path, container: str) -> None:
    stamps = [50, 20, 40, 10]
    messages = [
        Said("/a", "sensor_msgs/msg/Image", image("/a", stamp, "mono8", np.full((1, 1), stamp, np.uint8)).fields, 1000)
        for stamp in stamps
    ]
    recording = opened(tmp_path, messages, container)
    assert recording.stamps("/a").tolist() == stamps
    assert [int(pixels[0, 0]) for pixels in contents(recording, "/a")] == stamps


@pytest.mark.parametrize("container", ["bag", "db3", "mcap"])
def test_without_header_stamps_the_receive_time_counts_and_the_stream_says_so(tmp_path: Path, container: str) -> None:
    messages = [
        Said("/a", "sensor_msgs/msg/Image", image("/a", 0, "mono8", COLOUR[0, ..., 0]).fields, received)
        for received in (1_000, 2_000)
    ]
    recording = opened(tmp_path, messages, container)
    assert recording.streams()["/a"].clock == "received"
    assert recording.stamps("/a").tolist() == [1_000, 2_000]


@pytest.mark.parametrize("stamps", [(0, 5, 6), (5, 0, 6)])
def test_some_stamps_of_0_are_refused(tmp_path: Path, stamps: tuple[int, ...]) -> None:
    messages = [image("/a", stamp, "mono8", COLOUR[0, ..., 0]) for stamp in stamps]
    recording = opened(tmp_path, messages)
    with pytest.raises(SourceError, match=r"recording_?0?\.mcap: /a: the stamps of 1 of 3 frames are 0") as error:
        recording.stamps("/a")
    one_sentence(error)


def camera_info(topic: str, frame: str = "camera", **fields: object) -> Said:
    own = {"header": header(3, frame), "height": 4, "width": 6, "distortion_model": "plumb_bob", "k": K, "p": P}
    return Said(topic, CAMERA_INFO, own | {"d": [0.1, -0.2, 0.01, 0.02, 0.3]} | fields, 3)


@pytest.mark.parametrize("container", ["bag", "db3", "mcap"])
@pytest.mark.parametrize("topic", ["/color/image_raw", "/color/image_raw/compressed"])
def test_the_camera_is_that_of_the_namespace(tmp_path: Path, container: str, topic: str) -> None:
    other = camera_info("/other/camera_info", k=[1.0, 0, 1, 0, 1, 1, 0, 0, 1])
    recording = opened(tmp_path, [other, camera_info("/color/camera_info"), *said()], container)
    assert recording.camera(topic) == Camera(6, 4, (500, 510, 3.5, 1.5), (0.1, -0.2, 0.01, 0.02, 0.3), "plumb_bob")
    assert "/color/camera_info" not in recording.streams()


def test_a_rectified_topic_has_the_rectified_camera(tmp_path: Path) -> None:
    messages = [camera_info("/left/camera_info"), image("/left/image_rect", 5, "mono8", COLOUR[0, ..., 0])]
    assert opened(tmp_path, messages).camera("/left/image_rect") == Camera(6, 4, (490, 490, 3, 1))


def test_the_only_calibration_of_the_same_frame_and_size_is_taken(tmp_path: Path) -> None:
    messages = [camera_info("/elsewhere", "cam"), camera_info("/small", "cam", width=3), camera_info("/b", "b")]
    messages += [image("/aligned", 5, "16UC1", DEPTH[0], frame="cam"), image("/third", 5, "16UC1", DEPTH[0], frame="c")]
    recording = opened(tmp_path, messages)
    camera = recording.camera("/aligned")
    assert camera is not None
    assert camera.matrix == (500, 510, 3.5, 1.5)
    assert recording.camera("/third") is None


@pytest.mark.parametrize("fields", [{"k": [0] * 9, "p": [0] * 12, "d": []}, None])
def test_a_stream_without_calibration_has_no_camera(tmp_path: Path, fields: dict | None) -> None:
    info = [] if fields is None else [camera_info("/color/camera_info", **fields)]
    assert opened(tmp_path, [*info, *said()]).camera("/color/image_raw") is None


@pytest.mark.parametrize(
    ("model", "coefficients", "expected"),
    [
        ("rational_polynomial", [0.1] * 8, ("rational_polynomial", 8)),
        ("rational_polynomial", [0.1] * 8 + [0] * 6, ("rational_polynomial", 8)),
        ("equidistant", [0.1] * 4, ("equidistant", 4)),
        ("fisheye", [0.1] * 4, ("equidistant", 4)),
        ("plumb_bob", [0.1] * 4, ("plumb_bob", 4)),
        ("anything", [0] * 5, ("plumb_bob", 0)),
    ],
)
def test_distortion_is_that_of_ros(tmp_path: Path, model: str, coefficients: list, expected: tuple[str, int]) -> None:
    info = camera_info("/color/camera_info", distortion_model=model, d=coefficients)
    camera = opened(tmp_path, [info, *said()]).camera("/color/image_raw")
    assert camera is not None
    assert (camera.model, len(camera.distortion)) == expected


@pytest.mark.parametrize(("model", "count"), [("fov", 1), ("rational_polynomial", 12)])
def test_an_unknown_distortion_is_refused_by_name(tmp_path: Path, model: str, count: int) -> None:
    info = camera_info("/color/camera_info", distortion_model=model, d=[0.1] * count)
    recording = opened(tmp_path, [info, *said()])
    with pytest.raises(SourceError, match=f"/color/image_raw: the lens distortion, {count} coefficients of '{model}'"):
        recording.camera("/color/image_raw")


HALF = np.sqrt(0.5)
OPTICAL = (-0.5, 0.5, -0.5, 0.5)  # ROS: from x forward, y left, z up to x right, y down, z forward


@pytest.mark.parametrize("container", ["bag", "db3", "mcap"])
def test_static_transforms_chain_from_one_camera_to_the_other(tmp_path: Path, container: str) -> None:
    chain = [
        transform("base", "color_link", (0.1, 0.2, 0.3)),
        transform("base", "depth_link", (0.1, 0.25, 0.3), (0, 0, HALF, HALF)),  # turned to the left by 90 degrees
        transform("color_link", "color", (0, 0, 0), OPTICAL),
        transform("depth_link", "depth", (0, 0, 0), OPTICAL),
    ]
    messages = [
        Said("/tf_static", TF, {"transforms": chain[:2]}, 1),
        Said("/tf_static", TF, {"transforms": chain[2:]}, 2),
    ]
    messages += [
        image("/color", 5, "rgb8", COLOUR[0], frame="color"),
        image("/depth", 6, "16UC1", DEPTH[0], frame="/depth"),
        image("/alone", 7, "16UC1", DEPTH[0], frame="alone"),
        image("/unnamed", 8, "16UC1", DEPTH[0], frame=""),
    ]
    recording = opened(tmp_path, messages, container)
    matrix = recording.transform("/depth", "/color")
    assert matrix is not None
    # by hand: a metre ahead of the depth camera is a metre to the left of the base, which the colour camera sees at
    # x = -1; the depth camera itself is 0.05 m to the left of the colour camera
    np.testing.assert_allclose(matrix @ [0, 0, 1, 1], [-1.05, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(matrix @ [0, 1, 0, 1], [-0.05, 1, 0, 1], atol=1e-12)
    back = recording.transform("/color", "/depth")
    assert back is not None
    np.testing.assert_allclose(back @ matrix, np.eye(4), atol=1e-12)
    assert recording.transform("/alone", "/color") is None
    assert recording.transform("/unnamed", "/unnamed") is None


def test_cameras_of_one_frame_need_no_transform(tmp_path: Path) -> None:
    matrix = opened(tmp_path, said()).transform("/depth/image_raw", "/color/image_raw")
    assert matrix is not None
    np.testing.assert_array_equal(matrix, np.eye(4))


def test_transforms_that_are_repeated_without_change_are_static(tmp_path: Path) -> None:
    repeated = [Said("/tf", TF, {"transforms": [transform("depth", "color", (1, 0, 0))]}, each) for each in (1, 2)]
    messages = [
        *repeated,
        image("/c", 5, "rgb8", COLOUR[0], frame="color"),
        image("/d", 6, "16UC1", DEPTH[0], frame="depth"),
    ]
    matrix = opened(tmp_path, messages).transform("/c", "/d")
    assert matrix is not None
    np.testing.assert_array_equal(matrix[:3, 3], [1, 0, 0])


def test_a_transform_that_moves_is_not_static(tmp_path: Path) -> None:
    moving = [
        Said("/tf_static", TF, {"transforms": [transform("depth", "color", (x, 0, 0))]}, int(10 * x)) for x in (1, 2)
    ]
    messages = [
        *moving,
        image("/c", 5, "rgb8", COLOUR[0], frame="color"),
        image("/d", 6, "16UC1", DEPTH[0], frame="depth"),
    ]
    assert opened(tmp_path, messages).transform("/c", "/d") is None


def test_unknown_types_are_streams_of_kind_other(tmp_path: Path) -> None:
    for container in ("bag", "db3", "mcap"):
        folder = tmp_path / container
        folder.mkdir()
        grip = Said("/grip", "my_robot/msg/Grip", {"header": header(7), "grip": 0.5}, 99)
        recording = opened(folder, [*said(), grip], container)
        stream = recording.streams()["/grip"]
        assert (stream.kind, stream.encoding, stream.frames, stream.clock) == (
            "other",
            "my_robot/msg/Grip",
            1,
            "received",
        )
        assert recording.stamps("/grip").tolist() == [99]
        with pytest.raises(SourceError, match="/grip: messages of type my_robot/msg/Grip cannot be packed") as error:
            contents(recording, "/grip")
        one_sentence(error)


def test_a_definition_that_nobody_can_parse_does_not_keep_others_from_being_read(tmp_path: Path) -> None:
    grip = Said("/grip", "my_robot/msg/Grip", {"grip": 0.5}, 99)
    path = write_bag(tmp_path, "bag", [*said(), grip])
    damaged = path.read_bytes().replace(b"float64 grip", b"float64 !!!!")
    path.write_bytes(damaged)
    (recording,) = open_bags(path)
    np.testing.assert_array_equal(contents(recording, "/color/image_raw"), COLOUR)


def test_old_bags_of_ros_2_without_definitions_are_read(tmp_path: Path) -> None:
    import sqlite3

    path = write_bag(tmp_path, "db3", said())
    base = sqlite3.connect(path)
    base.execute("DELETE FROM message_definitions")
    base.commit()
    base.close()
    (recording,) = open_bags(path)
    np.testing.assert_array_equal(contents(recording, "/depth/image_raw"), DEPTH)


def test_the_files_of_a_split_recording_are_one(tmp_path: Path) -> None:
    for part, messages in (("a", said()[:7]), ("b", said()[7:])):
        (tmp_path / part).mkdir()
        write_bag(tmp_path / part, "folder-db3", messages)
    folder = tmp_path / "a" / "recording"
    shutil.copy(tmp_path / "b" / "recording" / "recording.db3", folder / "second.db3")
    metadata = folder / "metadata.yaml"
    text = metadata.read_text()
    text = re.sub(r"(relative_file_paths:\n *)(- recording.db3)", r"\1\2\n  - second.db3", text)
    metadata.write_text(text.replace("message_count: 1\n", "message_count: 3\n"))
    (recording,) = open_bags(folder)
    np.testing.assert_array_equal(contents(recording, "/depth/image_raw"), DEPTH)
    assert len(recording.stamps("/depth/image_raw")) == 3
    assert {file.name for file in recording.files} == {"metadata.yaml", "recording.db3", "second.db3"}


def test_a_recording_is_called_by_its_file_or_folder(tmp_path: Path) -> None:
    path = write_bag(tmp_path, "mcap", said())
    assert open_bags(path.rename(tmp_path / "my walk.1.mcap"))[0].name == "my_walk_1"
    shutil.rmtree(tmp_path / "recording")
    folder = write_bag(tmp_path, "folder-db3", said())
    (recording,) = open_bags(folder.rename(tmp_path / "walk.bag"))  # a folder of ROS 2 all the same
    assert recording.name == "walk_bag"
    np.testing.assert_array_equal(contents(recording, "/color/image_raw"), COLOUR)


def test_other_files_and_folders_are_no_bags(tmp_path: Path) -> None:
    (tmp_path / "rgb.txt").write_text("")
    (tmp_path / "metadata.yaml").write_text("version: 3\n")
    assert not is_bag(tmp_path)
    assert not is_bag(tmp_path / "rgb.txt")
    assert not is_bag(tmp_path / "absent.bag")


@pytest.mark.parametrize("container", ["bag", "db3", "mcap"])
def test_a_bag_without_pictures_opens_and_has_none(tmp_path: Path, container: str) -> None:
    recording = opened(tmp_path, [Said("/grip", "my_robot/msg/Grip", {"grip": 0.5}, 99)], container)
    assert {stream.kind for stream in recording.streams().values()} == {"other"}
    with pytest.raises(SourceError, match="there is no stream '/color'; there are /grip"):
        recording.stamps("/color")


@pytest.mark.parametrize("container", ["bag", "db3", "mcap", "folder-db3"])
def test_a_bag_without_messages_is_refused(tmp_path: Path, container: str) -> None:
    path = write_bag(tmp_path, container, [])
    with pytest.raises(SourceError, match=f"{re.escape(str(path))} holds no messages") as error:
        open_bags(path)
    one_sentence(error)


@pytest.mark.parametrize(
    ("container", "repair"),
    [("bag", "rosbag reindex"), ("db3", "ros2 bag reindex"), ("mcap", "mcap recover"), ("folder-db3", "ros2 bag")],
)
@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_a_truncated_bag_is_one_sentence_with_the_repair(
    tmp_path: Path, container: str, repair: str, share: float
) -> None:
    path = write_bag(tmp_path, container, said())
    file = path if path.is_file() else next(path.glob("*.db3"))
    os.truncate(file, int(file.stat().st_size * share))
    with pytest.raises(SourceError, match=f"{re.escape(str(path))} cannot be read: .*{repair}") as error:
        for recording in open_bags(path):
            for stream in recording.streams():
                contents(recording, stream)
    one_sentence(error)
    assert "('" not in str(error.value)


def test_a_bag_without_index_is_one_sentence_with_the_repair(tmp_path: Path) -> None:
    path = write_bag(tmp_path, "bag", said())
    data = bytearray(path.read_bytes())
    place = data.index(b"index_pos=") + len(b"index_pos=")
    data[place : place + 8] = bytes(8)  # as of a recorder that was killed
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"not indexed.*`rosbag reindex .*\.bag`") as error:
        open_bags(path)
    one_sentence(error)


def test_a_database_that_was_not_closed_is_refused(tmp_path: Path) -> None:
    path = write_bag(tmp_path, "db3", said())
    path.with_name(path.name + "-wal").write_bytes(b"rest")
    with pytest.raises(SourceError, match=r"was not closed: .*-wal holds its last messages; join them with `sqlite3 "):
        open_bags(path)


def test_a_table_that_states_more_messages_than_there_are_is_noticed(tmp_path: Path) -> None:
    import sqlite3

    path = write_bag(tmp_path, "folder-db3", said())
    base = sqlite3.connect(next(path.glob("*.db3")))
    base.execute("DELETE FROM messages WHERE id > 14")
    base.commit()
    base.close()
    (recording,) = open_bags(path)
    with pytest.raises(SourceError, match="image_raw: its table states 3 messages, but there are 2; the recording"):
        recording.stamps("/color/image_raw")


def test_a_first_pose_without_rotation_does_not_keep_pictures_from_being_read(tmp_path: Path) -> None:
    pose = Said("/pose", "geometry_msgs/msg/PoseStamped", {"header": header(3)}, 3)
    recording = opened(tmp_path, [pose, *said()])
    np.testing.assert_array_equal(contents(recording, "/color/image_raw"), COLOUR)
    with pytest.raises(SourceError, match=r"/pose: frame 0: the quaternion .* is no rotation"):
        contents(recording, "/pose")


def test_a_folder_whose_file_is_missing_is_one_sentence(tmp_path: Path) -> None:
    path = write_bag(tmp_path, "folder-db3", said())
    next(path.glob("*.db3")).unlink()
    with pytest.raises(SourceError, match="Some database files are missing") as error:
        open_bags(path)
    one_sentence(error)


@pytest.mark.parametrize("suffix", [".bag", ".db3", ".mcap"])
def test_files_of_another_format_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"")
    with pytest.raises(SourceError, match=f"x{suffix} is empty"):
        open_bags(path)
    path.write_bytes(b"PK\3\4 and so on, no bag at all")
    with pytest.raises(SourceError, match=f"x{suffix} is no {suffix} file: it begins with"):
        open_bags(path)


def test_a_file_of_a_folder_that_is_compressed_by_message_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_bag(tmp_path, "folder-db3-message", said())
    (recording,) = open_bags(next(folder.glob("*.db3")))
    with pytest.raises(SourceError, match="compressed message by message, name its folder") as error:
        recording.streams()
    one_sentence(error)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (image("/a", 6, "rgb8", COLOUR[0], data=COLOUR[0].ravel()[:-1]), "frame 1: its data is cut short"),
        (image("/a", 6, "mono8", COLOUR[0, ..., 0]), "frame 1: it is mono8 6 x 4, but the first frame is rgb8 6 x 4"),
        (image("/a", 6, "rgb8", COLOUR[0, :2]), "frame 1: it is rgb8 6 x 2, but the first frame is rgb8 6 x 4; split"),
    ],
)
def test_a_bad_frame_is_named_with_its_number(tmp_path: Path, second: Said, message: str) -> None:
    recording = opened(tmp_path, [image("/a", 5, "rgb8", COLOUR[0]), second])
    with pytest.raises(SourceError, match=f"mcap: /a: {message}") as error:
        contents(recording, "/a")
    one_sentence(error)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (compressed("/depth/compressed", 5, "16UC1; jpeg compressed ", jpeg(COLOUR[0, ..., 0])), "holds 8 bits"),
        (image("/odd", 5, "32SC1", DEPTH[0].astype("i4")), "'32SC1' cannot be read"),
        (compressed("/video", 5, "h264", b"\0\0\0\1gQ"), "'h264' .* cannot be read"),
    ],
)
def test_pictures_that_cannot_be_read_are_refused_when_they_are_wanted(
    tmp_path: Path, picture: Said, message: str
) -> None:
    recording = opened(tmp_path, [picture, *said()])
    with pytest.raises(SourceError, match=f"mcap: {picture.topic}: frame 0: .*{message}"):
        contents(recording, picture.topic)


def test_a_missing_package_is_one_sentence_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for container, package in (("bag", "rosbags"), ("mcap", "mcap")):
        (tmp_path / container).mkdir()
        path = write_bag(tmp_path / container, container, said())
        with monkeypatch.context() as patch:
            for name in ("rosbags.rosbag1", "rosbags.rosbag2", "mcap.reader"):
                patch.setitem(__import__("sys").modules, name, None)
            with pytest.raises(
                SourceError, match=rf"package {package} is needed: pip install 'crossmodal-transfer\[ros"
            ):
                open_bags(path)


@pytest.mark.parametrize("changed", [range(21), range(8, 9)])
def test_a_changed_file_is_noticed(tmp_path: Path, changed: range) -> None:
    path = write_bag(tmp_path, "mcap", said())
    (recording,) = open_bags(path)
    recording.stamps("/depth/image_raw")
    shutil.rmtree(path.parent)
    later = [
        Said(each.topic, each.kind, each.fields, each.received_ns + (number in changed))
        for number, each in enumerate(said())
    ]
    write_bag(tmp_path, "mcap", later)
    with pytest.raises(SourceError, match="has changed since it was opened"):
        contents(recording, "/depth/image_raw")


def test_memory_does_not_hold_the_recording(tmp_path: Path) -> None:
    import tracemalloc

    pixels = np.zeros((256, 256, 3), np.uint8)  # 0.2 MB each
    for container in ("bag", "db3", "mcap"):
        (tmp_path / container).mkdir()
        messages = [image("/a", number, "rgb8", pixels) for number in range(1, 61)]
        recording = opened(tmp_path / container, messages, container)
        recording.streams()
        tracemalloc.start()
        for _ in recording.frames({"/a": np.arange(60)}):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6e6, container  # of 12 MB; chunks have 1 MB
