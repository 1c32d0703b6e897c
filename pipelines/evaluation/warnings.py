"""What the pairs of an evaluation fall short of, as far as it is measured all the same: said, not refused."""

from collections.abc import Iterator, Mapping

from torch import Tensor

from crossmodal.data.shards import Shards
from crossmodal.data.splits import absent_classes, unbalanced_classes
from pipelines.schemas.evaluate import Config, FewLabelsConfig


def counts_there(config: FewLabelsConfig | None, labels: Tensor) -> list[int | None]:
    """Labels a class that can be measured: of those asked for, the ones that every class of the training pairs has."""
    known = labels[labels >= 0]
    if config is None or not len(known):
        return []
    least = int(known.unique(return_counts=True)[1].min())
    return [count for count in config.labels if count is None or count <= least]


def shortfalls(config: Config, parts: tuple[Shards, Shards], labels: tuple[Tensor, Tensor]) -> Iterator[str]:
    """A sentence for everything that is measured of less than was asked for, or that cannot be."""
    train, test = parts
    if train.manifest.classes:
        learn, judge = (_by_class(part, found) for part, found in zip(parts, labels, strict=True))
        for part, found in zip(parts, (learn, judge), strict=True):
            if (known := sum(found.values())) < len(part):
                yield f"only {known} of the {len(part)} pairs of {part.folder} have labels, and accuracy is of these"
        for part, found in zip(parts, (learn, judge), strict=True):
            yield from unbalanced_classes(found, str(part.folder))
        yield from absent_classes(learn, judge, trained=str(train.folder), judged=str(test.folder))
        yield from _few_labels(config.few_labels, learn, labels[0])
    elif config.few_labels:
        yield "few_labels: not measured, for the pairs have no classes"


def _few_labels(config: FewLabelsConfig | None, learn: Mapping[str, int], labels: Tensor) -> Iterator[str]:
    there = counts_there(config, labels)
    left = [str(count) for count in config.labels if count not in there] if config else []
    if left:
        name, count = min(((name, count) for name, count in learn.items() if count), key=lambda item: item[1])
        yield f"few_labels.labels: without {', '.join(left)}, for class {name!r} has only {count} training pairs"


def _by_class(part: Shards, labels: Tensor) -> dict[str, int]:
    """How many pairs are of each class."""
    names = part.manifest.classes
    counts = labels[labels >= 0].bincount(minlength=len(names)).tolist()
    return dict(zip(names, counts, strict=True))
