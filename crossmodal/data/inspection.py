"""The check of every pair before it is packed: its members decode, belong together, and count in the statistics."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from crossmodal.data.manifest import ShardError
from crossmodal.data.moments import ClassShares, Moments, moments_of
from crossmodal.data.views import Picture, tell_turned, tell_uneven
from crossmodal.sources import Pair
from modalities import DecodeError, Modality


class Inspector:
    """Checks pairs, and counts what the manifest says about the pairs of a shard."""

    def __init__(self, fields: dict[str, Modality], partial: bool) -> None:
        self.fields, self.partial = fields, partial
        self.extensions: set[str] = set()
        self.damaged: list[str] = []  # members that do not decode
        self.begin()

    def begin(self) -> None:
        """Begins the counts of another shard."""
        self.statistics: dict[str, Moments | ClassShares] = {
            name: moments_of(modality) for name, modality in self.fields.items()
        }
        self.uneven: Counter[str] = Counter()  # number of pairs with pictures of different proportions
        self.idle = dict(_without_options(self.fields))  # options that have changed no signal yet

    def add(self, pair: Pair) -> None:
        """Decodes the members of a pair and adds them to the counts.

        Raises:
            ShardError: it lacks a field, or a member has an extension that no such file or no pair before has.
        """
        present = {name.split(".")[0]: name for name in pair.members}
        pictures: dict[str, Picture] = {}
        for name, modality in self.fields.items():
            if name not in present and self.partial and present.keys() & self.fields.keys():
                continue
            if name not in present:
                raise ShardError(f"pair {pair.key!r} has no {name!r}; it has {', '.join(sorted(present))}")
            extension = present[name].split(".")[1]
            if extension not in modality.extensions:
                raise ShardError(
                    f"pair {pair.key!r}: {name} must be one of {', '.join(modality.extensions)}, got {extension!r}"
                )
            try:
                signal = modality.decode(payload := pair.members[present[name]])
                self.statistics[name].add(signal)
                if picture := Picture.of(modality, signal, payload):
                    pictures[name] = picture
                for key, other in [*self.idle.items()]:
                    if key[0] == name and _differs(other, payload, signal):
                        del self.idle[key]
            except DecodeError as error:
                place = f" ({pair.paths[present[name]]})" if present[name] in pair.paths else ""
                self.damaged.append(f"pair {pair.key!r}, field {present[name]}{place}: {error}")
        if message := tell_turned(pictures):
            self.damaged.append(f"{_place_of(pair, pictures, present)}: {message}")
        if message := self._tell_unlike(pictures):
            self.damaged.append(f"{_place_of(pair, pictures, present)}: {message}")
        elif message := tell_uneven(pictures):
            # the first is named, the others are counted
            self.uneven[next(iter(self.uneven), f"pair {pair.key!r}: {message}")] += 1
        self.extensions |= set(pair.members)
        if len({name.split(".")[0] for name in self.extensions}) != len(self.extensions):
            raise ShardError(
                f"pair {pair.key!r}: a field must have one extension in all pairs, got {sorted(self.extensions)}"
            )

    def _tell_unlike(self, pictures: Mapping[str, Picture]) -> str:
        """A clause about the first label map whose proportions differ from another picture's; empty if there is none.

        Other pictures may be packed so, for views that are not aligned; labels are always of the same pixels.
        """
        pairs = combinations(pictures.items(), 2)
        labelled = (dict(pair) for pair in pairs if any(self.fields[name].classes for name, _ in pair))
        return next(filter(None, map(tell_uneven, labelled)), "")


def _without_options(fields: dict[str, Modality]) -> Iterator[tuple[tuple[str, str], Modality]]:
    """For each field and number among the options of its stored bytes that is set: the modality with the default."""
    for name, modality in fields.items():
        for option in modality.stored:
            value = getattr(modality, option)
            default = getattr(type(modality), option, value)
            if value != default and isinstance(value, int | float):
                yield (name, option), replace(modality, **{option: default})  # type: ignore[type-var]


def _differs(modality: Modality, payload: bytes, signal: Tensor) -> bool:
    try:
        return not torch.allclose(modality.decode(payload), signal, rtol=0, atol=0, equal_nan=True)
    except DecodeError:
        return True


def _place_of(pair: Pair, names: Iterable[str], members: Mapping[str, str]) -> str:
    """A pair with the files of some of its fields, if they are known, for messages."""
    places = ", ".join(pair.paths[members[name]] for name in names if members[name] in pair.paths)
    return f"pair {pair.key!r}{f' ({places})' if places else ''}"
