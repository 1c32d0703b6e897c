"""Export of a model to a file that runs without this package."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from crossmodal.checkpoint import writing
from crossmodal.deployment import onnx, pt2, timm
from crossmodal.deployment.check import LARGEST_ERROR, Checked, compare
from crossmodal.deployment.graph import DeploymentError, Graph
from crossmodal.deployment.targets import Target

TARGETS = {
    "onnx": Target(".onnx", onnx.write, onnx.open_file, onnx.use),
    "pt2": Target(".pt2", pt2.write, pt2.open_file, pt2.use),
    "timm": Target(".safetensors", timm.write, timm.open_file, timm.use),
}


def export(
    graph: Graph,
    to: str,
    out: Path,
    *,
    real: Sequence[Float[Tensor, "..."]] = (),
    tolerance: float = LARGEST_ERROR,
) -> Checked:
    """Writes a file, runs it, and compares its outputs with the library's; the file appears only if they agree.

    Args:
        graph: the model, on the CPU.
        to: the kind of file: "onnx", "pt2" or "timm".
        out: the file.
        real: signals for the comparison, beside those that are made.
        tolerance: the largest error that is accepted, relative to the largest number of the same output and batch.

    Raises:
        DeploymentError: the model cannot be exported so, or an output differs by more than `tolerance`.
        WriteError: the file cannot be written.
    """
    target = TARGETS[to]
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{out.name}.", suffix=".part", dir=out.parent))
    try:
        aside = folder / out.name
        with writing(out):
            target.write(graph, aside)
        checked = compare(graph, target.open(graph, aside), real)
        if not checked.error <= tolerance:
            raise DeploymentError(
                f"the exported file's {checked.output} differs from the library's by {checked.error:.1e} of its "
                f"largest number for {checked.batch}, more than {tolerance:g}; nothing was written"
            )
        with writing(out):
            aside.replace(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return checked
