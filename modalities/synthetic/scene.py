"""Synthetic scenes: one or two solids in front of a wall, which every modality renders as its sensor would."""

from dataclasses import dataclass

import torch

SHAPES = ("ball", "cube", "cone", "ring", "cross", "pillar", "disc", "star")  # the classes of the synthetic source
SCENE_CLASSES = ("wall", *SHAPES)  # what a pixel of a scene may show


@dataclass(frozen=True)
class Solid:
    """One object in a scene, whose shape does not depend on the picture's aspect ratio."""

    shape: str  # one of SHAPES
    x: float  # centre, in [-1, 1] of the picture's width, right positive
    y: float  # centre, in [-1, 1] of the picture's height, down positive
    radius: float  # half its size, in [0, 1] of half the picture's height
    distance_m: float  # distance of its centre from the camera
    colour: tuple[float, float, float]  # linear RGB in [0, 1]


@dataclass(frozen=True)
class Scene:
    """One scene; the shape of the first solid is its class."""

    solids: tuple[Solid, ...]
    wall_m: float  # distance of the wall
    wall_colour: tuple[float, float, float]  # RGB in [0, 1]
    light: float  # brightness, 1 is neutral
    size: int = 64  # height of the rendered picture, in pixels
    duration_s: float = 0.5
    width: int | None = None  # width of the picture in pixels; None: same as its height

    @property
    def label(self) -> int:
        """The class: the position of the first solid's shape in SHAPES."""
        return SHAPES.index(self.solids[0].shape)


def draw_scene(generator: torch.Generator, *, size: int = 64, width: int | None = None) -> Scene:
    """A random scene: one solid that determines the class, and at most one smaller, farther distractor."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    def colour() -> tuple[float, float, float]:
        return (uniform(0.15, 1.0), uniform(0.15, 1.0), uniform(0.15, 1.0))

    def shape() -> str:
        return SHAPES[int(torch.randint(len(SHAPES), (), generator=generator))]

    wall_m = uniform(4.0, 8.0)
    main = Solid(shape(), uniform(-0.4, 0.4), uniform(-0.4, 0.4), uniform(0.35, 0.6), uniform(1.0, 3.0), colour())
    other = Solid(shape(), uniform(-0.9, 0.9), uniform(-0.9, 0.9), uniform(0.1, 0.2), uniform(3.0, 3.8), colour())
    solids = (main, other) if uniform(0, 1) < 0.5 else (main,)
    return Scene(solids, wall_m, colour(), uniform(0.5, 1.2), size=size, width=width)
