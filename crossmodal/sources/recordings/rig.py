"""The cameras of a recording's members, as the recording or the config states them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float64

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.registration import Registration
from crossmodal.sources.recordings.stream import Camera, Recording
from modalities.common.catalogue import suggest

COEFFICIENTS = {"plumb_bob": (0, 4, 5), "rational_polynomial": (8,), "equidistant": (4,)}  # numbers of them by model


@dataclass(frozen=True)
class Rig:
    """Cameras, and the transforms between them; what the config states comes first."""

    streams: Mapping[str, str]  # member -> stream
    register: Mapping[str, str]  # depth -> the member whose camera shall see it
    cameras: Mapping[str, Mapping[str, Any]]  # member -> fields of a `Camera`
    transforms: Mapping[str, list[float]]  # depth -> 16 numbers

    def check(self) -> None:
        """Refuses a config that names other members, or states no camera or transform.

        Raises:
            SourceError: see above.
        """
        for option, names in (
            ("register", [*self.register, *self.register.values()]),
            ("cameras", self.cameras),
            ("transforms", self.transforms),
        ):
            for name in names:
                if name not in self.streams:
                    raise SourceError(f"{option}: member {name!r} is not known{suggest(str(name), list(self.streams))}")
        for name in self.cameras:
            self._given_camera(name)
        for name in self.transforms:
            self._given_transform(name)

    def camera(self, recording: Recording, name: str) -> Camera | None:
        """The camera of a member; None if it is not known.

        Raises:
            SourceError: the recording's calibration cannot be used.
        """
        if name in self.cameras:
            return self._given_camera(name)
        stream = self.streams[name]
        camera, seen = recording.camera(stream), recording.streams()[stream]
        if camera is not None and seen.width and (camera.width, camera.height) != (seen.width, seen.height):
            raise SourceError(
                f"{recording.name}: {stream!r} has pictures of {seen.width} x {seen.height}, but its calibration "
                f"is for {camera.width} x {camera.height}; set cameras.{name}"
            )
        return camera

    def registration(self, recording: Recording, name: str) -> Registration:
        """The registration of a member in `register`.

        Raises:
            SourceError: neither recording nor config says how the cameras lie.
        """
        target, cameras = self.register[name], dict[str, Camera]()
        for member in (name, target):
            if (camera := self.camera(recording, member)) is None:
                raise SourceError(
                    f"register.{name}: {recording.name} has no calibration of {self.streams[member]!r}; set "
                    f"cameras.{member}"
                )
            cameras[member] = camera
        if name in self.transforms:
            transform = self._given_transform(name)
        elif (known := recording.transform(self.streams[name], self.streams[target])) is not None:
            transform = np.asarray(known, dtype=np.float64)
        else:
            raise SourceError(
                f"register.{name}: {recording.name} does not say how the cameras of {self.streams[name]!r} and "
                f"{self.streams[target]!r} lie; set transforms.{name}"
            )
        return Registration(cameras[name], cameras[target], transform)

    def _given_camera(self, name: str) -> Camera:
        given, known = self.cameras[name], [each.name for each in fields(Camera)]
        for option in given:
            if option not in known:
                raise SourceError(f"cameras.{name}.{option} is not known{suggest(option, known)}")
        try:
            distortion = tuple(map(float, given.get("distortion", ())))
            fx, fy, cx, cy = map(float, given["matrix"])
            width, height = int(given["width"]), int(given["height"])
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(
                f"cameras.{name} must give width, height, matrix: [fx, fy, cx, cy] and perhaps distortion: [...]"
            ) from error
        if min(fx, fy, width, height) <= 0 or not np.isfinite([fx, fy, cx, cy, *distortion]).all():
            raise SourceError(f"cameras.{name}: width, height, fx and fy must be above 0, and all numbers finite")
        model = given.get("model", "plumb_bob")
        if model not in COEFFICIENTS:
            raise SourceError(f"cameras.{name}.model: {model!r} is not known{suggest(str(model), list(COEFFICIENTS))}")
        if len(distortion) not in COEFFICIENTS[model]:
            counts = " or ".join(map(str, COEFFICIENTS[model]))
            raise SourceError(
                f"cameras.{name}.distortion must have {counts} coefficients for {model}, got {len(distortion)}"
            )
        return Camera(width, height, (fx, fy, cx, cy), distortion, model)

    def _given_transform(self, name: str) -> Float64[np.ndarray, "4 4"]:
        if len(numbers := self.transforms[name]) != 16:
            raise SourceError(f"transforms.{name} must be 16 numbers, the rows of a matrix, got {len(numbers)}")
        matrix = np.asarray(numbers, dtype=np.float64).reshape(4, 4)
        turn = matrix[:3, :3]
        if not np.allclose(matrix[3], (0, 0, 0, 1)) or not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3):
            raise SourceError(
                f"transforms.{name} must be the rows of a rotation with a translation in the last column, and "
                "0, 0, 0, 1; is the matrix transposed?"
            )
        return matrix
