"""Selection of a share of pairs: whole groups, some of every class, and near copies on one side only."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from modalities.common.random import generator


def take_share(
    labels: Sequence[int] | np.ndarray, groups: Sequence[str], share: float, *, seed: int, at_end: bool = False
) -> list[int]:
    """Positions of the pairs selected for a share, in no particular order.

    Pairs of one group stay together. Groups are visited in random order, class by class; a group is selected if that
    brings the number of selected pairs nearer to the share of the visited ones.

    Pairs without a group may be frames of a video, whose neighbours are near copies. So one run of consecutive pairs is
    selected from each class: at a random position, or its last pairs with `at_end`. Each class keeps at least one pair,
    and gives at least one if it has two and the share is at least half a pair. Unlabelled pairs form one class.

    Args:
        labels: class of each pair; -1: unlabelled.
        groups: group of each pair, such as a recording; empty: no group.
        share: fraction of the pairs, above 0 and below 1.
        seed: determines every draw, together with the pairs.
        at_end: select the last pairs of each class instead of a random run.
    """
    assert len(labels) == len(groups)
    kinds, numbers = np.asarray(labels), dict[str, int]()
    named = np.fromiter((numbers.setdefault(group, len(numbers)) if group else -1 for group in groups), np.int32,
                        len(groups))  # fmt: skip
    random = generator(seed, "held out")
    taken = _take_groups(_parted(np.flatnonzero(named >= 0), named), kinds, share, random)
    passed, single = 0, 0
    alone = np.flatnonzero(named < 0)
    least = min(round(share * len(alone)), 1)
    for members in _parted(alone, kinds):
        passed += len(members)
        count = min(max(round(share * passed) - single, least), len(members) - 1)
        single += count
        latest = len(members) - count
        start = latest if at_end else int(torch.randint(latest + 1, (), generator=random))
        taken += members[start : start + count].tolist()
    return taken


def _parted(places: np.ndarray, keys: np.ndarray) -> list[np.ndarray]:
    """The places of each key, ascending, in the order of the keys."""
    order = np.argsort(keys[places], kind="stable")
    values, starts = np.unique(keys[places][order], return_index=True)
    return np.split(places[order], starts[1:]) if len(values) else []


def _take_groups(units: list[np.ndarray], labels: np.ndarray, share: float, random: torch.Generator) -> list[int]:
    shuffled = [units[place] for place in torch.randperm(len(units), generator=random).tolist()]
    passed, taken = 0, list[int]()
    for unit in sorted(shuffled, key=lambda unit: Counter(labels[unit].tolist()).most_common(1)[0][0]):
        passed += len(unit)
        if share * passed - len(taken) >= len(unit) / 2:
            taken += unit.tolist()
    return taken


def absent_classes(learn: Mapping[str, int], judge: Mapping[str, int], *, trained: str, judged: str) -> list[str]:
    """A sentence for the classes that only one of two splits has, with their numbers of pairs; empty if none.

    Args:
        learn: number of pairs of each class in the training split.
        judge: number of pairs of each class in the evaluation split.
        trained: name of the training split in the message.
        judged: name of the evaluation split in the message.
    """
    messages: list[str] = []
    if not (any(learn.values()) and any(judge.values())):
        return messages
    if unknown := [f"{name} ({count} pairs)" for name, count in judge.items() if count and not learn.get(name)]:
        messages.append(f"{trained} has no pair of these classes of {judged}, so no prediction of them is right: "
                    f"{_some(unknown)}")  # fmt: skip
    if missing := [f"{name} ({count} pairs)" for name, count in learn.items() if count and not judge.get(name)]:
        left = sum(map(bool, judge.values()))
        messages.append(f"{judged} has no pair of these classes of {trained}: {_some(missing)}; it evaluates {left} of "
                    f"{left + len(missing)} classes")  # fmt: skip
    return messages


UNBALANCED = 3  # times the pairs of the smallest class that the largest may have before it is told


def unbalanced_classes(counts: Mapping[str, int], where: str) -> list[str]:
    """A sentence if the largest class has more than `UNBALANCED` times the pairs of the smallest; empty if not.

    Args:
        counts: number of labelled pairs of each class; classes without any do not count.
        where: the pairs in the message.
    """
    present = {name: count for name, count in counts.items() if count}
    if not present:
        return []
    largest, smallest = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
    most, least = present[largest], present[smallest]
    if most <= UNBALANCED * least:
        return []
    return [f"{where} has unbalanced classes: {largest!r} has {most} pairs, {most / least:.3g} times the {least} of "
            f"{smallest!r}; balanced figures count every class alike"]  # fmt: skip


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
