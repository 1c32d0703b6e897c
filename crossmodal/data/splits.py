"""Which pairs a share takes: whole groups, some of every class, and no near copies on both sides."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from modalities.common.random import generator


def take_share(
    labels: Sequence[int], groups: Sequence[str], share: float, *, seed: int, at_end: bool = False
) -> list[int]:
    """Positions of the pairs that a share takes, in no order.

    Pairs of one group stay together. Groups pass in random order, class after class, and a group is taken where that
    brings the number of taken pairs nearer to the share of those that have passed.

    Pairs without a group may be the frames of a video, where neighbours are near copies. So each class gives one run of
    consecutive pairs, at a random place or the last ones with `at_end`. It keeps at least one pair, and gives at least
    one if it has two and the share is at least half a pair. Where no pair has a label, all of them are one class.

    Args:
        labels: class of each pair; -1 where there is none.
        groups: group of each pair, such as a recording; empty where there is none.
        share: of the pairs, above 0 and below 1.
        seed: decides every draw, together with the pairs.
        at_end: whether the run of a class is its last pairs.
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
    """A sentence for the classes that only one of two parts has, with their numbers of pairs; none if there are none.

    Args:
        learn: pairs of each class in the part that is learnt from.
        judge: pairs of each class in the part that judges.
        trained: what the message calls the first part.
        judged: what the message calls the second part.
    """
    said: list[str] = []
    if not (any(learn.values()) and any(judge.values())):
        return said
    if unknown := [f"{name} ({count} pairs)" for name, count in judge.items() if count and not learn.get(name)]:
        said.append(f"{trained} has no pair of these classes of {judged}, so no answer to them is right: "
                    f"{_some(unknown)}")  # fmt: skip
    if missing := [f"{name} ({count} pairs)" for name, count in learn.items() if count and not judge.get(name)]:
        left = sum(map(bool, judge.values()))
        said.append(f"{judged} has no pair of these classes of {trained}: {_some(missing)}; it judges {left} of "
                    f"{left + len(missing)} classes")  # fmt: skip
    return said


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
