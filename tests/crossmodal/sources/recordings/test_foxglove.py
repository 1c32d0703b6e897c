"""MCAP files with Foxglove's schemas in protobuf, and with messages of ROS, whatever profile they name."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mcap_protobuf", reason="it is not installed; pip install 'crossmodal-transfer[ros]'")
pytest.importorskip("rosbags", reason="rosbags is not installed; pip install 'crossmodal-transfer[ros]'")

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from mcap.writer import CompressionType, IndexType, Writer
from mcap_protobuf.schema import build_file_descriptor_set
from written_bags import IMAGE, build, image, types_of

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.bags import is_bag, open_bags
from crossmodal.sources.recordings.decoding import _decoder
from crossmodal.sources.recordings.stream import Camera, Recording

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (3, 4, 6, 3), np.uint8)
DEPTH = RNG.integers(0, 65536, (3, 4, 6), np.uint16)
FIELDS = {  # https://docs.foxglove.dev/docs/sdk/schemas, with the numbers of the published .proto files
    "Vector3": "x=1:double y=2:double z=3:double",
    "Quaternion": "x=1:double y=2:double z=3:double w=4:double",
    "Pose": "position=1:Vector3 orientation=2:Quaternion",
    "RawImage": "timestamp=1:Time width=2:fixed32 height=3:fixed32 encoding=4:string step=5:fixed32 data=6:bytes "
    "frame_id=7:string",
    "CompressedImage": "timestamp=1:Time data=2:bytes format=3:string frame_id=4:string",
    "CameraCalibration": "timestamp=1:Time width=2:fixed32 height=3:fixed32 distortion_model=4:string D=5:doubles "
    "K=6:doubles R=7:doubles P=8:doubles frame_id=9:string",
    "FrameTransform": "timestamp=1:Time parent_frame_id=2:string child_frame_id=3:string translation=4:Vector3 "
    "rotation=5:Quaternion",
    "FrameTransforms": "transforms=1:FrameTransform*",
    "PoseInFrame": "timestamp=1:Time frame_id=2:string pose=3:Pose",
    "Odd": "timestamp=1:Time",
}


def make_classes() -> dict[str, Any]:
    """The message classes of Foxglove's schemas."""
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="foxglove.proto", package="foxglove", syntax="proto3")
    time = file.message_type.add(name="Time")
    time.field.add(name="seconds", number=1, type=kind.TYPE_INT64, label=kind.LABEL_OPTIONAL)
    time.field.add(name="nanos", number=2, type=kind.TYPE_INT32, label=kind.LABEL_OPTIONAL)
    plain = {
        "double": kind.TYPE_DOUBLE,
        "fixed32": kind.TYPE_FIXED32,
        "string": kind.TYPE_STRING,
        "bytes": kind.TYPE_BYTES,
    }
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for field in fields.split():
            label, _, rest = field.partition("=")
            number, _, of = rest.partition(":")
            many = of == "doubles" or of.endswith("*")
            of = "double" if of == "doubles" else of.rstrip("*")
            own = {"type": plain[of]} if of in plain else {"type": kind.TYPE_MESSAGE, "type_name": f".foxglove.{of}"}
            message.field.add(
                name=label, number=int(number), label=kind.LABEL_REPEATED if many else kind.LABEL_OPTIONAL, **own
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClassesForFiles([file.name], pool)


CLASSES = make_classes()


def say(kind: str, **fields: Any) -> Any:
    return CLASSES[f"foxglove.{kind}"](**fields)


def time(nanoseconds: int) -> dict[str, int]:
    return dict(zip(("seconds", "nanos"), divmod(nanoseconds, 1_000_000_000), strict=True))


def raw(stamp_ns: int, encoding: str, pixels: np.ndarray, frame: str = "color") -> Any:
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    return say(
        "RawImage", timestamp=time(stamp_ns), frame_id=frame, encoding=encoding,
        height=pixels.shape[0], width=pixels.shape[1], step=rows.shape[1], data=rows.tobytes(),
    )  # fmt: skip


def write(path: Path, said: list[tuple[str, Any]], *, profile: str = "", **options: Any) -> Path:
    """Writes messages of protobuf, a nanosecond after each other."""
    with path.open("wb") as file:
        writer = Writer(file, **options)
        writer.start(profile=profile)
        channels: dict[str, int] = {}
        for number, (topic, message) in enumerate(said, start=1):
            if topic not in channels:
                data = build_file_descriptor_set(type(message)).SerializeToString()
                schema = writer.register_schema(type(message).DESCRIPTOR.full_name, "protobuf", data)
                channels[topic] = writer.register_channel(topic, "protobuf", schema)
            writer.add_message(channels[topic], 1000 + number, message.SerializeToString(), 1000 + number)
        writer.finish()
    return path


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


CALIBRATION = {"D": [0.1, 0, 0, 0, 0], "K": [500, 0, 3.5, 0, 510, 1.5, 0, 0, 1], "distortion_model": "plumb_bob"}


def said() -> list[tuple[str, Any]]:
    """A calibration, a message of a type that nobody knows, and three moments of colour, depth, JPEG and pose."""
    calibration = say("CameraCalibration", timestamp=time(1), frame_id="color", width=6, height=4, **CALIBRATION)
    messages = [("/calibration", calibration), ("/grip", say("Odd", timestamp=time(1)))]
    for number in range(3):
        stamp = 5_000_000_000 + number
        file = jpeg(COLOUR[number])
        pose = {"position": {"x": number}, "orientation": {"w": 1}}
        messages += [
            ("/color", raw(stamp, "rgb8", COLOUR[number])),
            ("/depth", raw(stamp + 10, "16UC1", DEPTH[number], "depth")),
            ("/file", say("CompressedImage", timestamp=time(stamp), frame_id="color", format="jpeg", data=file)),
            ("/pose", say("PoseInFrame", timestamp=time(stamp), pose=pose)),
        ]
    return messages


def contents(recording: Recording, stream: str) -> list:
    return [frame.content for frame in recording.frames({stream: np.arange(recording.streams()[stream].frames)})]


@pytest.mark.parametrize(
    "options",
    [
        {"compression": CompressionType.NONE},
        {"compression": CompressionType.ZSTD, "chunk_size": 200},
        {"compression": CompressionType.LZ4},
        {"use_chunking": False},
        {"repeat_channels": False, "chunk_size": 200},
        {"repeat_schemas": False},
        {"index_types": IndexType.NONE, "use_statistics": False, "repeat_channels": False, "repeat_schemas": False},
    ],
)
def test_frames_of_foxglove_are_exact_with_and_without_index(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write(tmp_path / "a.mcap", said(), **options)
    assert is_bag(path)
    (recording,) = open_bags(path)
    kinds = {name: stream.kind for name, stream in recording.streams().items()}
    assert kinds == {"/grip": "other", "/color": "rgb", "/depth": "depth", "/file": "rgb", "/pose": "pose"}
    np.testing.assert_array_equal(contents(recording, "/color"), COLOUR)
    np.testing.assert_array_equal(np.stack(contents(recording, "/depth")), DEPTH, strict=True)
    assert contents(recording, "/file") == [jpeg(pixels) for pixels in COLOUR]
    assert [pose[0, 3] for pose in contents(recording, "/pose")] == [0, 1, 2]
    assert recording.stamps("/depth").tolist() == [5_000_000_010, 5_000_000_011, 5_000_000_012]
    assert recording.streams()["/depth"].stated == {"scale_m": 0.001}
    assert recording.camera("/file") == Camera(6, 4, (500, 510, 3.5, 1.5), (0.1, 0, 0, 0, 0))
    assert recording.camera("/depth") is None


@pytest.mark.parametrize("together", [False, True])
def test_frame_transforms_chain(tmp_path: Path, together: bool) -> None:
    steps = [("rig", "color", (0.1, 0, 0)), ("rig", "depth", (0.15, 0, 0))]
    links = [
        say(
            "FrameTransform", parent_frame_id=parent, child_frame_id=child,
            translation=dict(zip("xyz", xyz, strict=True)), rotation={"w": 1},
        )
        for parent, child, xyz in steps
    ]  # fmt: skip
    messages = [("/tf", say("FrameTransforms", transforms=links))] if together else [("/tf", link) for link in links]
    (recording,) = open_bags(write(tmp_path / "a.mcap", messages * 2 + said()))
    matrix = recording.transform("/depth", "/color")
    assert matrix is not None
    np.testing.assert_allclose(matrix, [[1, 0, 0, 0.05], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], atol=1e-12)


def _definition(types: Any, *, ros1: bool) -> str:
    return types.generate_msgdef(IMAGE, ros_version=1 if ros1 else 2)[0]


@pytest.mark.parametrize(
    ("profile", "encoding", "schema", "kind"),
    [
        ("ros1", "ros1", "ros1msg", "sensor_msgs/Image"),
        ("ros2", "cdr", "ros2msg", IMAGE),
        ("", "cdr", "ros2msg", IMAGE),
        ("ros2", "cdr", "ros2idl", IMAGE),
    ],
)
def test_messages_of_ros_are_read_whatever_the_profile(
    tmp_path: Path, profile: str, encoding: str, schema: str, kind: str
) -> None:
    ros1 = encoding == "ros1"
    types = types_of(ros1=ros1)
    definition = "module sensor_msgs {};" if schema == "ros2idl" else _definition(types, ros1=ros1)
    path = tmp_path / "a.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start(profile=profile)
        channel = writer.register_channel("/depth", encoding, writer.register_schema(kind, schema, definition.encode()))
        odd = writer.register_channel("/odd", "json", writer.register_schema("Odd", "jsonschema", b"{}"))
        writer.add_message(odd, 1, json.dumps({}).encode(), 1)
        for number, pixels in enumerate(DEPTH, start=1):
            message = build(types, IMAGE, image("/depth", number, "16UC1", pixels).fields)
            payload = types.serialize_ros1(message, IMAGE) if ros1 else types.serialize_cdr(message, IMAGE)
            writer.add_message(channel, number, bytes(payload), number)
        writer.finish()
    (recording,) = open_bags(path)
    assert {name: stream.kind for name, stream in recording.streams().items()} == {"/odd": "other", "/depth": "depth"}
    np.testing.assert_array_equal(contents(recording, "/depth"), DEPTH)
    assert recording.stamps("/depth").tolist() == [1, 2, 3]


def test_a_file_without_index_keeps_its_own_order(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with path.open("wb") as file:
        writer = Writer(file, use_chunking=False)
        writer.start()
        message = raw(1, "rgb8", COLOUR[0])
        schema = writer.register_schema(
            "foxglove.RawImage", "protobuf", build_file_descriptor_set(type(message)).SerializeToString()
        )
        channel = writer.register_channel("/color", "protobuf", schema)
        for stamp in (7, 5, 6):  # sorting them would take the whole file into memory
            writer.add_message(channel, stamp, raw(stamp, "rgb8", COLOUR[stamp % 3]).SerializeToString(), stamp)
        writer.finish()
    (recording,) = open_bags(path)
    assert recording.stamps("/color").tolist() == [7, 5, 6]
    np.testing.assert_array_equal(contents(recording, "/color"), COLOUR[[1, 2, 0]])


def test_a_damaged_chunk_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", said(), compression=CompressionType.NONE)
    path.write_bytes(path.read_bytes().replace(COLOUR[1].tobytes(), bytes(COLOUR[1].size)))
    with pytest.raises(SourceError, match=r"a\.mcap cannot be read: .*(?i:crc)"):
        contents(open_bags(path)[0], "/color")


def test_a_message_that_is_not_of_its_type_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", said(), compression=CompressionType.NONE, enable_crcs=False)
    whole = raw(5_000_000_001, "rgb8", COLOUR[1]).SerializeToString()
    path.write_bytes(path.read_bytes().replace(whole, b"\xff" * len(whole)))
    with pytest.raises(SourceError, match=r"a\.mcap: /color: frame 1: the message is damaged or not of type"):
        contents(open_bags(path)[0], "/color")


def test_a_file_that_still_has_its_end_but_lost_its_middle_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", said(), compression=CompressionType.NONE, use_chunking=False)
    data = path.read_bytes()
    path.write_bytes(data[:600] + data[900:])
    with pytest.raises(SourceError, match=r"a\.mcap cannot be read: "):
        contents(open_bags(path)[0], "/color")


def test_two_publishers_who_do_not_agree_make_a_topic_of_kind_other(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        for kind in ("A", "B"):
            channel = writer.register_channel("/mixed", "json", writer.register_schema(kind, "jsonschema", b"{}"))
            writer.add_message(channel, 1, b"{}", 1)
        writer.finish()
    stream = open_bags(path)[0].streams()["/mixed"]
    assert (stream.kind, stream.encoding, stream.frames) == ("other", "A and B", 2)


def test_a_missing_package_is_one_sentence_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mcap", said())
    monkeypatch.setitem(__import__("sys").modules, "mcap_protobuf.decoder", None)
    _decoder.cache_clear()
    with pytest.raises(SourceError, match=r"package mcap-protobuf-support is needed: pip install"):
        open_bags(path)[0].streams()
