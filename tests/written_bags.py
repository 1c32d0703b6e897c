"""Bags for tests, written by rosbags, and files of Foxglove, written by mcap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CONTAINERS = (
    "bag",  # ROS 1
    "bag-lz4",
    "bag-bz2",
    "db3",  # ROS 2, one file
    "folder-db3",  # with metadata.yaml
    "folder-db3-message",  # each message compressed
    "folder-db3-file",  # the file compressed
    "mcap",
    "mcap-zstd",
    "folder-mcap",
)
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
TF = "tf2_msgs/msg/TFMessage"
_KINDS = {"bool": "?", "uint8": "u1", "float64": "f8", "float32": "f4", "int32": "i4", "uint32": "u4"}


@dataclass(frozen=True)
class Said:
    """One message: its fields by name as in ROS 2; fields that are left out are 0 or empty."""

    topic: str
    kind: str
    fields: Mapping[str, Any]
    received_ns: int


def header(stamp_ns: int, frame: str = "camera") -> dict[str, Any]:
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return {"stamp": {"sec": seconds, "nanosec": nanoseconds}, "frame_id": frame}


def image(
    topic: str, stamp_ns: int, encoding: str, pixels: np.ndarray, *, frame: str = "camera", **fields: Any
) -> Said:
    """A picture whose rows are those of `pixels` [height, width, ...], in their own byte order."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    own = {
        "header": header(stamp_ns, frame),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "encoding": encoding,
        "is_bigendian": int(pixels.dtype.byteorder == ">"),
        "step": rows.shape[1],
        "data": rows.ravel(),
    }
    return Said(topic, IMAGE, own | fields, stamp_ns + 5)


def compressed(topic: str, stamp_ns: int, form: str, payload: bytes) -> Said:
    fields = {"header": header(stamp_ns), "format": form, "data": np.frombuffer(payload, np.uint8)}
    return Said(topic, COMPRESSED, fields, stamp_ns + 5)


def transform(parent: str, child: str, xyz: Sequence[float], quaternion: Sequence[float] = (0, 0, 0, 1)) -> dict:
    return {
        "header": header(1, parent),
        "child_frame_id": child,
        "transform": {
            "translation": dict(zip("xyz", xyz, strict=True)),
            "rotation": dict(zip("xyzw", quaternion, strict=True)),
        },
    }


def types_of(*, ros1: bool) -> Any:
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    types = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.LATEST)
    if ros1:
        types.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", TF))
    types.register(get_types_from_msg("std_msgs/Header header\nfloat64 grip\n", "my_robot/msg/Grip"))
    return types


def build(types: Any, kind: str, values: Mapping[str, Any]) -> Any:
    """A message of rosbags."""
    from rosbags.interfaces import Nodetype

    made = {}
    for name, (node, detail) in types.fielddefs[kind][1]:
        given = values.get(name, values.get(name.lower()))
        if node == Nodetype.NAME:
            made[name] = build(types, detail, given or {})
        elif node == Nodetype.BASE:
            made[name] = given if given is not None else "" if detail[0] == "string" else 0
        elif detail[0][0] == Nodetype.NAME:
            made[name] = [build(types, detail[0][1], each) for each in given or ()]
        else:
            length = detail[1] if node == Nodetype.ARRAY else 0
            made[name] = np.array(given if given is not None else [0] * length, _KINDS[detail[0][1][0]])
    return types.types[kind](**made)


def write_bag(folder: Path, container: str, said: Sequence[Said], *, little_endian: bool = True) -> Path:
    """Writes a bag and returns what a user would name: a file, or a folder of ROS 2."""
    from rosbags.rosbag1 import Writer as Writer1
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
    from rosbags.rosbag2 import Writer as Writer2

    ros1 = container.startswith("bag")
    types = types_of(ros1=ros1)
    writer: Any
    if ros1:
        path = folder / "recording.bag"
        writer = Writer1(path)
        if "-" in container:
            writer.set_compression(getattr(Writer1.CompressionFormat, container.partition("-")[2].upper()))
    else:
        path = folder / "recording"
        plugin = StoragePlugin.MCAP if "mcap" in container else StoragePlugin.SQLITE3
        writer = Writer2(path, version=9, storage_plugin=plugin)
        modes = {"message": CompressionMode.MESSAGE, "file": CompressionMode.FILE, "zstd": CompressionMode.STORAGE}
        mode = modes.get(container.rpartition("-")[2])
        if mode is not None:
            writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for each in said:
            if each.topic not in connections:
                connections[each.topic] = writer.add_connection(each.topic, each.kind, typestore=types)
            message = build(types, each.kind, each.fields)
            payload = (
                types.serialize_ros1(message, each.kind)
                if ros1
                else types.serialize_cdr(message, each.kind, little_endian=little_endian)
            )
            writer.write(connections[each.topic], each.received_ns, payload)
    return path if ros1 or container.startswith("folder") else next(path.glob(f"*.{container.partition('-')[0]}"))
