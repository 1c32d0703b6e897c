"""ONNX files, by the exporter of torch that traces with dynamo; opset 18, float32, weights inside."""

import contextlib
import importlib.util
import io
import warnings
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from crossmodal.deployment.graph import BATCH, DeploymentError, Graph, trace
from crossmodal.deployment.targets import Run

OPSET = 18
LARGEST = 2**31 - 2**24  # bytes of weights that fit into one file, which protobuf limits to 2 GiB


def write(graph: Graph, path: Path) -> None:
    """Writes an ONNX file, with the graph's facts as its metadata.

    Raises:
        DeploymentError: a package is missing, the weights are too large, or an operator cannot be written.
    """
    need()
    size = sum(tensor.nbytes for tensor in graph.state_dict().values())
    if size > LARGEST:
        raise DeploymentError(f"an ONNX file holds at most 2 GiB, and the weights have {size / 2**30:.1f} GiB")
    program = trace(graph)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            written = torch.onnx.export(program, dynamo=True, opset_version=OPSET, input_names=[graph.name],
                                        output_names=list(graph.names), verbose=False)  # fmt: skip
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise DeploymentError(f"{graph.model.card.encoder} cannot be written as ONNX: {reason}") from error
    assert written is not None
    content = written.model
    for value in (*content.graph.inputs, *content.graph.outputs):
        assert value.shape is not None
        value.shape[0] = BATCH
    content.metadata_props.update(graph.facts())
    written.save(path, external_data=False)


def open_file(graph: Graph, path: Path) -> Run:
    """The file in onnxruntime on the CPU, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(batch: Shaped[Tensor, "batch *shape"]) -> tuple[Tensor, ...]:
        return tuple(map(torch.from_numpy, session.run(list(graph.names), {graph.name: batch.numpy()})))

    return run


def use(graph: Graph, path: Path) -> str:
    """The line that opens the file."""
    return f'session = onnxruntime.InferenceSession("{path}")'


def need() -> None:
    """Refuses to begin without the packages of the extra.

    Raises:
        DeploymentError: one of them is not installed.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise DeploymentError(f"ONNX needs the package {name} (pip install 'crossmodal-transfer[onnx]')")
