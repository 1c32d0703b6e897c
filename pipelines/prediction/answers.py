"""The answers of a classifier, and how they are written: CSV or JSON lines."""

import csv
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
    """What a classifier says of one sample."""

    name: str  # path of the file, or folder and key of the pair
    top: list[tuple[str, float]]  # the most probable classes with their probabilities; empty with an error
    label: str | None = None  # the true class, if it is known
    error: str | None = None  # why the sample could not be read


class CsvWriter:
    """A line for each answer below a header: file, class, probability, further classes, label, error."""

    def __init__(self, file: TextIO, top: int) -> None:
        self.top, self.rows = top, csv.writer(file, lineterminator="\n")
        further = [f"{name}_{place}" for place in range(2, top + 1) for name in ("class", "probability")]
        self.rows.writerow(["file", "class", "probability", *further, "label", "error"])

    def write(self, answer: Answer) -> None:
        """Adds a line; probabilities have six digits, and cells without a value are empty."""
        cells = [cell for name, probability in answer.top for cell in (name, f"{probability:.6f}")]
        cells += [""] * (2 * self.top - len(cells))
        self.rows.writerow([answer.name, *cells, answer.label or "", answer.error or ""])


class JsonWriter:
    """A JSON object for each answer on a line of its own, with the same names as the columns of CSV."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, answer: Answer) -> None:
        """Adds a line."""
        top = [{"class": name, "probability": round(probability, 6)} for name, probability in answer.top]
        first = top[0] if top else {"class": None, "probability": None}
        content = {"file": answer.name, **first, "top": top, "label": answer.label, "error": answer.error}
        self.file.write(json.dumps(content, ensure_ascii=False) + "\n")


def open_writer(file: TextIO, kind: Format, top: int) -> CsvWriter | JsonWriter:
    """The writer of a format; `top` is the number of classes of each answer."""
    return CsvWriter(file, top) if kind == "csv" else JsonWriter(file)


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
