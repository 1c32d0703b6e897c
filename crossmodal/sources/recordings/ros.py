"""Messages of ROS 1 and ROS 2 as bytes, decoded by rosbags."""

import struct
from functools import cache
from typing import Any

import numpy as np

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.images import Compressed, Raw
from crossmodal.sources.recordings.messages import (
    Message,
    Picture,
    Role,
    Transform,
    pose_matrix,
    read_calibration,
)

_ROLES: dict[str, Role] = {
    "sensor_msgs/msg/Image": "picture",
    "sensor_msgs/msg/CompressedImage": "picture",
    "sensor_msgs/msg/CameraInfo": "calibration",
    "geometry_msgs/msg/PoseStamped": "pose",
    "geometry_msgs/msg/PoseWithCovarianceStamped": "pose",
    "geometry_msgs/msg/TransformStamped": "pose",
    "nav_msgs/msg/Odometry": "pose",
    "tf2_msgs/msg/TFMessage": "transforms",
    "tf/msg/tfMessage": "transforms",
}
_TF_MESSAGE = "geometry_msgs/TransformStamped[] transforms"


def role_of(kind: str) -> Role:
    """What messages of a type say; the type is named as in ROS 2: "sensor_msgs/msg/Image"."""
    return _ROLES.get(kind, "other")


def read_stamp(payload: bytes, *, ros1: bool) -> int:
    """The stamp in the header that a message begins with, nanoseconds, without decoding the rest.

    Raises:
        SourceError: the bytes are no message of ROS.
    """
    if len(payload) < 12 or not (ros1 or payload[:2] in (b"\0\0", b"\0\1")):
        raise SourceError(
            f"its {len(payload)} bytes begin with {bytes(payload[:4])!r} and are no message of ROS; if the bag is "
            "compressed message by message, name its folder, not a file in it"
        )
    if ros1:  # sequence number, seconds, nanoseconds
        seconds, nanoseconds = struct.unpack_from("<II", payload, 4)
    else:  # byte order, seconds, nanoseconds
        seconds, nanoseconds = struct.unpack_from("<iI" if payload[1] else ">iI", payload, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def read_message(payload: bytes, kind: str, definition: str, *, ros1: bool) -> Message:
    """What a message says.

    Args:
        payload: the message as it is stored.
        kind: its type, one with a role other than "other".
        definition: text of the type in the bag; empty: the type is as the present ROS defines it.
        ros1: whether the message is of ROS 1.

    Raises:
        SourceError: the message is not of its type.
    """
    types = _typestore(kind, definition, ros1)
    try:
        message: Any = (types.deserialize_ros1 if ros1 else types.deserialize_cdr)(payload, kind)
    except Exception as error:  # of damaged bytes, rosbags raises many kinds of errors
        raise SourceError(f"the message is damaged or not of type {kind}: {type(error).__name__}: {error}") from error
    return _READERS[kind](message)


@cache
def _typestore(kind: str, definition: str, ros1: bool) -> Any:
    from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

    if definition:
        types = get_typestore(Stores.EMPTY)
        try:
            types.register(get_types_from_msg(definition, kind))
        except (TypesysError, ValueError) as error:
            raise SourceError(f"the bag's definition of {kind} cannot be read: {error}") from error
        return types
    types = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.LATEST)
    if kind not in types.fielddefs:
        types.register(get_types_from_msg(_TF_MESSAGE, kind))
    return types


def _image(message: Any) -> Message:
    raw = Raw(message.encoding, message.height, message.width, message.step, bool(message.is_bigendian), message.data)
    return Picture(message.header.frame_id.lstrip("/"), raw)


def _compressed(message: Any) -> Message:
    return Picture(message.header.frame_id.lstrip("/"), Compressed(message.format, message.data.tobytes()))


def _camera_info(message: Any) -> Message:
    lower = hasattr(message, "k")  # ROS 2; ROS 1 has K
    matrix, projection, distortion = (getattr(message, name if lower else name.upper()) for name in "kpd")
    return read_calibration(
        message.header.frame_id.lstrip("/"),
        size=(message.width, message.height),
        model=message.distortion_model,
        distortion=np.asarray(distortion, np.float64).tolist(),
        matrix=np.asarray(matrix, np.float64).tolist(),
        projection=np.asarray(projection, np.float64).tolist(),
    )


def _transform(message: Any) -> Transform:
    moved = message.transform
    matrix = pose_matrix(_xyz(moved.translation), (*_xyz(moved.rotation), moved.rotation.w))
    return Transform(message.header.frame_id.lstrip("/"), message.child_frame_id.lstrip("/"), matrix)


def _pose(pose: Any) -> Message:
    return pose_matrix(_xyz(pose.position), (*_xyz(pose.orientation), pose.orientation.w))


def _xyz(vector: Any) -> tuple[float, float, float]:
    return vector.x, vector.y, vector.z


_READERS: dict[str, Any] = {
    "sensor_msgs/msg/Image": _image,
    "sensor_msgs/msg/CompressedImage": _compressed,
    "sensor_msgs/msg/CameraInfo": _camera_info,
    "geometry_msgs/msg/PoseStamped": lambda message: _pose(message.pose),
    "geometry_msgs/msg/PoseWithCovarianceStamped": lambda message: _pose(message.pose.pose),
    "geometry_msgs/msg/TransformStamped": lambda message: _transform(message).matrix,
    "nav_msgs/msg/Odometry": lambda message: _pose(message.pose.pose),
    "tf2_msgs/msg/TFMessage": lambda message: [_transform(each) for each in message.transforms],
    "tf/msg/tfMessage": lambda message: [_transform(each) for each in message.transforms],
}
