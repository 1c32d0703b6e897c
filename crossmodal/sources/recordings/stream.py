"""The interface of a recording: streams of stamped frames, and the cameras they come from."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int64, Shaped

Kind = Literal["rgb", "grey", "depth", "thermal", "audio", "pose", "other"]
KINDS: tuple[Kind, ...] = ("rgb", "grey", "depth", "thermal", "audio", "pose", "other")


@dataclass(frozen=True)
class Stream:
    """One sensor's output in a recording, described without reading its frames."""

    name: str  # topic of a bag, feature of LeRobot, file of a list, track of a video
    kind: Kind  # what its frames look like; "other": nothing that can be packed
    encoding: str  # as the recording names it: "16UC1", "rgb8", "jpeg", "h264"
    frames: int  # number of frames; of sound, samples
    height: int = 0  # pixels; 0: unknown, or no picture
    width: int = 0  # pixels
    rate_hz: float = 0.0  # frames or samples a second, if the recording states it; 0: see the stamps
    stated: Mapping[str, object] = field(
        default_factory=dict
    )  # stored options that the format states: {"scale_m": 0.001}
    source: str = ""  # where `stated` comes from, for messages: "ROS REP 118: 16UC1 is in millimetres"
    clock: str = ""  # what its stamps are, if there is a choice: "header": when taken; "received": when recorded


@dataclass(frozen=True)
class Frame:
    """One frame of a stream."""

    stream: str
    number: int  # place in the stream, from 0, in the order of `Recording.stamps`
    # the file's bytes, unchanged, where a frame is stored as a PNG or JPEG that its modality reads; otherwise its
    # numbers: uint8 RGB [height, width, 3], uint8 grey, uint16 or float depth or temperature [height, width] as stored,
    # or a pose as the matrix [4, 4] that takes points of the camera or body into the world
    content: bytes | Shaped[np.ndarray, "..."]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with lens distortion."""

    width: int  # pixels
    height: int  # pixels
    matrix: tuple[float, float, float, float]  # fx, fy, cx, cy in pixels; the centre of the first pixel is (0, 0)
    distortion: tuple[float, ...] = ()  # coefficients in the order of OpenCV and ROS; empty: none
    model: Literal["plumb_bob", "rational_polynomial", "equidistant"] = "plumb_bob"  # 4 or 5, 8, and 4 coefficients


def safe_name(text: str) -> str:
    """A text as the name of a recording: every other character becomes "_"."""
    return re.sub("[^A-Za-z0-9_-]", "_", text)


class Recording(ABC):
    """One recording. Opening it reads its tables, never its frames; a method may be called any number of times.

    Readers raise `SourceError` with the recording's path and what to do: the file is cut short or has no index, a
    message is of a kind or encoding that cannot be read, a stream is not there.
    """

    name: str  # unique among the recordings of a source, and fit for keys and groups: letters, digits, "_", "-"
    absent: int = 0  # of the first recording of a data set: how many others are listed but have no files
    label: str = ""  # class of all its frames, if the recording names one: a task, a folder

    @property
    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """Its files, whose names, sizes and times identify it."""

    @abstractmethod
    def streams(self) -> dict[str, Stream]:
        """The streams by name, in the recording's order."""

    @abstractmethod
    def stamps(self, stream: str) -> Int64[np.ndarray, " frames"]:
        """When each frame of a stream was taken, nanoseconds, in stored order; not necessarily sorted.

        Of sound: when it begins and when it ends.
        """

    @abstractmethod
    def frames(self, wanted: Mapping[str, Int64[np.ndarray, " some"]]) -> Iterator[Frame]:
        """The wanted frames in the order in which they are stored, in constant memory.

        Args:
            wanted: for each stream, the numbers of its frames, ascending and without repetition.
        """

    def camera(self, stream: str) -> Camera | None:
        """The camera of a stream of pictures; None if the recording does not say."""
        return None

    def transform(self, source: str, target: str) -> Float[np.ndarray, "4 4"] | None:
        """The matrix that takes points of the camera of `source` into that of `target`, metres; None if unknown.

        Camera axes: x to the right, y down, z forward.
        """
        return None

    def sound(
        self, stream: str, starts: Int64[np.ndarray, " pieces"], seconds: float
    ) -> Iterator[tuple[Float32[np.ndarray, "channels samples"], int]]:
        """Pieces of a stream of sound, each with its rate in Hz, in constant memory; silence where there is none.

        Args:
            stream: of kind "audio".
            starts: when each piece begins, nanoseconds, ascending.
            seconds: length of each piece.
        """
        raise NotImplementedError(f"{self.name}: {stream} is no sound")
