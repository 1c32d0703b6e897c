"""What messages of ROS and Foxglove say. Those of ROS are decoded by rosbags."""

import struct
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import numpy as np

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.images import Compressed, Raw
from crossmodal.sources.recordings.messages import (
    Calibration,
    Message,
    Picture,
    Role,
    Transform,
    pose_matrix,
)
from crossmodal.sources.recordings.stream import Camera

_DISTORTIONS: dict[str, tuple[Literal["plumb_bob", "rational_polynomial", "equidistant"], int]] = {
    "plumb_bob": ("plumb_bob", 5),
    "rational_polynomial": ("rational_polynomial", 8),
    "equidistant": ("equidistant", 4),
    "fisheye": ("equidistant", 4),
    "kannala_brandt": ("equidistant", 4),
}  # ROS and Foxglove name the same models; with their number of coefficients
_TF_MESSAGE = "geometry_msgs/TransformStamped[] transforms"


def role_of(kind: str) -> Role:
    """What messages of a type say; types of ROS are named as in ROS 2: "sensor_msgs/msg/Image"."""
    return _READERS[kind][0] if kind in _READERS else "other"


def say(message: Any, kind: str) -> Message:
    """What a decoded message says, whose type has a role other than "other"."""
    return _READERS[kind][1](message)


def read_stamp(payload: bytes, *, ros1: bool) -> int:
    """The stamp in the header that a message of ROS begins with, nanoseconds, without decoding the rest.

    Raises:
        SourceError: the bytes are no message of ROS.
    """
    if len(payload) < 12 or not (ros1 or payload[:2] in (b"\0\0", b"\0\1")):
        raise SourceError(
            f"its {len(payload)} bytes begin with {bytes(payload[:4])!r} and are no message of ROS; if the bag is "
            "compressed message by message, name its folder, not a file in it"
        )
    # ROS 1: sequence number, seconds, nanoseconds; ROS 2: byte order, seconds, nanoseconds
    seconds, nanoseconds = struct.unpack_from("<II" if ros1 else "<iI" if payload[1] else ">iI", payload, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def read_message(payload: bytes, kind: str, definition: str, *, ros1: bool) -> Message:
    """What a message of ROS says, whose type has a role other than "other".

    Args:
        payload: the message as it is stored.
        kind: its type.
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
    return say(message, kind)


@cache
def _typestore(kind: str, definition: str, ros1: bool) -> Any:
    from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

    types = get_typestore(Stores.EMPTY if definition else Stores.ROS1_NOETIC if ros1 else Stores.LATEST)
    if kind not in types.fielddefs:
        try:
            types.register(get_types_from_msg(definition or _TF_MESSAGE, kind))
        except (TypesysError, ValueError) as error:
            raise SourceError(f"the bag's definition of {kind} cannot be read: {error}") from error
    return types


def _frame(message: Any) -> str:
    return getattr(message, "header", message).frame_id.lstrip("/")


def _image(message: Any) -> Picture:
    big_endian = bool(getattr(message, "is_bigendian", False))  # Foxglove: always little
    size = message.height, message.width, message.step
    return Picture(_frame(message), Raw(message.encoding, *size, big_endian, message.data))


def _compressed(message: Any) -> Picture:
    return Picture(_frame(message), Compressed(message.format, bytes(message.data)))


def _calibration(message: Any) -> Calibration:
    case = str.lower if hasattr(message, "k") else str.upper  # k in ROS 2, K in ROS 1 and Foxglove
    matrix, projection, distortion = (np.array(getattr(message, case(name)), np.float64).tolist() for name in "kpd")
    frame, size = _frame(message), (message.width, message.height)

    def camera(numbers: list[float], columns: int) -> Camera | None:
        if len(numbers) < 2 * columns or numbers[0] <= 0:
            return None
        return Camera(*size, (numbers[0], numbers[columns + 1], numbers[2], numbers[columns + 2]))

    raw, rectified = camera(matrix, 3), camera(projection, 4)
    if raw is None or not any(distortion):
        return Calibration(frame, size, raw, rectified)
    name = message.distortion_model.lower().replace(" ", "_").replace("-", "_")
    model, count = _DISTORTIONS.get(name, ("plumb_bob", 0))
    if any(distortion[count:]):
        return Calibration(
            frame, size, None, rectified, f"{len(distortion)} coefficients of {message.distortion_model!r}"
        )
    return Calibration(frame, size, replace(raw, distortion=tuple(distortion[:count]), model=model), rectified)


def _transform(message: Any) -> Transform:
    matrix = pose_matrix(message.transform.translation, message.transform.rotation)
    return Transform(_frame(message), message.child_frame_id.lstrip("/"), matrix)


def _frame_transform(message: Any) -> Transform:
    return Transform(
        message.parent_frame_id, message.child_frame_id, pose_matrix(message.translation, message.rotation)
    )


def _pose(pose: Any) -> Message:
    return pose_matrix(pose.position, pose.orientation)


_READERS: dict[str, tuple[Role, Callable[[Any], Message]]] = {
    "sensor_msgs/msg/Image": ("picture", _image),
    "sensor_msgs/msg/CompressedImage": ("picture", _compressed),
    "sensor_msgs/msg/CameraInfo": ("calibration", _calibration),
    "geometry_msgs/msg/PoseStamped": ("pose", lambda message: _pose(message.pose)),
    "geometry_msgs/msg/PoseWithCovarianceStamped": ("pose", lambda message: _pose(message.pose.pose)),
    "geometry_msgs/msg/TransformStamped": ("pose", lambda message: _transform(message).matrix),
    "nav_msgs/msg/Odometry": ("pose", lambda message: _pose(message.pose.pose)),
    "tf2_msgs/msg/TFMessage": ("transforms", lambda message: [_transform(each) for each in message.transforms]),
    "tf/msg/tfMessage": ("transforms", lambda message: [_transform(each) for each in message.transforms]),
    "foxglove.RawImage": ("picture", _image),
    "foxglove.CompressedImage": ("picture", _compressed),
    "foxglove.CameraCalibration": ("calibration", _calibration),
    "foxglove.PoseInFrame": ("pose", lambda message: _pose(message.pose)),
    "foxglove.FrameTransform": ("transforms", lambda message: [_frame_transform(message)]),
    "foxglove.FrameTransforms": (
        "transforms",
        lambda message: [_frame_transform(each) for each in message.transforms],
    ),
}
