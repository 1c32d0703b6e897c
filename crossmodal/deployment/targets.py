"""A kind of file that a model is exported to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Shaped
from torch import Tensor

from crossmodal.deployment.graph import Graph

Run = Callable[[Shaped[Tensor, "batch *shape"]], tuple[Tensor, ...]]  # a batch to the outputs of `Graph`


@dataclass(frozen=True)
class Target:
    """How files of one kind are written and read."""

    suffix: str  # with its dot
    write: Callable[[Graph, Path], None]
    open: Callable[[Graph, Path], Run]  # the file as a function with the outputs of the graph
    use: Callable[[Graph, Path], str]  # the Python line with which a user opens the file
