"""Selection of a share of pairs: whole groups, some of every class, and near copies on one side only."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from modalities.common.random import generator


def take_share(
    labels: Sequence[int], groups: Sequence[str], share: float, *, seed: int, at_end: bool = False
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
    units: dict[str, list[int]] = {}
    runs: dict[int, list[int]] = {}
    for index, (label, group) in enumerate(zip(labels, groups, strict=True)):
        if group:
            units.setdefault(group, []).append(index)
        else:
            runs.setdefault(label, []).append(index)
    random = generator(seed, "held out")
    taken = _take_groups(list(units.values()), labels, share, random)
    passed, single = 0, 0
    least = min(round(share * sum(map(len, runs.values()))), 1)
    for _, members in sorted(runs.items()):
        passed += len(members)
        count = min(max(round(share * passed) - single, least), len(members) - 1)
        single += count
        latest = len(members) - count
        start = latest if at_end else int(torch.randint(latest + 1, (), generator=random))
        taken += members[start : start + count]
    return taken


def _take_groups(units: list[list[int]], labels: Sequence[int], share: float, random: torch.Generator) -> list[int]:
    shuffled = [units[place] for place in torch.randperm(len(units), generator=random).tolist()]
    passed, taken = 0, list[int]()
    for unit in sorted(shuffled, key=lambda unit: Counter(labels[index] for index in unit).most_common(1)[0][0]):
        passed += len(unit)
        if share * passed - len(taken) >= len(unit) / 2:
            taken += unit
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
