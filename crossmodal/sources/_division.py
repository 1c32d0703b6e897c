"""Pairs into parts: as their paths say, by whole groups, or the last share of them."""

from collections import Counter
from collections.abc import Sequence

from crossmodal.sources._base import SourceError
from crossmodal.sources._listing import Entry
from modalities._catalogue import suggest


def divide(entries: list[Entry], *, test_share: float, test_groups: Sequence[str]) -> dict[str, list[Entry]]:
    """The parts, "train" first, each in the order of `entries`.

    A share is never drawn at random: neighbouring frames of a video are near copies, and a test set between them
    would measure memory. With groups, whole groups from the last on are taken until they reach the share.

    Raises:
        SourceError: the options ask for what the pairs do not have, or leave a part or a class without training pairs.
    """
    if "split" in entries[0].values:
        if test_share or test_groups:
            asked = "test_share" if test_share else "test_groups"
            raise SourceError(f"{asked}: the files give a split already ({{split}}, or a column); take one of them out")
        parts = _by_split(entries)
        _check_classes(parts, "the split")
        return parts
    if not test_share and not test_groups:
        return {"train": entries}
    has_groups = "group" in entries[0].values
    if test_groups or has_groups:
        chosen = _named(entries, test_groups, has_groups=has_groups) if test_groups else _last(entries, test_share)
        parts = {"train": [entry for entry in entries if entry.values["group"] not in chosen]}
        parts["test"] = [entry for entry in entries if entry.values["group"] in chosen]
    else:
        cut = len(entries) - round(len(entries) * test_share)
        parts = {"train": entries[:cut], "test": entries[cut:]}
    _check(parts, f"test_share {test_share}" if test_share else f"test_groups {', '.join(test_groups)}")
    return parts


def _by_split(entries: list[Entry]) -> dict[str, list[Entry]]:
    names = sorted({entry.values["split"] for entry in entries}, key=lambda name: (name != "train", name))
    return {name: [entry for entry in entries if entry.values["split"] == name] for name in names}


def _named(entries: list[Entry], test_groups: Sequence[str], *, has_groups: bool) -> set[str]:
    known = list(dict.fromkeys(entry.values["group"] for entry in entries)) if has_groups else []
    for name in test_groups:
        if name not in known:
            there = suggest(name, known) if known else "; the pairs have no {group}, and no such column"
            raise SourceError(f"test_groups: group {name!r} is not known{there}")
    return set(test_groups)


def _last(entries: list[Entry], test_share: float) -> set[str]:
    chosen: set[str] = set()
    counts, taken = Counter(entry.values["group"] for entry in entries), 0
    for name in reversed(counts):
        if taken >= test_share * len(entries):
            break
        chosen.add(name)
        taken += counts[name]
    return chosen


def _check(parts: dict[str, list[Entry]], asked: str) -> None:
    for name, part in parts.items():
        if not part:
            total = sum(len(part) for part in parts.values())
            raise SourceError(
                f"{asked} leaves no pairs for {name!r}, of {total}; ask for another share or other groups"
            )
    _check_classes(parts, asked)


def _check_classes(parts: dict[str, list[Entry]], asked: str) -> None:
    counts = {name: Counter(entry.values.get("label", "") for entry in part) for name, part in parts.items()}
    trained = counts.get("train", Counter()).keys() - {""}
    for name, labels in counts.items():
        unseen = sorted(labels.keys() - trained - {""})
        if unseen and trained:  # where nothing is learnt from labels, those of another part may still judge
            more = f", nor {len(unseen) - 1} more classes" if unseen[1:] else ""
            raise SourceError(
                f"{asked} leaves class {unseen[0]!r} without training pairs{more}; {labels[unseen[0]]} of "
                f"{len(parts[name])} pairs of {name!r} have it; mend labels or splits, name test_groups, or leave its "
                "label empty"
            )
