"""Division of pairs into splits: by their paths, by named groups, or by a share of every class."""

from collections import Counter
from collections.abc import Sequence

from crossmodal.data.splits import take_share
from crossmodal.sources import SourceError
from crossmodal.sources.common.listing import Entry
from modalities.common.catalogue import suggest


def divide(
    entries: list[Entry], *, test_share: float, test_groups: Sequence[str], test_seed: int
) -> dict[str, list[Entry]]:
    """The splits, "train" first, each in the order of `entries`.

    `crossmodal.data.splits.take_share` selects the pairs of a share: groups drawn with `test_seed`. Without groups it
    takes the last pairs of each class if the seed is 0, otherwise a run of consecutive pairs of each at a random place.

    Raises:
        SourceError: the options do not fit the pairs, or leave a split empty or a class without training pairs.
    """
    if "split" in entries[0].values:
        if test_share or test_groups:
            option = "test_share" if test_share else "test_groups"
            raise SourceError(f"{option}: the files already have a split ({{split}} or a column); remove one of them")
        parts = _by_split(entries)
        _check_classes(parts, "the split")
        return parts
    if not test_share and not test_groups:
        return {"train": entries}
    groups = [entry.values.get("group", "") for entry in entries]
    if test_groups:
        chosen = {index for index, group in enumerate(groups) if group in _named(groups, test_groups)}
    else:
        labels = [entry.values.get("label", "") for entry in entries]
        numbers = {name: label for label, name in enumerate(sorted({*labels} - {""}))} | {"": -1}
        known = [numbers[name] for name in labels]
        chosen = {*take_share(known, groups, test_share, seed=test_seed, at_end=test_seed == 0)}
    parts = {
        "train": [entry for index, entry in enumerate(entries) if index not in chosen],
        "test": [entry for index, entry in enumerate(entries) if index in chosen],
    }
    _check(parts, f"test_share {test_share}" if test_share else f"test_groups {', '.join(test_groups)}")
    return parts


def _by_split(entries: list[Entry]) -> dict[str, list[Entry]]:
    names = sorted({entry.values["split"] for entry in entries}, key=lambda name: (name != "train", name))
    return {name: [entry for entry in entries if entry.values["split"] == name] for name in names}


def _named(groups: Sequence[str], test_groups: Sequence[str]) -> set[str]:
    known = [name for name in dict.fromkeys(groups) if name]
    for name in test_groups:
        if name not in known:
            hint = suggest(name, known) if known else "; the pairs have neither {group} nor a column of that name"
            raise SourceError(f"test_groups: group {name!r} is not known{hint}")
    return set(test_groups)


def _check(parts: dict[str, list[Entry]], asked: str) -> None:
    for name, part in parts.items():
        if not part:
            total = sum(len(part) for part in parts.values())
            raise SourceError(f"{asked} leaves none of {total} pairs for {name!r}; set another share or other groups")
    _check_classes(parts, asked)


def _check_classes(parts: dict[str, list[Entry]], asked: str) -> None:
    counts = {name: Counter(entry.values.get("label", "") for entry in part) for name, part in parts.items()}
    trained = counts.get("train", Counter()).keys() - {""}
    for name, labels in counts.items():
        unseen = sorted(labels.keys() - trained - {""})
        if unseen and trained:  # without training labels, those of another split may still be used for evaluation
            more = f", nor {len(unseen) - 1} more classes" if unseen[1:] else ""
            raise SourceError(
                f"{asked} leaves class {unseen[0]!r} without training pairs{more}; {labels[unseen[0]]} of "
                f"{len(parts[name])} pairs of {name!r} have it; correct labels or splits, set test_groups, or leave "
                "its label empty"
            )
