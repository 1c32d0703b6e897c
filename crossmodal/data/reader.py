"""Shards -> batches: read in the planned order, decode, draw a crop, adapt, collate."""

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
from crossmodal.data.held_out import tell_without
from crossmodal.data.loader import load_in_order
from crossmodal.data.manifest import MANIFEST, ShardError, name_group, open_field
from crossmodal.data.order import Plan
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop, Draws, Picture, View, tell_uneven
from crossmodal.objectives import Batch
from crossmodal.stores.errors import StoreError
from modalities import MODALITIES, Modality
from modalities.common.random import generator

AUGMENTED = 1 << 20  # numbers to augment at once on a CPU, because augmentation takes several times their memory
WIDER = 16  # factor of `AUGMENTED` on other devices, which small operators leave idle
AHEAD = 256  # steps ahead of which the shards in a store are fetched into the cache
STAND_INS = 100  # tries to replace an unreadable pair; with nine in ten unreadable, 3 in 100,000 of these searches fail


class UnevenError(ShardError):
    """The pictures of a pair's aligned views have different proportions."""


@dataclass(frozen=True)
class SampleBatch:
    """The pairs that one worker reads from its lanes for one step."""

    adapted: dict[str, Tensor]
    draws: dict[str, Tensor]
    index: Tensor
    label: Tensor
    group: Tensor  # number of each pair's group, -1: no group
    replaced: tuple[str, ...] = ()  # a message for each unreadable pair that was replaced
    features: dict[tuple[str, str], Tensor] = field(default_factory=dict)  # cached, by teacher and member
    present: dict[str, Tensor] = field(default_factory=dict)  # view -> true for pairs that have it; empty: no gaps
    counted: int | None = None  # pairs with a label, once they are on another device, which would have to be waited for

    @property
    def labelled(self) -> int:
        """The number of pairs that have a label."""
        return int((self.label >= 0).sum()) if self.counted is None else self.counted

    def each(self, change: Callable[[Tensor], Tensor]) -> "SampleBatch":
        """A copy with `change` applied to every tensor, such as a selection of rows."""
        return replace(
            self,
            counted=None,
            adapted={name: change(tensor) for name, tensor in self.adapted.items()},
            draws={name: change(tensor) for name, tensor in self.draws.items()},
            index=change(self.index),
            label=change(self.label),
            group=change(self.group),
            features={name: change(tensor) for name, tensor in self.features.items()},
            present={name: change(tensor) for name, tensor in self.present.items()},
        )

    def pin_memory(self) -> "SampleBatch":
        """A copy in page-locked memory, for the loader."""
        return self.each(Tensor.pin_memory)

    def __reduce__(self) -> tuple[Any, ...]:
        """Sends all tensors between processes as one, because each transfer waits for the busy worker."""
        tensors = _tensors(self)
        return _unpack, ([*tensors], self.replaced, *pack([*tensors.values()]))

    def send(self, device: torch.device, copies: "torch.cuda.Stream | None" = None) -> "SampleBatch":
        """A copy on the device; with a stream `copies`, made beside the work that is queued, which follows it."""
        with torch.cuda.stream(copies):
            sent = replace(self.each(lambda tensor: tensor.to(device, non_blocking=True)), counted=self.labelled)
        if copies is not None:
            current = torch.cuda.current_stream(device)
            current.wait_stream(copies)
            for tensor in _tensors(sent).values():
                tensor.record_stream(current)  # or its memory is used again too early
        return sent


def _tensors(part: SampleBatch) -> dict[tuple[str, Any], Tensor]:
    """All tensors by their field, or by field and key."""
    return {
        (name, key): tensor
        for name, item in vars(part).items()
        for key, tensor in (item.items() if isinstance(item, dict) else [(None, item)])
        if isinstance(tensor, Tensor)
    }


def pack(tensors: Sequence[Tensor]) -> tuple[Tensor, list[tuple[torch.dtype, torch.Size]]]:
    """The bytes of several tensors as one tensor, and their types and shapes."""
    rows = [tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors]
    padded = [F.pad(row, (0, -len(row) % 8)) for row in rows]  # so that the next tensor is aligned for every type
    return torch.cat(padded), [(tensor.dtype, tensor.shape) for tensor in tensors]


