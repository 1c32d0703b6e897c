"""The answers of a classifier, and how they are written: CSV or JSON lines."""

import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from crossmodal.checkpoint import writing

Format = Literal["csv", "jsonl"]


@dataclass(frozen=True)
class Answer:
    """A classifier's answer to one sample, or why there is none."""

    name: str  # path of the file, or folder and key of the pair
    top: list[tuple[str, float]]  # the most probable classes with their probabilities; empty with an error
    label: str | None = None  # the true class, if it is known
    error: str | None = None  # why the sample could not be read


def header(kind: Format, top: int) -> str:
    """The text before the first answer; `top` is the number of classes of each."""
    further = [f"{name}_{place}" for place in range(2, top + 1) for name in ("class", "probability")]
    return _row(["file", "class", "probability", *further, "label", "error"]) if kind == "csv" else ""


def line(answer: Answer, kind: Format, top: int) -> str:
    """An answer as one row of CSV or as one JSON object, with the line's end; probabilities have six digits.

    Cells of CSV without a value are empty; in JSON they are null.
    """
    if kind == "csv":
        cells = [cell for name, probability in answer.top for cell in (name, f"{probability:.6f}")]
        return _row([answer.name, *cells, *[""] * (2 * top - len(cells)), answer.label or "", answer.error or ""])
    best = [{"class": name, "probability": round(probability, 6)} for name, probability in answer.top]
    first = best[0] if best else {"class": None, "probability": None}
    content = {"file": answer.name, **first, "top": best, "label": answer.label, "error": answer.error}
    return json.dumps(content, ensure_ascii=False) + "\n"


def _row(cells: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text file that takes the place of `path` when all of it is written.

    Raises:
        WriteError: it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path), aside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        with writing(path):
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
