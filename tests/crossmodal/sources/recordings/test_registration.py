"""Registration against ray casting: what the other camera would have measured itself."""

import numpy as np
import pytest
from jaxtyping import Float
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.optimize import brentq
from scipy.spatial.transform import Rotation

from crossmodal.sources.recordings.registration import Registration, distort, undistort
from crossmodal.sources.recordings.stream import Camera

DEPTH = Camera(160, 120, (150.0, 150.0, 79.5, 59.5))
COLOUR = Camera(160, 120, (140.0, 141.0, 82.0, 58.0))
WALL_M, BOX_M = 3.0, 1.5
BOX = (-0.3, 0.3, -0.25, 0.25)  # left, right, top, bottom of a flat box before the wall, in the depth camera's frame


def moved(x: float = 0.08, turn: float = 0.0) -> Float[np.ndarray, "4 4"]:
    """A colour camera beside the depth camera: the matrix that takes points into it."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("y", turn, degrees=True).as_matrix()
    matrix[:3, 3] = (-x, 0.01, 0.02)
    return matrix


def cast(camera: Camera, transform: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "height width"]:
    """Depth of the wall and the box along the axis of a camera, by rays; `transform` takes points into the camera."""
    rows, columns = np.mgrid[: camera.height, : camera.width].astype(float)
    fx, fy, cx, cy = camera.matrix
    flat = undistort(np.stack([(columns - cx) / fx, (rows - cy) / fy], axis=-1), camera)
    rays = np.concatenate([flat, np.ones_like(flat[..., :1])], axis=-1) @ transform[:3, :3]  # in the scene's frame
    origin = -transform[:3, :3].T @ transform[:3, 3]
    depths = []
    for plane in (BOX_M, WALL_M):
        along = (plane - origin[2]) / rays[..., 2]
        depths.append((along, origin + along[..., None] * rays))
    (box, place), (wall, _) = depths
    left, right, top, bottom = BOX
    hit = (place[..., 0] > left) & (place[..., 0] < right) & (place[..., 1] > top) & (place[..., 1] < bottom)
    return np.where(hit, box, wall)


@pytest.mark.parametrize("turn", [0.0, 3.0])
@pytest.mark.parametrize("distortion", [(), (0.08, -0.05, 0.001, -0.002, 0.01)])
def test_a_registered_map_is_what_the_colour_camera_would_measure(turn: float, distortion: tuple[float, ...]) -> None:
    colour = Camera(COLOUR.width, COLOUR.height, COLOUR.matrix, distortion)
    transform = moved(turn=turn)
    registration = Registration(DEPTH, colour, transform)
    registered = registration(cast(DEPTH, np.eye(4)))
    truth = cast(registration.camera, transform)
    assert registered.shape == truth.shape
    seen = registered > 0
    assert seen.mean() > 0.8
    wrong = seen & (np.abs(registered - truth) > 0.02)
    edges = maximum_filter(truth, 3) - minimum_filter(truth, 3) > 0.5
    assert not (wrong & ~edges).any()  # readings are at most a pixel from where they belong


def test_what_the_depth_camera_cannot_see_stays_empty() -> None:
    transform = moved(x=0.2)
    registration = Registration(DEPTH, COLOUR, transform)
    registered = registration(cast(DEPTH, np.eye(4)))
    fx, _, cx, cy = registration.camera.matrix
    # the colour camera sees the wall beside the box from x = 0.2: between these points a depth ray meets the box first
    shadow_m = (BOX[1] * WALL_M / BOX_M, BOX[1] + (BOX[1] - 0.2) * (WALL_M - BOX_M) / BOX_M)
    first, last = sorted(cx + fx * (place + transform[0, 3]) / (WALL_M + transform[2, 3]) for place in shadow_m)
    row = registered[round(cy)]
    assert last - first > 5
    assert (row[int(np.ceil(first)) + 1 : int(last)] == 0).all()
    assert (row[int(last) + 2 : int(last) + 8] > 0).all()


def test_the_nearest_reading_counts_where_two_meet() -> None:
    registration = Registration(DEPTH, DEPTH, moved(x=0.3))
    near = np.full((120, 160), WALL_M)
    near[:, :80] = 1.0
    registered = registration(near)
    assert registered.max() == pytest.approx(WALL_M + 0.02, abs=1e-4)
    edge = 79.5 + 150 * ((79.5 - 79.5) / 150 - 0.3) / (1.0 + 0.02)  # where the near half ends in the new picture
    assert (registered[60, : int(edge) - 1] < 1.1).all()


def test_a_camera_that_is_the_same_changes_nothing() -> None:
    depth = np.random.default_rng(0).uniform(0.5, 5, (120, 160)).astype(np.float32)
    depth[3, 4] = 0
    assert np.array_equal(Registration(DEPTH, DEPTH, np.eye(4))(depth), depth)


def test_a_finer_colour_camera_leaves_no_gaps() -> None:
    finer = Camera(640, 480, (600.0, 600.0, 319.5, 239.5))
    registration = Registration(DEPTH, finer, np.eye(4))
    assert (registration.camera.width, registration.camera.height) == (160, 120)
    assert (registration(np.full((120, 160), 2.0)) > 0).all()


def test_a_point_far_outside_the_lens_does_not_fold_back_into_the_picture() -> None:
    wide = Camera(160, 120, (40.0, 40.0, 79.5, 59.5))  # 127 degrees
    narrow = Camera(160, 120, (150.0, 150.0, 79.5, 59.5), (-0.3, 0.0, 0.0, 0.0))
    depth = np.zeros((120, 160))
    depth[:, :10] = 2.0  # far outside what the narrow camera sees
    assert not Registration(wide, narrow, np.eye(4))(depth).any()


def test_a_reading_at_the_other_camera_ends() -> None:
    transform = np.eye(4)
    transform[2, 3] = -1.0
    depth = np.full((120, 160), 1.0 + 1e-6)
    assert Registration(DEPTH, DEPTH, transform)(depth).shape == (120, 160)


def test_a_map_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="160 x 120 pixels, got 80 x 60"):
        Registration(DEPTH, COLOUR, np.eye(4))(np.ones((60, 80)))


def test_distortion_equals_the_formula() -> None:
    k1, k2, p1, p2, k3 = coefficients = (0.1, -0.2, 0.003, -0.002, 0.05)
    camera = Camera(640, 480, (500, 500, 320, 240), coefficients)
    x, y = 0.3, -0.2
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    expected = (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )
    assert distort(np.asarray([[x, y]]), camera)[0] == pytest.approx(expected, abs=1e-9)


def test_a_fisheye_lens_equals_the_formula() -> None:
    k = (0.05, -0.01, 0.002, -0.0005)
    camera = Camera(640, 480, (300, 300, 320, 240), k, "equidistant")
    x, y = 0.6, 0.4
    radius = np.hypot(x, y)
    angle = np.arctan(radius)
    bent = angle * (1 + k[0] * angle**2 + k[1] * angle**4 + k[2] * angle**6 + k[3] * angle**8)
    assert distort(np.asarray([[x, y]]), camera)[0] == pytest.approx((x * bent / radius, y * bent / radius), abs=1e-9)


def test_the_inverse_of_distortion_is_the_root_of_the_formula() -> None:
    camera = Camera(640, 480, (500, 500, 320, 240), (0.1, -0.2, 0.0, 0.0, 0.05))
    bent = 0.4
    root = brentq(lambda x: x * (1 + 0.1 * x**2 - 0.2 * x**4 + 0.05 * x**6) - bent, 0, 0.6)
    assert undistort(np.asarray([[bent, 0.0]]), camera)[0, 0] == pytest.approx(root, abs=1e-5)


def test_distortion_that_has_no_inverse_is_refused() -> None:
    camera = Camera(640, 480, (300, 300, 320, 240), (-3.0, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=r"-3, 0, 0, 0 \(plumb_bob\) cannot be inverted"):
        undistort(np.asarray([[1.0, 0.8]]), camera)
