"""Subsets of the pairs: a share held out for validation, those with all views, a long-tailed distribution, or any."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from crossmodal.data.manifest import ShardError, list_groups
from crossmodal.data.shards import Shards
from crossmodal.data.splits import take_share
from modalities.common.random import generator


def hold_out(shards: Shards, share: float, seed: int = 0) -> tuple[Shards, Shards]:
    """The pairs to train on, and those held out; both read the same files, and nothing is copied.

    `crossmodal.data.splits.take_share` selects the pairs: whole groups, or runs of consecutive pairs if there are no
    groups. The selection depends only on the pairs and on `seed`.

    Raises:
        ShardError: one side would be empty, or a pair cannot be read.
    """
    groups = shards.groups()
    chosen = np.zeros(len(shards), dtype=bool)
    chosen[take_share(shards.labels().numpy(), groups, share, seed=seed)] = True
    if chosen.all() or not chosen.any():
        what = "all" if chosen.all() else "none"
        whole = f" in {len(set(groups))} groups, which are never divided" if any(groups) else ""
        raise ShardError(f"a share of {share:g} holds out {what} of the {len(shards)} pairs of {shards.folder}{whole}; "
                         "set another share")  # fmt: skip
    return _take(shards, np.flatnonzero(~chosen)), _take(shards, np.flatnonzero(chosen))


def take_complete(shards: Shards, fields: Iterable[str]) -> Shards:
    """The pairs that lack none of the fields, in order; both read the same files, and nothing is copied.

    The selection depends only on the pairs. A pair of a shard that cannot be read stays in, for its reader to report.

    Raises:
        ShardError: no pair has all the fields, or there is no such field.
    """
    members = [shards.member(name) for name in dict.fromkeys(fields) if name in shards.manifest.lacking]
    if not members:
        return shards
    chosen = ~np.logical_or.reduce([shards.without(name, strict=False) for name in members])
    if not chosen.any():
        raise ShardError(f"none of the {len(shards)} pairs of {shards.folder} has all views that are needed: "
                         f"{tell_without(shards, fields)}; pack them again with the files")  # fmt: skip
    return _take(shards, np.flatnonzero(chosen), strict=False)


def tell_without(shards: Shards, fields: Iterable[str]) -> str:
    """How many pairs are without each of the fields that some lack: "7 without depth and 2 without rgb"."""
    counts = {name: shards.manifest.lacking.get(name, 0) for name in dict.fromkeys(fields)}
    return " and ".join(f"{count} without {name}" for name, count in counts.items() if count)


def thin_out(shards: Shards, keep: Literal["linear", "exponential"], seed: int = 0) -> Shards:
    """Keeps (i + 1) / C or exp(i + 1 - C) of the pairs of class i of C, from 0, and all unlabelled pairs.

    Source of both formulas: Zheng et al. 2023, https://arxiv.org/abs/2105.03746, section 4.2, and its code.

    Raises:
        ShardError: there are no classes, or a pair cannot be read.
    """
    count = len(shards.manifest.classes)
    if not count:
        raise ShardError(f"{shards.folder} has no classes to keep shares of")
    labels = shards.labels()
    stays = labels < 0
    for label in range(count):
        members = (labels == label).nonzero()[:, 0]
        share = (label + 1) / count if keep == "linear" else math.exp(label + 1 - count)
        order = torch.randperm(len(members), generator=generator(seed, "thin out", label))
        stays[members[order[: round(share * len(members))]]] = True
    return _take(shards, np.flatnonzero(stays.numpy()))


def take_pairs(shards: Shards, chosen: Sequence[int]) -> Shards:
    """Some of the pairs, at ascending positions; they read the same files, and nothing is copied.

    Raises:
        ShardError: a pair cannot be read.
    """
    return _take(shards, np.array(chosen, dtype=np.int64))


def _take(shards: Shards, chosen: np.ndarray, *, strict: bool = True) -> Shards:
    """The chosen pairs as shards, with new counts; without `strict`, unreadable pairs count as unlabelled."""
    kind = np.int32 if len(shards) < 1 << 31 else np.int64  # a list of ten million positions stays small
    places = chosen.astype(kind) if shards.places is None else shards.places[chosen]
    taken = Shards(shards.folder, replace(shards.manifest, pairs=len(chosen)), places)
    labels, groups = taken.labels(strict=strict), Counter(taken.groups(strict=strict))
    counts = torch.bincount(labels[labels >= 0], minlength=len(shards.manifest.classes)).tolist()
    listed, unlisted = list_groups(groups)
    missing = {name: int(taken.without(shards.member(name), strict=False).sum()) for name in shards.manifest.lacking}
    manifest = replace(
        taken.manifest,
        labels={name: counts[label] for label, name in enumerate(shards.manifest.classes) if counts[label]},
        groups=listed,
        unlisted_groups=unlisted,
        lacking={name: count for name, count in missing.items() if count},
    )
    return Shards(shards.folder, manifest, places)
