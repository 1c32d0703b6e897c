"""What messages of ROS and Foxglove say. Their bytes are decoded by rosbags and mcap-protobuf-support."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.images import Compressed, Raw
from crossmodal.sources.recordings.stream import Camera

Role = Literal["picture", "pose", "calibration", "transforms", "other"]
_DISTORTIONS: dict[str, tuple[Literal["plumb_bob", "rational_polynomial", "equidistant"], int]] = {
    "plumb_bob": ("plumb_bob", 5),
    "rational_polynomial": ("rational_polynomial", 8),
    "equidistant": ("equidistant", 4),
    "fisheye": ("equidistant", 4),
    "kannala_brandt": ("equidistant", 4),
}  # ROS and Foxglove name the same models; with their number of coefficients
_TF_MESSAGE = b"geometry_msgs/TransformStamped[] transforms"


@dataclass(frozen=True)
class Topic:
    """A topic of a bag."""

    type: str  # of its messages; types of ROS are named as in ROS 2: "sensor_msgs/msg/Image"
    encoding: str  # of its messages: "ros1", "cdr" of ROS 2, "protobuf", or one that is not read
    schema: bytes  # definition of the type in the bag; empty, of ROS: the type is as the present ROS defines it
    messages: int
    agreed: bool = True  # all its messages are of one type

    @property
    def role(self) -> Role:
        """The role of its messages."""
        known = self.agreed and self.type in _READERS and self.encoding in ("ros1", "cdr", "protobuf")
        return _READERS[self.type][0] if known else "other"


@dataclass(frozen=True)
class Picture:
    """A message with a picture."""

    camera_frame: str  # coordinate frame of the camera; empty: not said
    content: Raw | Compressed


@dataclass(frozen=True)
class Calibration:
    """A message with a camera, of the pictures as they are and after rectification; None: not calibrated."""

    camera_frame: str
    size: tuple[int, int]  # width and height, pixels
    raw: Camera | None
    rectified: Camera | None
    unknown: str = ""  # the distortion that the raw camera has, if it cannot be expressed


@dataclass(frozen=True)
class Transform:
    """The position of a coordinate frame: the matrix takes points of `child` into `parent`, metres."""

    parent: str
    child: str
    matrix: Float[np.ndarray, "4 4"]


Message = Picture | Calibration | list[Transform] | Float[np.ndarray, "4 4"]


def read_stamp(topic: Topic, payload: bytes) -> int:
    """The stamp in a message, nanoseconds; 0: it is not set. Of ROS, only the header at its beginning is decoded.

    Raises:
        SourceError: the bytes are no message of ROS, or not of the topic's type.
    """
    if topic.encoding == "protobuf":
        moment = _decode(topic, payload).timestamp
        return int(moment.seconds) * 1_000_000_000 + int(moment.nanos)
    ros1 = topic.encoding == "ros1"
    if len(payload) < 12 or not (ros1 or payload[:2] in (b"\0\0", b"\0\1")):
        raise SourceError(
            f"its {len(payload)} bytes begin with {bytes(payload[:4])!r} and are no message of ROS; if the bag is "
            "compressed message by message, name its folder, not a file in it"
        )
    # ROS 1: sequence number, seconds, nanoseconds; ROS 2: byte order, seconds, nanoseconds
    seconds, nanoseconds = struct.unpack_from("<II" if ros1 else "<iI" if payload[1] else ">iI", payload, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def read_message(topic: Topic, payload: bytes) -> Message:
    """The content of a message, by its topic's role: a picture, a pose as matrix, a calibration, or transforms.

    Raises:
        SourceError: the message is not of its type, its type cannot be read, or a package is missing.
    """
    return _READERS[topic.type][1](_decode(topic, payload))


def _decode(topic: Topic, payload: bytes) -> Any:
    decode = _decoder(topic.type, topic.encoding, topic.schema)
    try:
        return decode(payload)
    except Exception as error:  # of damaged bytes, rosbags and protobuf raise many kinds of errors
        raise SourceError(
            f"the message is damaged or not of type {topic.type}: {type(error).__name__}: {error}"
        ) from error


@cache
def _decoder(kind: str, encoding: str, schema: bytes) -> Callable[[bytes], Any]:
    try:
        return _protobuf_decoder(kind, schema) if encoding == "protobuf" else _ros_decoder(kind, encoding, schema)
    except ImportError as error:
        raise SourceError(
            "the package mcap-protobuf-support is needed: pip install 'crossmodal-transfer[ros]'"
        ) from error
    except Exception as error:  # of a damaged definition, rosbags and protobuf raise many kinds of errors
        raise SourceError(f"the bag's definition of {kind} cannot be read: {error}") from error


def _protobuf_decoder(kind: str, schema: bytes) -> Any:
    from mcap.records import Schema
    from mcap_protobuf.decoder import DecoderFactory

    return DecoderFactory().decoder_for("protobuf", Schema(id=1, data=schema, encoding="protobuf", name=kind))


def _ros_decoder(kind: str, encoding: str, schema: bytes) -> Callable[[bytes], Any]:
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    ros1 = encoding == "ros1"
    types = get_typestore(Stores.EMPTY if schema else Stores.ROS1_NOETIC if ros1 else Stores.LATEST)
    if kind not in types.fielddefs:
        types.register(get_types_from_msg((schema or _TF_MESSAGE).decode(), kind))
    deserialize = types.deserialize_ros1 if ros1 else types.deserialize_cdr
    return lambda payload: deserialize(payload, kind)


def pose_matrix(position: Any, rotation: Any) -> Float[np.ndarray, "4 4"]:
    """The matrix of a position x, y, z in metres and a quaternion x, y, z, w.

    Raises:
        SourceError: the quaternion is 0 or not finite.
    """
    from scipy.spatial.transform import Rotation

    quaternion = rotation.x, rotation.y, rotation.z, rotation.w
    if not any(quaternion) or not np.isfinite(quaternion).all():
        raise SourceError(f"the quaternion {quaternion} is no rotation")
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat(quaternion).as_matrix()
    matrix[:3, 3] = position.x, position.y, position.z
    return matrix


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
