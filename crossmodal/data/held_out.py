"""Parts of the pairs: a share held out of training, to choose settings by; and a long tail of rare classes."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from crossmodal.data.manifest import ShardError
from crossmodal.data.shards import Shards
from crossmodal.data.splits import take_share
from modalities.common.random import generator


def hold_out(shards: Shards, share: float, seed: int = 0) -> tuple[Shards, Shards]:
    """The pairs to learn from, and those held out; nothing is copied, both parts read the same files.

    `crossmodal.data.splits.take_share` says which pairs: whole groups, or runs of consecutive pairs where there are no
    groups. What is drawn depends on the pairs and on `seed` alone.

    Raises:
        ShardError: one part would be empty, or a pair cannot be read.
    """
    told = [shards.facts(index) for index in range(len(shards))]
    groups = [str(facts.get("group") or "") for facts in told]
    held = np.zeros(len(told), dtype=bool)
    held[take_share([facts["label"] for facts in told], groups, share, seed=seed)] = True
    if held.all() or not held.any():
        what = "all" if held.all() else "none"
        whole = f" in {len(set(groups))} groups, which stay whole" if any(groups) else ""
        raise ShardError(f"a share of {share:g} holds out {what} of the {len(told)} pairs of {shards.folder}{whole}; "
                         "ask for another share")  # fmt: skip
    return _take(shards, told, np.flatnonzero(~held)), _take(shards, told, np.flatnonzero(held))


def thin_out(shards: Shards, keep: Literal["linear", "exponential"], seed: int = 0) -> Shards:
    """Class i of C, from 0, keeps a share of its pairs: (i + 1) / C, or exp(i + 1 - C); pairs without a class all stay.

    Source of both: Zheng et al. 2023, https://arxiv.org/abs/2105.03746, section 4.2, and its code.

    Raises:
        ShardError: there are no classes, or a pair cannot be read.
    """
    count = len(shards.manifest.classes)
    if not count:
        raise ShardError(f"{shards.folder} has no classes of which to keep shares")
    told = [shards.facts(index) for index in range(len(shards))]
    labels = torch.tensor([facts["label"] for facts in told])
    stays = labels < 0
    for label in range(count):
        members = (labels == label).nonzero()[:, 0]
        share = (label + 1) / count if keep == "linear" else math.exp(label + 1 - count)
        order = torch.randperm(len(members), generator=generator(seed, "thin out", label))
        stays[members[order[: round(share * len(members))]]] = True
    return _take(shards, told, np.flatnonzero(stays.numpy()))


def _take(shards: Shards, told: list[dict[str, Any]], chosen: np.ndarray) -> Shards:
    """Some of the pairs as shards of their own, counted anew."""
    counts = Counter(told[index]["label"] for index in chosen)
    labels = {name: counts[label] for label, name in enumerate(shards.manifest.classes) if counts[label]}
    groups = Counter(str(told[index]["group"]) for index in chosen if told[index].get("group"))
    manifest = replace(shards.manifest, pairs=len(chosen), labels=labels, groups=dict(sorted(groups.items())))
    return Shards(shards.folder, manifest, chosen if shards.places is None else shards.places[chosen])
