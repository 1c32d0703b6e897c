"""Shards -> batches: read in the planned order, decode, draw a look, adapt, collate."""

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from crossmodal.data.features import FeatureShards, put_together
from crossmodal.data.loader import load_in_order
from crossmodal.data.manifest import MANIFEST, ShardError, open_field
from crossmodal.data.order import Plan
from crossmodal.data.shards import Shards
from crossmodal.data.verify import tell_lacking
from crossmodal.data.views import Crop, Draws, Picture, View, tell_uneven
from crossmodal.objectives import Batch
from modalities import MODALITIES, Modality
from modalities.common.random import generator

AUGMENTED = 1 << 20  # numbers augmented at once on a CPU: it takes several times their memory
WIDER = 16  # times as many elsewhere, where small operators leave the device idle
STAND_INS = 100  # tries to replace an unreadable pair; where nine in ten are unreadable, this fails for 3 in 100,000


class UnevenError(ShardError):
    """Aligned views of one pair whose pictures have other proportions."""


@dataclass(frozen=True)
class SampleBatch:
    """What one worker makes of its lanes for one step."""

    adapted: dict[str, Tensor]
    draws: dict[str, Tensor]
    index: Tensor
    label: Tensor
    group: Tensor  # number of each pair's group, -1 where it has none
    replaced: tuple[str, ...] = ()  # why pairs could not be read, one message for each that another stands in for
    features: dict[tuple[str, str], Tensor] = field(default_factory=dict)  # kept of teachers, by name and member
    present: dict[str, Tensor] = field(default_factory=dict)  # by view, whether it is there; empty: all are

    def each(self, change: Callable[[Tensor], Tensor]) -> "SampleBatch":
        """The same with every tensor changed, as in taking some of the rows."""
        return replace(
            self,
            adapted={name: change(tensor) for name, tensor in self.adapted.items()},
            draws={name: change(tensor) for name, tensor in self.draws.items()},
            index=change(self.index),
            label=change(self.label),
            group=change(self.group),
            features={name: change(tensor) for name, tensor in self.features.items()},
            present={name: change(tensor) for name, tensor in self.present.items()},
        )

    def pin_memory(self) -> "SampleBatch":
        """The same in page-locked memory, for the loader."""
        return self.each(Tensor.pin_memory)

    def __reduce__(self) -> tuple[Any, ...]:
        """All tensors travel between processes as one: each costs a meeting with a worker that is busy decoding."""
        tensors = {
            (name, key): tensor
            for name, item in vars(self).items()
            for key, tensor in (item.items() if isinstance(item, dict) else [(None, item)])
            if isinstance(tensor, Tensor)
        }
        return _unpack, ([*tensors], self.replaced, *pack([*tensors.values()]))


def pack(tensors: Sequence[Tensor]) -> tuple[Tensor, list[tuple[torch.dtype, torch.Size]]]:
    """Several tensors' bytes as one tensor, and what they were."""
    rows = [tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors]
    padded = [F.pad(row, (0, -len(row) % 8)) for row in rows]  # whatever follows is aligned for any of them
    return torch.cat(padded), [(tensor.dtype, tensor.shape) for tensor in tensors]


def unpack(packed: Tensor, told: list[tuple[torch.dtype, torch.Size]]) -> list[Tensor]:
    """The tensors again; they share the one's memory."""
    found, start = [], 0
    for dtype, shape in told:
        size = shape.numel() * dtype.itemsize
        found.append(packed[start : start + size].view(dtype).view(shape))
        start += size + -size % 8
    return found


def _unpack(
    names: list[tuple[str, Any]], replaced: tuple[str, ...], packed: Tensor, told: list[tuple[torch.dtype, torch.Size]]
) -> SampleBatch:
    fields: dict[str, Any] = {"adapted": {}, "draws": {}, "replaced": replaced}
    for (name, key), tensor in zip(names, unpack(packed, told), strict=True):
        if key is None:
            fields[name] = tensor
        else:
            fields.setdefault(name, {})[key] = tensor
    return SampleBatch(**fields)


