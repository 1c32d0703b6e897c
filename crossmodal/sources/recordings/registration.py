"""Registration: a depth map as the camera of another stream would see it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float32

from crossmodal.sources.recordings.stream import Camera

LARGEST_PX = 32  # side of a reading's rectangle: one that touches the other camera would fill the picture
MARGIN_PX = 0.1  # by which a rectangle grows, so that none opens between pixels that are turned or bent a little
TOLERANCE_PX = 0.05  # error of a ray, after the lens distortion of the depth camera is inverted


@dataclass(frozen=True)
class Registration:
    """Moves depth maps of one camera into another one's picture.

    Every reading becomes a rectangle as large as its pixel is seen from the other camera. Where rectangles overlap, the
    nearest reading counts; where there are none, as behind an edge, there is no reading. Readings are never averaged.

    The picture has the other camera's field of view. It has as many pixels as that camera, or fewer if the depth
    camera's pixels are coarser, so that no pixel is empty for want of resolution.
    """

    depth: Camera
    target: Camera
    transform: Float[np.ndarray, "4 4"]  # takes points of the depth camera into the other one, metres

    @cached_property
    def camera(self) -> Camera:
        """The other camera at the resolution of the registered maps, without distortion of the scale."""
        ratio = min(1.0, self.depth.matrix[0] / self.target.matrix[0])
        height, width = (max(1, round(side * ratio)) for side in (self.target.height, self.target.width))
        across, down = width / self.target.width, height / self.target.height
        fx, fy, cx, cy = self.target.matrix
        centre = ((cx + 0.5) * across - 0.5, (cy + 0.5) * down - 0.5)
        return Camera(width, height, (fx * across, fy * down, *centre), self.target.distortion, self.target.model)

    def __call__(self, depth_m: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "rows columns"]:
        """A depth map in the other camera's picture, metres along its own axis; 0 where there is no reading.

        Args:
            depth_m: metres along the axis of the depth camera; 0, negative or not finite: no reading.

        Raises:
            ValueError: the map has another size than the depth camera.
        """
        expected = (self.depth.height, self.depth.width)
        if depth_m.shape != expected:
            raise ValueError(f"a depth map must have the size of its camera, {expected[1]} x {expected[0]} pixels, got "
                             f"{depth_m.shape[1]} x {depth_m.shape[0]}")  # fmt: skip
        seen = np.isfinite(depth_m) & (depth_m > 0)
        distance = depth_m[seen].astype(np.float32)  # exact to a tenth of a millimetre at a kilometre
        corners = [self._project(rays[seen], distance) for rays in self._rays]  # of each pixel: first and last
        (left, top, far), (right, bottom, _) = corners
        picture = np.full((self.camera.height, self.camera.width), np.inf, dtype=np.float32)
        # a pixel is covered if its centre lies in the rectangle
        first_x = np.ceil(np.minimum(left, right) - MARGIN_PX)
        first_y = np.ceil(np.minimum(top, bottom) - MARGIN_PX)
        last_x = np.minimum(np.ceil(np.maximum(left, right) + MARGIN_PX) - 1, first_x + LARGEST_PX)
        last_y = np.minimum(np.ceil(np.maximum(top, bottom) + MARGIN_PX) - 1, first_y + LARGEST_PX)
        for down in range(_steps(last_y - first_y)):
            for across in range(_steps(last_x - first_x)):
                x, y = first_x + across, first_y + down
                inside = (x <= last_x) & (y <= last_y) & (far > 0)
                inside &= (x >= 0) & (y >= 0) & (x < self.camera.width) & (y < self.camera.height)
                places = (y[inside].astype(np.int64), x[inside].astype(np.int64))
                np.minimum.at(picture, places, far[inside])
        return np.where(np.isfinite(picture), picture, 0.0)

    @cached_property
    def _rays(self) -> tuple[Float32[np.ndarray, "height width 3"], Float32[np.ndarray, "height width 3"]]:
        """Directions, of depth 1, of the first and last corner of every pixel of the depth camera."""
        rows, columns = np.mgrid[: self.depth.height, : self.depth.width].astype(np.float64)
        fx, fy, cx, cy = self.depth.matrix
        corners = []
        for half in (-0.5, 0.5):
            points = np.stack([(columns + half - cx) / fx, (rows + half - cy) / fy], axis=-1)
            points = undistort(points, self.depth)
            corners.append(np.concatenate([points, np.ones_like(points[..., :1])], axis=-1).astype(np.float32))
        return corners[0], corners[1]

    @cached_property
    def _widest(self) -> float:
        """Tangent of the widest angle in the other camera's picture; a lens model is wrong beyond it."""
        fx, fy, cx, cy = self.camera.matrix
        across = (np.asarray([-0.5, self.camera.width - 0.5]) - cx) / fx
        down = (np.asarray([-0.5, self.camera.height - 0.5]) - cy) / fy
        corners = np.stack(np.meshgrid(across, down), axis=-1)
        return float(np.linalg.norm(undistort(corners, self.camera), axis=-1).max())

    def _project(
        self, rays: Float[np.ndarray, "points 3"], distance: Float[np.ndarray, " points"]
    ) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """Column, row and depth of points in the other camera; depth 0 for those that it cannot see."""
        matrix = self.transform.astype(np.float32)
        points = (rays * distance[:, None]) @ matrix[:3, :3].T + matrix[:3, 3]
        depth = points[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            flat = np.where(depth[:, None] > 0, points[:, :2] / depth[:, None], 0.0)
        depth = np.where((flat**2).sum(axis=1) <= (1.05 * self._widest) ** 2, depth, 0.0)
        fx, fy, cx, cy = self.camera.matrix
        bent = distort(flat, self.camera)
        return bent[:, 0] * fx + cx, bent[:, 1] * fy + cy, depth


def _steps(extent: Float[np.ndarray, " points"]) -> int:
    return int(extent.max(initial=-1)) + 1


def distort(points: Float[np.ndarray, "*shape 2"], camera: Camera) -> Float[np.ndarray, "*shape 2"]:
    """The points that a lens shows for those of the plane at depth 1, by the models of OpenCV.

    Args:
        points: x and y, at depth 1.
        camera: its coefficients and their model.
    """
    if not any(camera.distortion):
        return points
    from kornia.geometry.calibration import distort_points
    from kornia.geometry.camera.distortion_kannala_brandt import distort_points_kannala_brandt

    flat = torch.from_numpy(points.reshape(-1, 2))
    coefficients = torch.tensor(camera.distortion, dtype=flat.dtype)
    if camera.model == "equidistant":  # the focal length and centre of an identity camera
        bent = distort_points_kannala_brandt(
            flat, torch.cat([torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=flat.dtype), coefficients])
        )
    else:
        bent = distort_points(flat[None], torch.eye(3, dtype=flat.dtype)[None], coefficients[None])[0]
    return bent.numpy().reshape(points.shape)


def undistort(points: Float[np.ndarray, "*shape 2"], camera: Camera) -> Float[np.ndarray, "*shape 2"]:
    """The inverse of `distort`, by iteration.

    Raises:
        ValueError: the coefficients cannot be inverted within the picture.
    """
    if not any(camera.distortion):
        return points
    straight = points.copy()
    for _ in range(50):
        rest = distort(straight, camera) - points
        straight -= rest
        if np.abs(rest).max() * camera.matrix[0] < TOLERANCE_PX / 10:
            return straight
    if not np.abs(distort(straight, camera) - points).max() * camera.matrix[0] <= TOLERANCE_PX:  # NaN too
        raise ValueError(
            f"the lens distortion {', '.join(f'{value:g}' for value in camera.distortion)} ({camera.model}) cannot be "
            "inverted over the whole picture; are the coefficients those of this camera?"
        )
    return straight
