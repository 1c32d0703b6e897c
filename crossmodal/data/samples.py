"""Single samples of one modality, from files or from shards, for predictions: read, decoded and adapted in batches.

A sample that cannot be read is a message in its place, so that every sample has an answer or a reason why not.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from crossmodal.data.loader import load_in_order
from crossmodal.data.manifest import ShardError
from crossmodal.data.reader import read_pair
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.stores.errors import StoreError
from modalities import CropBox, Modality


class SampleError(ValueError):
    """A sample cannot be read; the message does not repeat its name."""


@dataclass(frozen=True)
class FileSamples:
    """Files, each of which is one sample."""

    paths: Sequence[str]
    modality: Modality

    @property
    def classes(self) -> list[str]:
        """The names of the labels; there are none."""
        return []

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The path of the file."""
        return self.paths[index]

    def read(self, index: int) -> tuple[Float[Tensor, "*shape"], int]:
        """The whole sample as its modality adapts it, in physical units, and -1: its class is not known.

        Raises:
            SampleError: it cannot be read.
        """
        path = Path(self.paths[index])
        try:
            if path.exists() and not path.is_file():
                raise SampleError("must be a file, got a folder or a device")
            payload = path.read_bytes()
        except OSError as error:
            raise SampleError(error.strerror or str(error)) from error
        try:
            return self.modality.adapt(self.modality.decode(payload), CropBox()), -1
        except Exception as error:  # a DecodeError, an error of adapt, or any error of a library
            raise SampleError(str(error)) from error

    def facts(self, index: int) -> dict[str, Any]:
        """The facts of the sample from its source; a file has none."""
        return {}


@dataclass(frozen=True)
class ShardSamples:
    """One view of all pairs of some shards."""

    shards: Shards
    view: View

    @property
    def classes(self) -> list[str]:
        """The names of the labels."""
        return self.shards.manifest.classes

    def __len__(self) -> int:
        return len(self.shards)

    def name(self, index: int) -> str:
        """The folder and the key of the pair, or its number if its whole shard cannot be read."""
        try:
            return f"{self.shards.folder}/{self.shards.locate(index)[1].key}"
        except ShardError:
            return f"{self.shards.folder}/pair {index}"

    def read(self, index: int) -> tuple[Float[Tensor, "*shape"], int]:
        """The whole sample as its modality adapts it, in physical units, and its class; -1: not known.

        Raises:
            SampleError: it cannot be read.
        """
        try:
            pair = read_pair(self.shards, {"view": self.view}, index)
        except ShardError as error:
            raise SampleError(str(error)) from error
        return pair.adapted["view"][0], int(pair.label)

    def read_ahead(self, indices: Sequence[int], *, with_facts: bool) -> None:
        """Reads samples of a store at the same time, for the calls of `read` and `facts` that follow."""
        self.shards.read_ahead(indices, [self.shards.member(self.view.modality.field), *["json"] * with_facts])

    def facts(self, index: int) -> dict[str, Any]:
        """The facts of the pair from its source, such as its group or a pose, without the label.

        Raises:
            SampleError: it cannot be read.
        """
        try:
            facts = self.shards.facts(index)
        except ShardError as error:
            raise SampleError(str(error)) from error
        return {name: value for name, value in facts.items() if name != "label"}


Samples = FileSamples | ShardSamples


@dataclass(frozen=True)
class LoadedSamples:
    """Some consecutive samples."""

    names: list[str]
    problems: list[str | None]  # for each sample, why it cannot be read; None: it can
    adapted: Float[Tensor, "readable *shape"] | None  # the readable samples in order; None: there is none
    label: Int[Tensor, " readable"]  # their classes; -1: not known
    facts: list[dict[str, Any]] = field(default_factory=list)  # of the readable samples, if they are wanted


class _Batches(Dataset):
    """Batches of samples by number."""

    def __init__(self, samples: Samples, batch_size: int, start: int, stop: int, *, with_facts: bool) -> None:
        self.samples, self.batch_size, self.start, self.stop = samples, batch_size, start, stop
        self.with_facts = with_facts

    def __len__(self) -> int:
        return math.ceil((self.stop - self.start) / self.batch_size)

    def __getitem__(self, number: int) -> LoadedSamples | StoreError:
        start = self.start + number * self.batch_size
        indices = range(start, min(start + self.batch_size, self.stop))
        try:
            if isinstance(self.samples, ShardSamples):
                self.samples.read_ahead(indices, with_facts=self.with_facts)
            return self._load(indices)
        except StoreError as error:
            return error

    def _load(self, indices: range) -> LoadedSamples:
        names, problems, adapted, labels = [], list[str | None](), list[Tensor](), list[int]()
        facts = list[dict[str, Any]]()
        for index in indices:
            names.append(self.samples.name(index))
            try:
                sample, label = self.samples.read(index)
                facts += [self.samples.facts(index)] if self.with_facts else []
            except SampleError as error:
                problems.append(str(error))
                continue
            problems.append(None)
            adapted.append(sample)
            labels.append(label)
        whole = torch.stack(adapted) if adapted else None
        return LoadedSamples(names, problems, whole, torch.tensor(labels, dtype=torch.int64), facts)


def load_samples(
    samples: Samples,
    *,
    batch_size: int = 64,
    workers: int = 0,
    start: int = 0,
    stop: int | None = None,
    with_facts: bool = False,
) -> Iterator[LoadedSamples]:
    """Samples in order, `batch_size` at a time.

    Args:
        samples: files or pairs.
        batch_size: number of samples at a time.
        workers: processes that read and decode.
        start: the first sample.
        stop: the one after the last; None: all.
        with_facts: read what the source recorded of each sample too.

    Raises:
        StoreError: the store of the shards cannot be read.
        LoaderError: a worker process ended, or has no shared memory for its data.
    """
    stop = len(samples) if stop is None else stop
    return load_in_order(_Batches(samples, batch_size, start, stop, with_facts=with_facts), workers=workers)
