"""`crossmodal export`: its arguments, and the work itself."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import ConfigError
from pipelines.config.arguments import Parser
from pipelines.config.errors import printable

if TYPE_CHECKING:
    from torch import Tensor

    from crossmodal.deployment.graph import Graph
    from crossmodal.deployment.latency import Latency
    from crossmodal.models import Model

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "timm": ".safetensors"}
WAYS = {"onnx": "onnxruntime", "pt2": "torch.export", "timm": "timm"}
MOST = 64  # files of `--data` that are compared


def _parser() -> Parser:
    parser = Parser(
        "export",
        description="Writes a trained encoder as a file that runs without this package, with the preprocessing inside: "
        "metres, 8-bit pictures or sound in; embeddings and probabilities out. The file is run and compared with the "
        "library first.",
        epilog="Exit code 1: the model cannot be exported so, or an output differs by more than the tolerance; then "
        "there is no file. A checkpoint for timm holds the network alone.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a finished run, or an exported encoder")
    parser.add_argument("--to", choices=[*SUFFIXES], required=True, help="kind of file")
    parser.add_argument("--out", metavar="FILE", required=True, help=f"the file: {', '.join(SUFFIXES.values())}")
    parser.add_argument("--size", metavar="HEIGHTxWIDTH", help="size of your pictures, such as 480x640, which the file "
                        "then resizes as in training (default: the model's size)")  # fmt: skip
    parser.add_argument("--maps", action="store_true", help="the output of each stage too: map0, map1, ...")
    parser.add_argument("--data", metavar="FILE", nargs="+", default=[], help="files, folders or globs of your sensor, "
                        f"with which the file is compared too; the first {MOST}")  # fmt: skip
    parser.add_argument("--tolerance", type=float, default=1e-4, metavar="ERROR", help="largest accepted error, "
                        "relative to the largest number of the same output and batch (default: 1e-4)")  # fmt: skip
    parser.add_argument("--latency", action="store_true", help="measure the milliseconds of a batch of 1 and of 32")
    return parser


def export(words: Sequence[str]) -> int:
    """Exports what the words name; gives the exit code.

    Raises:
        ConfigError: the words are wrong.
        ExportError: the model cannot be loaded.
        DeploymentError: it cannot be exported so, or the file computes something else.
        WriteError: the file cannot be written.
    """
    asked = _parser().read(words)
    if asked is None:
        return 0
    out, size = Path(asked.out), _read_size(asked.size)
    if out.suffix != SUFFIXES[asked.to] or out.is_dir():
        raise ConfigError([f"export: --out must be a file that ends in {SUFFIXES[asked.to]}, got {out}"])
    if not 0 < asked.tolerance < 1:
        raise ConfigError([f"export: --tolerance must be above 0 and below 1, got {asked.tolerance:g}"])
    if asked.to == "timm" and (asked.maps or size):
        raise ConfigError(
            ["export: --maps and --size are for onnx and pt2; a checkpoint for timm holds the network alone"]
        )

    import crossmodal
    from crossmodal.deployment import exporting, latency
    from crossmodal.deployment.graph import DeploymentError, Graph

    model = crossmodal.load(asked.model, device="cpu")
    try:
        graph = Graph(model, maps=asked.maps, size=size).eval()
    except DeploymentError as error:
        raise ConfigError([f"export: --size: {error}"]) from error
    real = _read_signals(asked.data, model)
    checked = exporting.export(graph, asked.to, out, real=real, tolerance=asked.tolerance)
    _describe(graph)
    _tell(f"{out}: {out.stat().st_size / 1e6:.1f} MB; the largest error is {checked.error:.1e} of the largest number, "
          f"in {checked.output} for {checked.batch}, over {checked.rows} inputs")  # fmt: skip
    target = exporting.TARGETS[asked.to]
    _tell(target.use(graph, out))
    if asked.latency:
        _show_latency(latency.measure(graph, target.open(graph, out), WAYS[asked.to]))
    return 0


def _read_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    numbers = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if numbers is None:
        raise ConfigError([f"export: --size must be HEIGHTxWIDTH in pixels, such as 480x640, got {text!r}"])
    return int(numbers[1]), int(numbers[2])


def _read_signals(words: Sequence[str], model: "Model") -> "list[Tensor]":
    """The signals of the first files that the words name."""
    from crossmodal.data.inputs import InputError, find_inputs
    from crossmodal.data.samples import FileSamples

    try:
        inputs = find_inputs(words, model.modality, model.card.modality, model.card.modality_options)
    except InputError as error:
        raise ConfigError([f"export: --data: {error}"]) from error
    paths = list[str]()
    for samples in inputs.samples:
        if not isinstance(samples, FileSamples):
            raise ConfigError([f"export: --data takes files, and {samples.shards.folder} holds shards"])
        paths += samples.paths
    signals = []
    for path in paths[:MOST]:
        try:
            signals.append(model.modality.decode(Path(path).read_bytes()))
        except (OSError, ValueError) as error:
            raise ConfigError([f"export: --data: {path}: {error}"]) from error
    return signals


def _describe(graph: "Graph") -> None:
    """Prints the inputs and outputs."""
    given, rows = graph.input, "batch"
    shape = ", ".join(map(str, (rows, *given.shape)))
    gaps = f"; no reading: {given.gaps}" * bool(given.gaps)
    _tell(f"input   {graph.name} [{shape}] {str(given.dtype).removeprefix('torch.')}, {given.unit}{gaps}")
    for name, sizes in zip(graph.names, graph.sizes, strict=True):
        _tell(f"output  {name} [{', '.join(map(str, (rows, *sizes)))}]")


def _show_latency(rows: "Iterable[Latency]") -> None:
    """Prints a line for each way and size of batch."""
    import torch

    _tell(f"milliseconds on {torch.get_num_threads()} threads of the CPU: median (of ten runs, one is below and one "
          "above the range)")  # fmt: skip
    for row in rows:
        numbers = row.problem or f"{row.median_ms:9.2f}   ({row.low_ms:.2f} to {row.high_ms:.2f})"
        _tell(f"{row.way:<14} batch {row.rows:<3} {numbers}")


def _tell(text: str) -> None:
    print(printable(text), flush=True)
