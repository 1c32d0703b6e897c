"""`crossmodal embed`: its arguments, and the work itself."""

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config import ConfigError
from pipelines.config.arguments import Parser
from pipelines.config.errors import printable

if TYPE_CHECKING:
    from crossmodal.data.samples import Samples
    from crossmodal.models import Model
    from pipelines.embedding.parts import Rows

ROWS = 4096  # of a part
MOST_WORKERS = 4  # by default
FEW_BATCHES = 8  # of which a process decodes all before workers would have started


def _parser() -> Parser:
    parser = Parser(
        "embed",
        description="Writes the embeddings of files or pairs by a trained encoder.",
        epilog="The same command continues after a kill. On several processes (torchrun -m pipelines embed ...) each "
        "takes its share. Files are read in the unit of the model's training pairs, 16-bit depth with their scale_m. "
        "Columns are key, vector, label, and the facts of pairs; an .npz has arrays keys, vectors, labels and model. "
        "Exit code 1: a file could not be read; it has no row, and the reason is printed.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="folder of a finished run or an exported encoder, or hf-hub:OWNER/NAME"
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="files, folders of files, globs, or folders of shards")
    parser.add_argument("--to", metavar="FILE", required=True, help="the .parquet or .npz file to write")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="files at a time (default: 64)")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help=f"processes that read files (default: one less than cores, from 1 to {MOST_WORKERS}; for few files 0)",
    )
    return parser


def embed(words: Sequence[str]) -> int:
    """Embeds what the words name; gives the exit code: 0, or 1 if anything could not be read.

    Raises:
        ConfigError: the words are wrong.
        ExportError: the model cannot be loaded.
        ShardError: a folder of shards cannot be opened.
        WriteError: the file cannot be written.
    """
    asked = _parser().read(words)
    if asked is None:
        return 0
    to = Path(asked.to)
    if to.suffix not in (".parquet", ".npz") or to.is_dir():
        raise ConfigError([f"embed: --to must be a file that ends in .parquet or .npz, got {to}"])
    if asked.batch < 1 or (asked.workers or 0) < 0:
        raise ConfigError(["embed: --batch must be at least 1, and --workers at least 0"])
    if to.suffix == ".parquet":
        _need_pyarrow()

    import torch

    import crossmodal
    from crossmodal.data.inputs import InputError, find_inputs
    from crossmodal.models import digest
    from pipelines.embedding.parts import Parts, join
    from pipelines.runs import distributed

    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # each process of a machine has its own GPU
    model = crossmodal.load(asked.model, device=own if torch.cuda.is_available() else "cpu")
    try:
        inputs = find_inputs(asked.files, model.modality, model.card.modality, model.card.modality_options)
    except InputError as error:
        raise ConfigError([f"embed: {error}"]) from error
    classes = _classes(inputs.samples)
    jobs = [
        (samples, start)
        for samples in inputs.samples
        for start in range(0, len(samples), math.ceil(ROWS / asked.batch) * asked.batch)
    ]
    assert model.folder is not None
    parts, model_digest = Parts(to), digest(model.folder)
    identity = {
        "format": 2,  # parts of version 1 have no facts
        "model": model_digest,
        "batch": asked.batch,
        "samples": [_identity(each) for each in inputs.samples],
    }
    if distributed.is_main():
        parts.open(identity)
    distributed.wait()
    rank, ranks = distributed.rank(), distributed.count()
    workers = asked.workers
    if workers is None:
        few = sum(map(len, inputs.samples)) <= FEW_BATCHES * asked.batch * ranks
        workers = 0 if few else min(MOST_WORKERS, max(1, (os.cpu_count() or 1) // ranks - 1))  # one core encodes
    for number in range(rank, len(jobs), ranks):
        if not parts.has(number):
            parts.save(number, _rows(model, *jobs[number], classes, batch=asked.batch, workers=workers))
    distributed.wait()
    unreadable = 0
    if distributed.is_main():
        found = any(parts.load(number).keys for number in range(len(jobs)))
        written = join(parts, len(jobs), classes, model_digest) if found else 0
        for number in range(len(jobs)):
            for name, reason in parts.load(number).problems:
                _tell(f"{name}: {reason}")
                unreadable += 1
        parts.remove()
        left = f"; {len(inputs.ignored)} files left out by their extension" if inputs.ignored else ""
        _tell((f"{to}: {written} embeddings of {model.encoder.spec.dim} numbers" if found else f"{to} was not written")
              + (f"; {unreadable} files could not be read" if unreadable else "") + left)  # fmt: skip
    distributed.part()
    return 1 if unreadable else 0


def _rows(model: "Model", samples: "Samples", start: int, classes: list[str], *, batch: int, workers: int) -> "Rows":
    """The embeddings of the samples of one part."""
    import numpy as np
    import torch

    from crossmodal.data.samples import load_samples
    from pipelines.embedding.parts import Rows

    own = [classes.index(name) for name in samples.classes]
    keys, labels, problems, vectors = list[str](), list[int](), list[tuple[str, str]](), []
    facts = list[dict[str, Any]]()
    stop = min(start + math.ceil(ROWS / batch) * batch, len(samples))
    device = next(model.encoder.parameters()).device
    for part in load_samples(samples, batch_size=batch, workers=workers, start=start, stop=stop, with_facts=True):
        if part.adapted is not None:
            with torch.inference_mode():
                features = model.encoder(model.modality.normalise(part.adapted.to(device)))
            vectors.append(features.embedding.float().cpu().numpy())
        for name, problem in zip(part.names, part.problems, strict=True):
            if problem is None:
                keys.append(name)
            else:
                problems.append((name, problem))
        facts += part.facts
        labels += [own[label] if label >= 0 else -1 for label in part.label.tolist()]
    dim = model.encoder.spec.dim
    return Rows(keys, labels, np.concatenate(vectors) if vectors else np.zeros((0, dim), np.float32), problems, facts)


def _classes(several: "Sequence[Samples]") -> list[str]:
    return [*dict.fromkeys(name for samples in several for name in samples.classes)]


def _identity(samples: "Samples") -> object:
    """The content that must not change between two starts of the same command."""
    from crossmodal.data.samples import ShardSamples

    if isinstance(samples, ShardSamples):
        return [str(samples.shards.folder), samples.shards.manifest.digest]
    stamps = []
    for path in map(Path, samples.paths):
        status = path.stat() if path.is_file() else None
        stamps.append([str(path), status and status.st_size, status and status.st_mtime_ns])
    return stamps


def _need_pyarrow() -> None:
    import importlib.util

    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(["embed: a .parquet file needs the package pyarrow (pip install "
                           "'crossmodal-transfer[parquet]'); or write an .npz file"])  # fmt: skip


def _tell(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