def unpack(packed: Tensor, told: list[tuple[torch.dtype, torch.Size]]) -> list[Tensor]:
    """The inverse of `pack`; the tensors share the memory of `packed`."""
    tensors, start = [], 0
    for dtype, shape in told:
        size = shape.numel() * dtype.itemsize
        tensors.append(packed[start : start + size].view(dtype).view(shape))
        start += size + -size % 8
    return tensors


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
    """A view of a field of the shards, with the options of the stored bytes from the manifest.

    Raises:
        ShardError: the shards lack the field or have another or unknown modality there, an option contradicts the
            manifest, or the view would show almost nothing of the signals.
    """
    kind = MODALITIES.get(modality)
    spec = shards.manifest.fields.get(kind.field)
    if spec is None:
        raise ShardError(f"modality {modality!r} reads {kind.field!r}, but {shards.folder} has "
                         f"{', '.join(shards.manifest.fields)}")  # fmt: skip
    try:
        stored_as = open_field(kind.field, spec)
    except ShardError as error:
        raise ShardError(f"{shards.folder / MANIFEST}: {error}") from error
    if stored_as.field != kind.field:
        raise ShardError(f"modality {modality!r} reads {kind.field!r}, but {shards.folder} has {spec.modality!r} there")
    stored = {name: value for name, value in spec.stored.items() if name in kind.stored}
    for name, value in stored.items():
        if options.get(name, value) != value:
            raise ShardError(f"{name} must be {value}, as the manifest of {shards.folder} says, got {options[name]}")
    view = kind(**{**options, **stored})
    try:
        view.refuse_unseen(shards.manifest.statistics.get(kind.field, {}))
    except ValueError as error:
        raise ShardError(f"{kind.field} of {shards.folder}: {error}") from error
    return View(view, aligned)


def refuse_incomplete(shards: Shards, views: Mapping[str, View]) -> None:
    """Refuses shards in which a pair lacks a field of the views, by the manifest.

    Raises:
        ShardError: some pairs do.
    """
    if text := tell_without(shards, [view.modality.field for view in views.values()]):
        raise ShardError(f"{shards.folder} has {text}, of {len(shards)} pairs; leave them out with take_complete")


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
    """One pair with its augmentation draws, as a row for each of `epochs` epochs.

    `address` is (seed, epoch) of the first row; together with the pair's key and the view's name it determines every
    draw. If `crop.windows` is set, the crops of aligned views, and all draws of views that repeat, are those of
    `crop.turn(epoch)`. Without a `crop`, the whole sample is used and nothing is drawn. `kept` has the cached features
    of teachers by name; those of the same crops are added. With `masks`, a view that the pair lacks holds `nothing`
    and is not `present`.

    Raises:
        ShardError: the pair or its cached features cannot be read; the message names shard, key and field.
        UnevenError: there is a `crop`, and the pictures of two aligned views have different proportions.
    """
    members = {name: shards.member(view.modality.field) for name, view in views.items()}
    absent = {member for member in members.values() if masks and shards.lacks(index, member)}
    known = shards.locate(index)[1]  # of a shard with an index that has labels and groups
    wanted = [member for member in dict.fromkeys(members.values()) if member not in absent]
    key, payloads = shards.read(index, wanted if known.label is not None else [*wanted, "json"])
    rows = [Draws(crop, address[0], epoch, key) for epoch in range(address[1], address[1] + epochs)]
    adapted, draws = {}, {}
    signals: dict[Modality, Tensor] = {}  # shared by views of the same modality
    for name, view in views.items():
        if members[name] in absent:
            adapted[name] = torch.full((epochs, *view.modality.shape), view.modality.nothing)
            if crop:
                draws[name] = torch.stack([view.modality.draw(row.generator(name, view)) for row in rows])
            continue
        try:
            if view.modality not in signals:
                signals[view.modality] = view.modality.decode(payloads[members[name]])
            signal = signals[view.modality]
            adapted[name] = torch.stack([view.modality.adapt(signal, row.window(name, view)) for row in rows])
        except Exception as error:  # a DecodeError, an error of adapt, or any error of a library
            raise ShardError(f"{shards.locate(index)[0]}: pair {key!r}, {members[name]}: {error}") from error
        if crop:
            draws[name] = torch.stack([view.modality.draw(row.generator(name, view)) for row in rows])
    if crop and (uneven := _tell_uneven(views, signals)):
        raise UnevenError(
            f"{shards.locate(index)[0]}: pair {key!r}: aligned views need pictures of the same proportions: {uneven}; "
            "crop one of them before packing, or set aligned: false for one of the views"
        )
    if (label := known.label) is None:
        facts = shards.parse(index, payloads["json"])
        known, label = replace(known, group=name_group(facts.get("group"))), facts["label"]
    ones, group = torch.ones(epochs, dtype=torch.int64), _number_of(known.group)
    features: dict[tuple[str, str], Tensor] = {}
    for teacher, cache in kept.items():
        read = [cache.read(index, key, row.turn) for row in rows]
        features |= {(teacher, member): torch.cat([each[member] for each in read]) for member in read[0]}
    present = {name: ones.bool() & (member not in absent) for name, member in members.items()} if masks else {}
    return SampleBatch(adapted, draws, index * ones, label * ones, group * ones, features=features, present=present)


