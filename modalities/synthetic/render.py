"""Rendering of synthetic scenes by a camera, with one geometry for every modality with pixels.

The camera looks along z with a vertical field of view of 60 degrees. A solid is a height field over its silhouette: the
distance by which each point bulges towards the camera, in units of its radius. Nothing here is random.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from modalities.synthetic.scene import Scene, Solid

HALF_VIEW = math.tan(math.radians(30))  # half the picture's height at 1 m, in metres
LIGHT = (-0.45, -0.55, 0.70)  # towards the lamp: left, up, and from the camera's side; of length 1
AMBIENT = 0.35  # minimum share of the light that reaches a surface
GAMMA = 2.2  # gamma of the picture; colours of a scene are linear
SHADOW_M = 0.05  # minimum step in distance at which the farther pixel on the left has no reading

Grid = Float[Tensor, "height width"]


def render_colour(scene: Scene) -> Float[Tensor, "3 {scene.size} _"]:
    """The scene as a colour camera sees it, in [0, 1]: lit from the upper left, hard silhouettes."""
    _, owner, slope = _rasterise(scene)
    colours = torch.tensor([scene.wall_colour, *(solid.colour for solid in scene.solids)])
    shade = AMBIENT + (1 - AMBIENT) * _lit(slope)
    linear = colours[owner + 1].permute(2, 0, 1) * shade * scene.light
    return linear.clamp(0, 1) ** (1 / GAMMA)


def render_distance(scene: Scene) -> Float[Tensor, "1 {scene.size} _"]:
    """The scene as a depth camera sees it, in metres; 0 (no reading) in every other pixel at a left silhouette.

    These are the shadows of the projector in a structured-light camera.
    """
    distance, owner, _ = _rasterise(scene)
    step = distance[:, :-1] - distance[:, 1:] > SHADOW_M
    shadow = torch.zeros_like(owner, dtype=torch.bool)
    shadow[::2, :-1] = (step & (owner[:, :-1] != owner[:, 1:]))[::2]
    return torch.where(shadow, 0.0, distance)[None]


def render_relief(scene: Scene) -> Float[Tensor, "1 {scene.size} _"]:
    """How far each pixel stands out from the wall towards the camera, as a share of the wall's distance."""
    distance, _, _ = _rasterise(scene)
    return ((scene.wall_m - distance) / scene.wall_m)[None]


def silhouettes(scene: Scene) -> Int[Tensor, "{scene.size} _"]:
    """The number of the solid that each pixel shows; -1: the wall."""
    return _rasterise(scene)[1]


def _rasterise(scene: Scene) -> tuple[Grid, Int[Tensor, "height width"], Float[Tensor, "2 height width"]]:
    """Distance in metres, number of the visible solid (-1: wall), and slope of the surface down and to the right."""
    height, width = scene.size, scene.width or scene.size
    aspect = width / height
    centres = [(torch.arange(side) + 0.5) / side * 2 - 1 for side in (height, width)]
    down, right = torch.meshgrid(centres[0], centres[1] * aspect, indexing="ij")  # in units of half the height
    distance = torch.full_like(down, scene.wall_m)
    owner = torch.full_like(down, -1, dtype=torch.long)
    slope = torch.zeros(2, height, width)
    for number, solid in enumerate(scene.solids):
        inside, bulge = _form(solid, (right - solid.x * aspect) / solid.radius, (down - solid.y) / solid.radius)
        surface = solid.distance_m * (1 - bulge * solid.radius * HALF_VIEW)
        visible = inside & (surface < distance)
        distance, owner = torch.where(visible, surface, distance), torch.where(visible, number, owner)
        spacing = 2 / scene.size / solid.radius
        slope = torch.where(visible, torch.stack(torch.gradient(bulge, spacing=spacing)), slope)
    return distance, owner, slope


def _lit(slope: Float[Tensor, "2 height width"]) -> Grid:
    """Lambert's law: the cosine between the surface and the lamp, relative to a surface that faces the camera."""
    down, right = slope
    facing = LIGHT[2] - LIGHT[0] * right - LIGHT[1] * down
    return (facing / (1 + down**2 + right**2).sqrt() / LIGHT[2]).clamp(0, 1.4)


def _form(solid: Solid, u: Grid, v: Grid) -> tuple[Bool[Tensor, "height width"], Grid]:
    """Silhouette and bulge at coordinates in which the solid fills [-1, 1]; the bulge is 0 outside."""
    inside, bulge = _FORMS[solid.shape](u, v)
    return inside, torch.where(inside, bulge, 0.0)


def _ball(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    square = u**2 + v**2
    return square < 1, (1 - square).clamp(min=0).sqrt()


def _cube(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    edge = torch.maximum(u.abs(), v.abs())
    return edge < 0.85, (0.85 - edge).clamp(0, 0.2) * 3 + 0.25  # bevelled edges


def _cone(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    half = (v + 1) / 2
    return (u.abs() < half) & (v < 1), (half**2 - u**2).clamp(min=0).sqrt()


def _ring(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    off = (u**2 + v**2).sqrt() - 0.7
    return off.abs() < 0.3, (0.09 - off**2).clamp(min=0).sqrt()


def _cross(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    thin, long = torch.minimum(u.abs(), v.abs()), torch.maximum(u.abs(), v.abs())
    return (thin < 0.3) & (long < 1), torch.full_like(u, 0.35)


def _pillar(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return (u.abs() < 0.4) & (v.abs() < 1), (0.16 - u**2).clamp(min=0).sqrt()


def _disc(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return u**2 + v**2 < 1, 0.3 * v + 0.1  # leans towards the camera at its foot


def _star(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    radius, limit = (u**2 + v**2).sqrt(), 0.65 + 0.35 * torch.cos(5 * torch.atan2(u, -v))
    return radius < limit, 0.6 * (1 - radius / limit)


_FORMS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "ball": _ball,
    "cube": _cube,
    "cone": _cone,
    "ring": _ring,
    "cross": _cross,
    "pillar": _pillar,
    "disc": _disc,
    "star": _star,
}
