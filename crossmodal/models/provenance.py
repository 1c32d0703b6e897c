"""What the folders of runs say about a model: its training, its data, its teachers, and its evaluation."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossmodal.models.card import CARD, ExportError, digest

RUN, REPORT = "run.json", "report.json"


@dataclass(frozen=True)
class Measured:
    """The figures of a student in an evaluation."""

    student: str  # its name there
    figures: Mapping[str, Any]  # of report.json


@dataclass(frozen=True)
class Provenance:
    """The records of runs, as far as there are any."""

    run: Mapping[str, Any] = field(default_factory=dict)  # run.json of the training
    measured: Measured | None = None


def provenance_of(model: Path | None, evaluation: str | Path | None = None) -> Provenance:
    """The run that a model's folder belongs to, and its evaluation.

    Args:
        model: folder of the exported encoder; None: not known.
        evaluation: folder of a finished evaluation; None: the newest one beside the run that measured this model.

    Raises:
        ExportError: the given folder holds no evaluation of this model.
    """
    above = (model, *[*model.absolute().parents][:2]) if model is not None else ()
    folder = next((each for each in above if (each / RUN).is_file()), None)
    run = {} if folder is None else _read(folder / RUN)
    if evaluation is not None:
        measured = None if model is None else _measured(Path(evaluation), _digest(model))
        if measured is None:
            raise ExportError(f"{evaluation} holds no finished evaluation of this model; give the output folder of "
                              "crossmodal evaluate, or leave it out")  # fmt: skip
        return Provenance(run, measured)
    if model is None or folder is None:
        return Provenance(run)
    beside = sorted(folder.parent.glob(f"*/{REPORT}"), key=lambda path: path.stat().st_mtime, reverse=True)
    own = _digest(model)
    found = (_measured(path.parent, own) for path in beside)
    return Provenance(run, next((each for each in found if each is not None), None))


def _digest(model: Path) -> str | None:
    """The digest of an exported model; None for another folder."""
    return digest(model) if (model / CARD).is_file() else None


def _measured(evaluation: Path, own: str | None) -> Measured | None:
    """The figures of the model of a digest in an evaluation; None if it did not measure this model."""
    if not (evaluation / RUN).is_file() or not (evaluation / REPORT).is_file():
        return None
    record, report = _read(evaluation / RUN), _read(evaluation / REPORT)
    if record.get("pipeline") != "evaluate" or own is None:
        return None
    for key, digests in record.get("inputs", {}).items():
        if key.startswith("students.") and own in str(digests).split():
            return Measured(key.removeprefix("students."), report.get("figures", {}))
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"{path} cannot be read: {error}") from error
    return content if isinstance(content, dict) else {}
