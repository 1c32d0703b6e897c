"""`crossmodal predict`: its arguments, and the predictions themselves."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import ConfigError
from pipelines.config.arguments import Parser
from pipelines.config.errors import printable

if TYPE_CHECKING:
    from crossmodal.data.samples import LoadedSamples, Samples
    from crossmodal.models import Model
    from pipelines.prediction.answers import Answer, Format

FORMATS: "dict[str, Format]" = {".csv": "csv", ".jsonl": "jsonl"}  # by the extension of --to


def _parser() -> Parser:
    parser = Parser(
        "predict",
        description="Classifies files with a classifier that crossmodal supervise has trained.",
        epilog="Exit code 1: a file could not be read. It has a row with the reason in the column error.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a finished run of supervise, or an exported model")
    parser.add_argument("files", metavar="FILE", nargs="+", help="files, folders of files, globs, or folders of shards")
    parser.add_argument("--to", metavar="FILE", help="write to this .csv or .jsonl file instead of stdout")
    parser.add_argument(
        "--format",
        choices=[*FORMATS.values()],
        help="csv, or jsonl: a JSON object a line (default: by the extension of --to, else csv)",
    )
    parser.add_argument("--top", type=_count, default=3, metavar="K", help="most probable classes to show (default: 3)")
    parser.add_argument("--batch", type=_count, default=64, metavar="N", help="files at a time (default: 64)")
    parser.add_argument(
        "--workers", type=_number, default=0, metavar="N", help="processes that read files (default: 0)"
    )
    return parser


def _number(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text}")
    return int(text)


def _count(text: str) -> int:
    return _number(text, least=1)


def predict(words: Sequence[str]) -> int:
    """Classifies what the words name; gives the exit code: 0, or 1 if anything could not be read.

    Raises:
        ConfigError: the words are wrong, or the model has no classes.
        ExportError: the model cannot be loaded.
        ShardError: a folder of shards cannot be opened.
        WriteError: the answers cannot be written.
    """
    asked = _parser().read(words)
    if asked is None:
        return 0
    kind = _format_of(asked.to, asked.format)

    import torch

    from crossmodal import models
    from crossmodal.data.inputs import InputError, find_inputs
    from pipelines.prediction.answers import header, line, replacing

    model = models.load_model(asked.model)
    if not model.card.classes:
        raise ConfigError([f"predict: {asked.model} has no classes; train a classifier from it with crossmodal "
                           f"supervise (student.weights: {asked.model})"])  # fmt: skip
    try:
        inputs = find_inputs(asked.files, model.modality, model.card.modality, model.card.modality_options)
    except InputError as error:
        raise ConfigError([f"predict: {error}"]) from error
    if model.card.temperature is None:
        _tell(f"{asked.model}: probabilities are not calibrated, because its training fitted no temperature")
    model.encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    answered = unreadable = labelled = right = 0
    with replacing(Path(asked.to)) if asked.to else nullcontext(sys.stdout) as file:
        top = min(asked.top, len(model.card.classes))
        show = printable if file.isatty() else str  # names of files must not control a terminal
        file.write(header(kind, top))
        for samples in inputs.samples:
            for answer in answers(model, samples, top=top, batch_size=asked.batch, workers=asked.workers):
                file.write(show(line(answer, kind, top)))
                if answer.error is not None:
                    unreadable += 1
                    _tell(f"{answer.name}: {answer.error}")
                    continue
                answered += 1
                if answer.label is not None:
                    labelled += 1
                    right += answer.label == answer.top[0][0]
        file.flush()
    parts = [f"{answered} classified"]
    parts += [f"{right} of {labelled} with a label are right ({right / labelled:.1%})"] if labelled else []
    parts += [f"{unreadable} could not be read"] if unreadable else []
    if inputs.ignored:
        shown = ", ".join(inputs.ignored[:3]) + (" ..." if inputs.ignored[3:] else "")
        parts.append(
            f"left out by their extension, which is not of {model.card.modality}: {len(inputs.ignored)} ({shown})"
        )
    _tell("; ".join(parts))
    return 1 if unreadable else 0


def answers(
    model: "Model", samples: "Samples", *, top: int = 3, batch_size: int = 64, workers: int = 0
) -> "Iterator[Answer]":
    """The model's answer to each sample, in order; `batch_size` samples are in memory at a time.

    Args:
        model: has classes; its encoder may be on any device.
        samples: files or pairs.
        top: number of classes of an answer.
        batch_size: number of samples that the encoder sees at a time.
        workers: processes that read and decode.
    """
    from crossmodal.data.samples import load_samples

    for part in load_samples(samples, batch_size=batch_size, workers=workers):
        yield from _answer(model, part, samples.classes, top)


def _answer(model: "Model", part: "LoadedSamples", classes: list[str], top: int) -> "Iterator[Answer]":
    import torch

    from pipelines.prediction.answers import Answer

    rows: Iterator[tuple[list[float], list[int], int]] = iter(())
    if part.adapted is not None:
        with torch.inference_mode():
            device = next(model.encoder.parameters()).device
            probabilities = model.probabilities(part.adapted.to(device)).cpu()
        values, places = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
        rows = zip(values.tolist(), places.tolist(), part.label.tolist(), strict=True)
    for name, problem in zip(part.names, part.problems, strict=True):
        if problem is not None:
            yield Answer(name, [], error=problem)
            continue
        shares, numbers, label = next(rows)
        best = [(model.card.classes[number], share) for number, share in zip(numbers, shares, strict=True)]
        yield Answer(name, best, classes[label] if label >= 0 else None)


def _format_of(path: str | None, given: "Format | None") -> "Format":
    if path is None:
        return given or "csv"
    if Path(path).is_dir():
        raise ConfigError([f"predict: --to must be a file, but {path} is a folder"])
    by_name = FORMATS.get(Path(path).suffix.lower())
    if given is None and by_name is None:
        raise ConfigError([f"predict: --to must end in .csv or .jsonl, or --format must be given, got {path}"])
    if given is not None and by_name not in (None, given):
        raise ConfigError([f"predict: --to {path} contradicts --format {given}"])
    return given or by_name or "csv"


def _tell(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
