"""Parquet files, read by `pyarrow` in constant memory."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.containers import pointer

BATCH = 32  # rows that are in memory at a time


class Table:
    """A parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def _open(self, columns: Iterable[str] = ()) -> Iterator[Any]:
        try:
            import pyarrow
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise SourceError(
                f"{self.path}: reading parquet needs the package pyarrow; pip install 'crossmodal-transfer[video]'"
            ) from error
        try:
            with ParquetFile(self.path) as file:
                names = file.schema_arrow.names
                if lacking := [name for name in columns if name not in names]:
                    raise SourceError(f"{self.path}: there is no column {lacking[0]!r}; it has {', '.join(names)}")
                yield file
        except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
            reason = f"the parquet file cannot be read ({str(error).splitlines()[0]}); copy it again"
            raise SourceError(f"{self.path}: {pointer(self.path) or reason}") from error

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        with self._open() as file:
            return tuple(file.schema_arrow.names)

    @cached_property
    def episodes(self) -> Int64[np.ndarray, " rows"]:
        """The episode of each row."""
        return self._scalars("episode_index").astype(np.int64)

    @cached_property
    def seconds(self) -> Float64[np.ndarray, " rows"]:
        """The time of each row since its episode began."""
        return self._scalars("timestamp").astype(np.float64)

    def _scalars(self, column: str) -> np.ndarray:
        with self._open([column]) as file:
            # a number may be stored as a list of one
            return np.array([*file.read(columns=[column]).column(column).to_numpy()]).reshape(-1)

    def rows(self, columns: list[str], wanted: Iterable[int] | None = None) -> Iterator[dict[str, Any]]:
        """Rows as values by column, in constant memory.

        Args:
            columns: their names.
            wanted: numbers of rows, ascending; None: all.
        """
        with self._open(columns) as file:
            asked, end = deque(range(file.metadata.num_rows) if wanted is None else wanted), 0
            for group in range(file.num_row_groups):
                first, end = end, end + file.metadata.row_group(group).num_rows
                if not asked or asked[0] >= end:
                    continue
                for batch in file.iter_batches(batch_size=BATCH, row_groups=[group], columns=columns):
                    while asked and asked[0] < first + batch.num_rows:
                        row = asked.popleft() - first
                        yield {name: batch.column(name)[row].as_py() for name in columns}
                    first += batch.num_rows
                    if not asked or asked[0] >= end:
                        break