def open_view(shards: Shards, modality: str, *, aligned: bool = True, **options: object) -> View:
    """A view whose modality knows how the shards' bytes are stored.

    Raises:
        ShardError: the shards lack the field, hold another modality there (one that reads another field) or an unknown
            one, contradict an option about their bytes, or hold signals of which it would show hardly anything.
    """
    kind = MODALITIES.get(modality)
    spec = shards.manifest.fields.get(kind.field)
    if spec is None:
        raise ShardError(f"modality {modality!r} reads {kind.field!r}, but {shards.folder} has "
                         f"{', '.join(shards.manifest.fields)}")  # fmt: skip
    try:
        held = open_field(kind.field, spec)
    except ShardError as error:
        raise ShardError(f"{shards.folder / MANIFEST}: {error}") from error
    if held.field != kind.field:
        raise ShardError(
            f"modality {modality!r} reads {kind.field!r}, but {shards.folder} holds {spec.modality!r} there"
        )
    stored = {name: value for name, value in spec.stored.items() if name in kind.stored}
    for name, value in stored.items():
        if options.get(name, value) != value:
            raise ShardError(f"{name} must be {value}, as the manifest of {shards.folder} says, got {options[name]}")
    found = kind(**{**options, **stored})
    try:
        found.refuse_unseen(shards.manifest.statistics.get(kind.field, {}))
    except ValueError as error:
        raise ShardError(f"{kind.field} of {shards.folder}: {error}") from error
    return View(found, aligned)


def read_pair(
    shards: Shards,
    views: dict[str, View],
    index: int,
    *,
    crop: Crop | None = None,
    address: tuple[int, int] = (0, 0),
    epochs: int = 1,
    kept: Mapping[str, FeatureShards] = MappingProxyType({}),
    masks: bool = False,
) -> SampleBatch:
    """One pair as a part of one row, or of several: as `epochs` epochs see it; with its augmentation draws.

    `address` is (seed, epoch), of the first row; with it, the pair's key and the view's name decide every draw. Where
    `crop.windows` is set, windows of aligned views, and all draws of views that repeat, are those of the epoch's turn.
    Without a `crop` the whole sample is seen and nothing is drawn. What is `kept` of teachers, by their names, comes
    along, of the same windows. Where it `masks`, a view that the pair comes without is all 0 and not `present`.

    Raises:
        ShardError: the pair, or what is kept of it, cannot be read; names shard, key and field.
        UnevenError: with a `crop`, two aligned views have pictures of other proportions.
    """
    members = {name: shards.member(view.modality.field) for name, view in views.items()}
    absent = {member for member in members.values() if masks and shards.lacks(index, member)}
    key, payloads = shards.read(index, [*(member for member in dict.fromkeys(members.values()) if member not in absent),
                                        "json"])  # fmt: skip
    rows = [Draws(crop, address[0], epoch, key) for epoch in range(address[1], address[1] + epochs)]
    adapted, draws = {}, {}
    signals: dict[Modality, Tensor] = {}  # views that look at the same several times share it
    for name, view in views.items():
        if members[name] in absent:
            adapted[name] = torch.zeros(epochs, *view.modality.shape)
            if crop:
                draws[name] = torch.stack([view.modality.draw(row.generator(name, view)) for row in rows])
            continue
        try:
            if view.modality not in signals:
                signals[view.modality] = view.modality.decode(payloads[members[name]])
            signal = signals[view.modality]
            adapted[name] = torch.stack([view.modality.adapt(signal, row.window(name, view)) for row in rows])
        except Exception as error:  # a DecodeError, what cannot be adapted, or whatever a library raises of damage
            raise ShardError(f"{shards.locate(index)[0]}: pair {key!r}, {members[name]}: {error}") from error
        if crop:
            draws[name] = torch.stack([view.modality.draw(row.generator(name, view)) for row in rows])
    if crop and (uneven := _tell_uneven(views, signals)):
        raise UnevenError(
            f"{shards.locate(index)[0]}: pair {key!r}: aligned views need pictures of the same proportions: {uneven}; "
            "crop one of them before packing, or set aligned: false for one of the views"
        )
    facts = shards.parse(index, payloads["json"])
    group = _number_of(str(facts.get("group") or ""))
    ones = torch.ones(epochs, dtype=torch.int64)
    features: dict[tuple[str, str], Tensor] = {}
    for teacher, held in kept.items():
        told = [held.read(index, key, row.turn) for row in rows]
        features |= {(teacher, member): torch.cat([each[member] for each in told]) for member in told[0]}
    present = {name: ones.bool() & (member not in absent) for name, member in members.items()} if masks else {}
    return SampleBatch(
        adapted, draws, index * ones, facts["label"] * ones, group * ones, features=features, present=present
    )