def _tell_uneven(views: Mapping[str, View], signals: Mapping[Modality, Tensor]) -> str:
    aligned = {name: view.modality for name, view in views.items() if view.aligned and view.modality in signals}
    pictures = {name: Picture.of(modality, signals[modality]) for name, modality in aligned.items()}
    return tell_uneven({name: picture for name, picture in pictures.items() if picture})


def _number_of(group: str) -> int:
    """A hash of a group's name, -1 for none; two names share one with a probability of 2**-63."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest(), "little") >> 1 if group else -1


class PairStream(IterableDataset):
    """The batches of one rank from one training step to another; each worker reads some of the rank's lanes."""

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
                + (f"set lanes: {' or '.join(fitting[:8])}" if fitting else f"use a batch_size that {ranks} divides")
            )
        if not masks:
            refuse_incomplete(shards, views)
        self.shards, self.views, self.plan, self.crop = shards, views, plan, crop
        self.first_step, self.last_step = first_step, last_step
        self.lanes = range(rank * plan.width // ranks, (rank + 1) * plan.width // ranks)
        self.skip_unreadable, self.kept, self.masks = skip_unreadable, dict(kept), masks

    def __iter__(self) -> Iterator[SampleBatch | ShardError | StoreError]:
        worker = get_worker_info()
        lanes = np.array_split(self.lanes, worker.num_workers)[worker.id] if worker else np.array(self.lanes)
        try:
            for step in range(self.first_step, self.last_step):
                epoch, within = divmod(step, self.plan.steps)
                indices = self.plan.epoch(epoch)[within, lanes].ravel().tolist()
                if self.shards.is_remote or any(cached.shards.is_remote for cached in self.kept.values()):
                    later = self._later(step, lanes)
                    self.shards.read_ahead(indices, self._members, later)
                    for cached in self.kept.values():
                        cached.read_ahead(indices, later)
                yield self._part(indices, epoch)
        except (ShardError, StoreError) as error:
            yield error  # the main process raises it, without a worker's traceback

    @property
    def _members(self) -> list[str]:
        return [*dict.fromkeys(self.shards.member(view.modality.field) for view in self.views.values())]

    def _later(self, step: int, lanes: np.ndarray) -> list[int]:
        """Pairs that these lanes read `AHEAD` steps later."""
        if step + AHEAD >= self.last_step:
            return []
        epoch, within = divmod(step + AHEAD, self.plan.steps)
        return self.plan.epoch(epoch)[within, lanes].ravel().tolist()

    def _part(self, indices: list[int], epoch: int) -> SampleBatch:
        part = join([self._readable(index, epoch) for index in indices])
        views = self.views
        return replace(
            part, adapted={name: _compact(views[name].modality, each) for name, each in part.adapted.items()}
        )

    def _readable(self, index: int, epoch: int) -> SampleBatch:
        """The pair at `index`, or with `skip_unreadable` a random readable pair in its place."""
        address = (self.plan.seed, epoch)
        read = partial(read_pair, self.shards, self.views, crop=self.crop, address=address, kept=self.kept,
                       masks=self.masks)  # fmt: skip
        try:
            return read(index)
        except ShardError as error:
            if not self.skip_unreadable:
                raise ShardError(f"{error} (on_error: skip uses another pair, and reports and counts it)") from error
            problem = str(error)
        for attempt in range(STAND_INS):
            # not the next pair, which would replace every pair of a broken shard before it
            drawn = torch.randint(len(self.shards), (), generator=generator(*address, index, attempt))
            try:
                return replace(read(int(drawn)), replaced=(problem,))
            except ShardError:
                continue
        raise ShardError(f"{problem}; {STAND_INS} pairs drawn in its place are unreadable too")


def train_parts(
    stream: PairStream, *, workers: int = 0, device: torch.device | str = "cpu"
) -> Generator[SampleBatch, None, None]:
    """The rank's batch of every step, in order, on the device; the same for any number of workers.

    To a GPU, each worker's piece is copied from page-locked memory while the GPU computes the steps before.

    Raises:
        ShardError: a pair cannot be read and `skip_unreadable` is off, or hardly any pair can be read.
        LoaderError: a worker process ended, or has no shared memory for its data.
    """
    workers = min(workers, len(stream.lanes))
    pieces: list[SampleBatch] = []
    device = torch.device(device)
    cuda = device.type == "cuda"
    copies = torch.cuda.Stream(device) if cuda else None
    # workers take turns, so `workers` consecutive pieces are one step
    for piece in load_in_order(stream, workers=workers, pin_memory=cuda, prefetch_factor=4 if workers else None):
        pieces.append(piece if device.type == "cpu" else piece.send(device, copies))
        if len(pieces) == max(workers, 1):
            yield join(pieces)
            pieces = []


def join(pieces: list[SampleBatch]) -> SampleBatch:
    """The concatenation of several pieces, in order."""
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
        counted=None if first.counted is None else sum(piece.labelled for piece in pieces),
    )


