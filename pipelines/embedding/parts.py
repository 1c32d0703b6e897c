"""The rows of `crossmodal embed`, in parts that survive a kill and are joined at the end."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from crossmodal.checkpoint import write, writing

IDENTITY = "identity.json"


@dataclass(frozen=True)
class Rows:
    """Embeddings of some consecutive samples, and the samples that cannot be read."""

    keys: list[str]  # path of the file, or folder and key of the pair
    labels: list[int]  # -1: not known
    vectors: Float32[np.ndarray, "rows dim"]
    problems: list[tuple[str, str]]  # name and reason
    facts: list[dict[str, Any]]  # of the pairs of shards; empty for files


@dataclass(frozen=True)
class Parts:
    """A folder of parts beside the file that they become."""

    target: Path

    @property
    def folder(self) -> Path:
        """The folder of the parts."""
        return self.target.with_name(f"{self.target.name}.parts")

    def open(self, identity: dict[str, object]) -> None:
        """Prepares the folder; parts of other inputs or of another model are removed."""
        file, text = self.folder / IDENTITY, json.dumps(identity, sort_keys=True)
        if file.is_file() and file.read_text(encoding="utf-8") != text:
            shutil.rmtree(self.folder)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write(file, text)

    def has(self, number: int) -> bool:
        """True if a part is whole."""
        return self._path(number).is_file()

    def save(self, number: int, rows: Rows) -> None:
        """Writes a part; what is there after a kill is whole."""
        with io.BytesIO() as file:
            np.savez(
                file,
                keys=np.asarray(rows.keys, dtype=np.str_),
                labels=np.asarray(rows.labels, dtype=np.int64),
                vectors=rows.vectors,
                facts=np.asarray([json.dumps(each) for each in rows.facts], dtype=np.str_),
                problems=np.asarray(rows.problems, dtype=np.str_).reshape(-1, 2),
            )
            write(self._path(number), file.getvalue())

    def load(self, number: int) -> Rows:
        """Reads a part."""
        with np.load(self._path(number)) as file:
            problems = [(str(name), str(reason)) for name, reason in file["problems"]]
            facts = [json.loads(str(text)) for text in file["facts"]]
            return Rows([*map(str, file["keys"])], file["labels"].tolist(), file["vectors"], problems, facts)

    def remove(self) -> None:
        """Removes the parts."""
        shutil.rmtree(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


def join(parts: Parts, count: int, classes: list[str], model: str) -> int:
    """Writes the target from all parts, a part at a time in memory; gives the number of rows.

    Args:
        parts: all of them.
        count: number of parts.
        classes: names of the labels.
        model: digest of the model, for the file.
    """
    kind = _parquet if parts.target.suffix == ".parquet" else _npz
    with _replacing(parts.target) as aside:
        return kind(aside, parts, count, classes, model)


def _parquet(path: Path, parts: Parts, count: int, classes: list[str], model: str) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = [("key", pa.string()), ("vector", pa.list_(pa.float32())), ("label", pa.string())]
    kinds = fact_kinds(facts for number in range(count) for facts in parts.load(number).facts)
    types = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "str": pa.string(), "json": pa.string(),
             "list": pa.list_(pa.float64())}  # fmt: skip
    names = {fact: f"fact_{fact}" if fact in dict(own) else fact for fact in kinds}
    schema = pa.schema([*own, *((names[fact], types[kind]) for fact, kind in kinds.items())], metadata={"model": model})
    total = 0
    with pq.ParquetWriter(path, schema) as writer:
        for number in range(count):
            rows = parts.load(number)
            dim = rows.vectors.shape[1]
            offsets = pa.array(np.arange(len(rows.keys) + 1, dtype=np.int32) * dim)
            vectors = pa.ListArray.from_arrays(offsets, pa.array(rows.vectors.ravel()))
            labels = pa.array([classes[label] if label >= 0 else None for label in rows.labels], pa.string())
            columns = [pa.array([_as_kind(facts.get(fact), kind) for facts in rows.facts], types[kind])
                       for fact, kind in kinds.items()]  # fmt: skip
            table = [pa.array(rows.keys, pa.string()), vectors, labels, *columns]
            writer.write_table(pa.Table.from_arrays(table, schema=schema))
            total += len(rows.keys)
    return total


def fact_kinds(facts: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The kind of each fact's column, by name: bool, int, float, str, list of numbers, or json where values differ."""
    kinds: dict[str, str] = {}
    for each in facts:
        for name, value in each.items():
            kind = _kind_of(value)
            before = kinds.get(name, kind)
            if kind is not None:
                both = {before, kind}
                kinds[name] = kind if before == kind else "float" if both == {"int", "float"} else "json"
    return dict(sorted(kinds.items()))


def _kind_of(value: Any) -> str | None:
    """None: the value says nothing of the kind."""
    if value is None or value == "":
        return None
    if isinstance(value, list):
        return "list" if {*map(_kind_of, value)} <= {"int", "float"} else "json"
    known = {bool: "bool", int: "int", float: "float", str: "str"}
    return known.get(type(value), "json")


def _as_kind(value: Any, kind: str) -> Any:
    if value is None or value == "":
        return None
    return json.dumps(value) if kind == "json" else value


def _npz(path: Path, parts: Parts, count: int, classes: list[str], model: str) -> int:
    sizes = [parts.load(number).vectors.shape for number in range(count)]
    total, dim = sum(rows for rows, _ in sizes), sizes[0][1]
    keys, labels, facts = list[str](), list[int](), list[str]()
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        with archive.open(_entry("vectors"), "w", force_zip64=True) as file:
            shape = {"descr": "<f4", "fortran_order": False, "shape": (total, dim)}
            np.lib.format.write_array_header_1_0(file, shape)
            for number in range(count):
                rows = parts.load(number)
                file.write(rows.vectors.astype("<f4").tobytes())
                keys.extend(rows.keys)
                labels.extend(rows.labels)
                facts.extend(map(json.dumps, rows.facts))
        others = {"keys": keys, "labels": [classes[label] if label >= 0 else "" for label in labels], "model": model}
        others |= {"facts": facts} if any(text != "{}" for text in facts) else {}
        for name, values in others.items():
            with archive.open(_entry(name), "w") as file:
                np.lib.format.write_array(file, np.asarray(values, dtype=np.str_), allow_pickle=False)
    return total


def _entry(name: str) -> zipfile.ZipInfo:
    """A member without the time it was made at, so that equal rows make equal bytes."""
    return zipfile.ZipInfo(f"{name}.npy")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            yield aside
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
