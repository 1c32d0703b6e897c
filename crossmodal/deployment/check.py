"""Whether an exported file computes what the library computes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from crossmodal.deployment.graph import DeploymentError, Graph
from crossmodal.deployment.targets import Run
from modalities.synthetic.scene import draw_scene

LARGEST_ERROR = 1e-4  # relative
SHARE = 0.1  # of the numbers in noise that are extremes


@dataclass(frozen=True)
class Checked:
    """The result of a comparison."""

    error: float  # the largest difference, relative to the largest number of the same output in the same batch
    output: str  # where it is
    batch: str  # for which inputs
    rows: int  # number of inputs that were compared


def compare(graph: Graph, run: Run, real: Sequence[Float[Tensor, "..."]] = ()) -> Checked:
    """Compares a file's outputs with the library's, for rendered scenes, hard cases and signals of the user.

    Args:
        graph: what was exported.
        run: the file.
        real: signals, of any size.

    Raises:
        DeploymentError: the model itself gives numbers that are not finite, or the file fails on an input.
    """
    worst, rows = Checked(-1.0, "", "", 0), 0
    for name, batch in batches(graph, real).items():
        with torch.inference_mode():
            expected = graph.expected(batch)
            try:
                given = run(batch)
            except Exception as error:  # runtimes raise errors of many kinds
                reason = str(error).strip().partition("\n")[0]
                raise DeploymentError(f"the exported file fails on {name} ({len(batch)} inputs): {reason}") from error
        rows += len(batch)
        for output, ours, theirs in zip(graph.names, expected, given, strict=True):
            if not ours.isfinite().all():
                raise DeploymentError(f"the model's {output} for {name} is not finite; it cannot be compared")
            difference = _difference(ours, theirs)
            if difference > worst.error:
                worst = Checked(difference, output, name, 0)
    return Checked(worst.error, worst.output, worst.batch, rows)


def batches(graph: Graph, real: Sequence[Float[Tensor, "..."]] = ()) -> dict[str, Shaped[Tensor, "_ *shape"]]:
    """Inputs by what they are: rendered scenes, constants, mixtures and noise, alone and three at a time."""
    generator, shape, dtype = torch.Generator().manual_seed(0), graph.input.shape, graph.input.dtype
    extremes = torch.tensor(graph.input.extremes)
    low, high = graph.input.range or (-1.0, 1.0)

    def noise(rows: int) -> Tensor:
        return low + (high - low) * torch.rand(rows, *shape, generator=generator)

    def mixture(rows: int) -> Tensor:
        return extremes[torch.randint(len(extremes), (rows, *shape), generator=generator)]

    dotted = torch.where(torch.rand(3, *shape, generator=generator) < SHARE, mixture(3), noise(3))
    numbers = {
        "noise": noise(3),
        "one noise": noise(1),
        "noise with extremes": dotted,
        "mixed extremes": mixture(3),
        "constants": extremes.reshape(-1, *(1 for _ in shape)).expand(-1, *shape),
    }
    scenes = [graph.input.row(graph.model.modality.render(draw_scene(generator))) for _ in range(3)]
    made = {name: batch.to(dtype).contiguous() for name, batch in (numbers | {"scenes": torch.stack(scenes)}).items()}
    for name in ("constants", "scenes"):
        if graph.input.dither:
            noisy = made[name].clamp(0.9 * low, 0.9 * high) + graph.input.dither * noise(len(made[name]))
            made[name] = torch.where(made[name].isfinite(), noisy, made[name])
    if real:
        made["your data"] = torch.stack([graph.input.row(signal) for signal in real])
    return made


def _difference(ours: Float[Tensor, "batch *shape"], theirs: Shaped[Tensor, "..."]) -> float:
    """Infinite if the shapes differ, or if the file gives a number that is not finite."""
    if ours.shape != theirs.shape or not theirs.isfinite().all():
        return float("inf")
    largest = ours.abs().max().item()
    difference = (ours.double() - theirs.double()).abs().max().item()
    return difference / largest if largest else (float("inf") if difference else 0.0)