def to_batch(part: SampleBatch, views: dict[str, View], device: torch.device | str, *, seed: int = 0) -> Batch:
    """The batch on the device, augmented with its draws (if any) and normalised."""
    part = part.each(lambda tensor: tensor.to(device, non_blocking=True))
    inputs = {}
    for name, view in views.items():
        inputs[name] = _prepare(view.modality, part.adapted[name], part.draws.get(name))
    members: dict[str, dict[str, Tensor]] = {}
    for (teacher, member), tensor in part.features.items():
        members.setdefault(teacher, {})[member] = tensor
    features = {teacher: put_together(each) for teacher, each in members.items()}
    return Batch(inputs, part.index, part.label, seed, part.group, features, part.present)


def _compact(modality: Modality, adapted: Tensor) -> Tensor:
    """Samples in bytes, where the modality's values fit into them, for their way to the device."""
    return adapted.mul(255).round_().byte() if modality.bits == 8 else adapted


def _prepare(modality: Modality, adapted: Tensor, draws: Tensor | None) -> Tensor:
    """Augments (if there are draws) and normalises; in pieces, which is the same because each row has its own draws."""
    if adapted.dtype == torch.uint8:
        adapted = adapted.float().div_(255)  # the values before `_compact`
    if draws is None:
        return modality.normalise(adapted)
    limit = AUGMENTED if adapted.device.type == "cpu" else WIDER * AUGMENTED
    rows = max(1, limit // max(adapted[0].numel(), 1))
    whole: Tensor | None = None
    for start in range(0, len(adapted), rows):
        piece = slice(start, start + rows)
        prepared = modality.normalise(modality.augment(adapted[piece], draws[piece]))
        if len(prepared) == len(adapted):
            return prepared
        whole = prepared.new_empty(len(adapted), *prepared.shape[1:]) if whole is None else whole
        whole[piece] = prepared
    assert whole is not None
    return whole


class _Sweep(Dataset):
    """Whole samples by position, for evaluation: each pair once, without random draws."""

    def __init__(self, shards: Shards, views: dict[str, View], batches: list[list[int]]) -> None:
        self.shards, self.views, self.batches = shards, views, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> SampleBatch | ShardError | StoreError:
        try:
            if self.shards.is_remote:
                members = [self.shards.member(view.modality.field) for view in self.views.values()]
                self.shards.read_ahead(self.batches[number], [*dict.fromkeys(members)])
            return join([read_pair(self.shards, self.views, index) for index in self.batches[number]])
        except (ShardError, StoreError) as error:
            return error


def sweep_parts(
    shards: Shards,
    views: dict[str, View],
    *,
    batch_size: int = 256,
    workers: int = 0,
    indices: list[int] | None = None,
) -> Iterator[SampleBatch]:
    """Every pair (or those at `indices`) once, in order, whole and without augmentation.

    Raises:
        ShardError: a pair cannot be read; if `indices` is None, pairs that lack fields are an error before the first.
    """
    if indices is None:
        refuse_incomplete(shards, views)
    wanted = list(range(len(shards))) if indices is None else indices
    batches = [wanted[start : start + batch_size] for start in range(0, len(wanted), batch_size)]
    yield from load_in_order(_Sweep(shards, views, batches), workers=workers)