def _tell_uneven(views: Mapping[str, View], signals: Mapping[Modality, Tensor]) -> str:
    aligned = {name: view.modality for name, view in views.items() if view.aligned and view.modality in signals}
    pictures = {name: Picture.of(modality, signals[modality]) for name, modality in aligned.items()}
    return tell_uneven({name: picture for name, picture in pictures.items() if picture})


def _number_of(group: str) -> int:
    """A number that stands for a group's name, -1 for none; two names share one with a chance of 2**-63."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest(), "little") >> 1 if group else -1


class PairStream(IterableDataset):
    """The parts of a training run from one step to another, of one rank, in each worker for its lanes."""

    def __init__(
        self,
        shards: Shards,
        views: dict[str, View],
        plan: Plan,
        *,
        crop: Crop,
        first_step: int = 0,
        last_step: int,
        rank: int = 0,
        ranks: int = 1,
        skip_unreadable: bool = False,
        kept: Mapping[str, FeatureShards] = MappingProxyType({}),
        masks: bool = False,
    ) -> None:
        if plan.width % ranks:
            fitting = [str(lanes) for lanes in range(ranks, plan.batch_size + 1, ranks) if plan.batch_size % lanes == 0]
            raise ValueError(
                f"batch_size {plan.batch_size} gives {plan.width} lanes, which {ranks} processes cannot share evenly; "
                + (f"set lanes: {' or '.join(fitting[:8])}" if fitting else f"take a batch_size that {ranks} divides")
            )
        if not (masks or skip_unreadable) and (told := tell_lacking(shards, views)):
            raise ValueError(f"on_error must be skip where pairs lack what is read, got stop: {told}")
        self.shards, self.views, self.plan, self.crop = shards, views, plan, crop
        self.first_step, self.last_step = first_step, last_step
        self.lanes = range(rank * plan.width // ranks, (rank + 1) * plan.width // ranks)
        self.skip_unreadable, self.kept, self.masks = skip_unreadable, dict(kept), masks

    def __iter__(self) -> Iterator[SampleBatch | ShardError]:
        worker = get_worker_info()
        lanes = np.array_split(self.lanes, worker.num_workers)[worker.id] if worker else np.array(self.lanes)
        try:
            for step in range(self.first_step, self.last_step):
                epoch, within = divmod(step, self.plan.steps)
                yield self._part(self.plan.epoch(epoch)[within, lanes].ravel().tolist(), epoch)
        except ShardError as error:
            yield error  # raised where the user can read it, not inside a worker's traceback

    def _part(self, indices: list[int], epoch: int) -> SampleBatch:
        return join([self._readable(index, epoch) for index in indices])

    def _readable(self, index: int, epoch: int) -> SampleBatch:
        """The pair at `index` or, if the user chose so, a readable one drawn from all pairs in its place."""
        address = (self.plan.seed, epoch)
        read = partial(read_pair, self.shards, self.views, crop=self.crop, address=address, kept=self.kept,
                       masks=self.masks)  # fmt: skip
        try:
            return read(index)
        except ShardError as error:
            if not self.skip_unreadable:
                raise ShardError(f"{error} (on_error: skip takes another pair, named and counted)") from error
            problem = str(error)
        for attempt in range(STAND_INS):
            # not the next pair: all pairs of a broken shard would fall on the one behind it
            drawn = torch.randint(len(self.shards), (), generator=generator(*address, index, attempt))
            try:
                return replace(read(int(drawn)), replaced=(problem,))
            except ShardError:
                continue
        raise ShardError(f"{problem}; nor is any of {STAND_INS} pairs readable that were drawn in its place")


def train_parts(
    stream: PairStream, *, workers: int = 0, pin_memory: bool = False
) -> Generator[SampleBatch, None, None]:
    """The rank's part of every step, in order, whatever the number of workers.

    Raises:
        ShardError: a pair cannot be read and `skip_unreadable` is off, or hardly any pair can.
        LoaderError: a worker process ended, or has no shared memory for what it read.
    """
    workers = min(workers, len(stream.lanes))
    pieces: list[SampleBatch] = []
    # workers take turns, so `workers` pieces in a row make one step
    for piece in load_in_order(stream, workers=workers, pin_memory=pin_memory, prefetch_factor=4 if workers else None):
        pieces.append(piece)
        if len(pieces) == max(workers, 1):
            yield join(pieces)
            pieces = []


def join(pieces: list[SampleBatch]) -> SampleBatch:
    """Several parts as one, in their order."""
    first = pieces[0]
    return SampleBatch(
        adapted={name: torch.cat([piece.adapted[name] for piece in pieces]) for name in first.adapted},
        draws={name: torch.cat([piece.draws[name] for piece in pieces]) for name in first.draws},
        index=torch.cat([piece.index for piece in pieces]),
        label=torch.cat([piece.label for piece in pieces]),
        group=torch.cat([piece.group for piece in pieces]),
        replaced=tuple(problem for piece in pieces for problem in piece.replaced),
        features={name: torch.cat([piece.features[name] for piece in pieces]) for name in first.features},
        present={name: torch.cat([piece.present[name] for piece in pieces]) for name in first.present},
    )


def to_batch(part: SampleBatch, views: dict[str, View], device: torch.device | str, *, seed: int = 0) -> Batch:
    """A part on the device: augmented by its draws (where it has any) and normalised."""
    part = part.each(lambda tensor: tensor.to(device, non_blocking=True))
    inputs = {}
    for name, view in views.items():
        inputs[name] = _prepare(view.modality, part.adapted[name], part.draws.get(name))
    members: dict[str, dict[str, Tensor]] = {}
    for (teacher, member), tensor in part.features.items():
        members.setdefault(teacher, {})[member] = tensor
    features = {teacher: put_together(found) for teacher, found in members.items()}
    return Batch(inputs, part.index, part.label, seed, part.group, features, part.present)


def _prepare(modality: Modality, adapted: Tensor, draws: Tensor | None) -> Tensor:
    """Augmented where there are draws, and normalised; piece by piece, for every row has its own draws."""
    if draws is None:
        return modality.normalise(adapted)
    held = AUGMENTED if adapted.device.type == "cpu" else WIDER * AUGMENTED
    rows = max(1, held // max(adapted[0].numel(), 1))
    whole: Tensor | None = None
    for start in range(0, len(adapted), rows):
        piece = slice(start, start + rows)
        found = modality.normalise(modality.augment(adapted[piece], draws[piece]))
        if len(found) == len(adapted):
            return found
        whole = found.new_empty(len(adapted), *found.shape[1:]) if whole is None else whole
        whole[piece] = found
    assert whole is not None
    return whole


class _Sweep(Dataset):
    """Whole samples by position, for evaluation: each pair once, no draws."""

    def __init__(self, shards: Shards, views: dict[str, View], batches: list[list[int]]) -> None:
        self.shards, self.views, self.batches = shards, views, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> SampleBatch | ShardError:
        try:
            return join([read_pair(self.shards, self.views, index) for index in self.batches[number]])
        except ShardError as error:
            return error


def sweep_parts(
    shards: Shards,
    views: dict[str, View],
    *,
    batch_size: int = 256,
    workers: int = 0,
    indices: list[int] | None = None,
) -> Iterator[SampleBatch]:
    """Every pair (or those at `indices`) once, whole and without augmentation, in order.

    Raises:
        ShardError: a pair cannot be read; where all are asked for, before any is.
    """
    if indices is None and (told := tell_lacking(shards, views)):
        raise ShardError(told)
    wanted = list(range(len(shards))) if indices is None else indices
    batches = [wanted[start : start + batch_size] for start in range(0, len(wanted), batch_size)]
    yield from load_in_order(_Sweep(shards, views, batches), workers=workers)
