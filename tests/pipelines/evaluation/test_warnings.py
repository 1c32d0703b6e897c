"""What an evaluation says of pairs that are fewer than its config has in mind."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossmodal import SOURCES
from crossmodal.data.shards import Shards
from crossmodal.data.writer import write_shards
from pipelines.evaluation.warnings import shortfalls
from pipelines.schemas.evaluate import Config, DataConfig, FewLabelsConfig


def told(folder: Path, train: Sequence[int], test: Sequence[int], classes: Sequence[str], **options: Any) -> list[str]:
    """Of pairs with these labels."""
    parts = {}
    for name, labels in (("train", train), ("test", test)):
        source = SOURCES.get("synthetic")(train_pairs=len(labels), size=16, modalities=("rgb",))
        pairs = (replace(pair, label=label) for pair, label in zip(source.pairs("train"), labels, strict=True))
        write_shards(pairs, folder / name, fields=source.fields(), classes=tuple(classes))
        parts[name] = Shards.open(folder / name)
    config = Config(DataConfig("train", "test"), {"s": ["run"]}, **{"few_labels": None, **options})
    return list(shortfalls(config, (parts["train"], parts["test"]), (parts["train"].labels(), parts["test"].labels())))


ENOUGH = [0, 1] * 4


@pytest.mark.parametrize(
    ("train", "test", "options", "said"),
    [
        ([0, 0, 1, 1, -1], ENOUGH, {}, "only 4 of the 5 pairs of TRAIN have labels, and accuracy is of these"),
        (ENOUGH, [0, 1, 2, 2, 2], {}, "TRAIN has no pair of these classes of TEST, so no prediction of them is right: "
         "c (3 pairs)"),
        (ENOUGH, [0, 0, 0], {}, "TEST has no pair of these classes of TRAIN: b (4 pairs); it evaluates 1 of 2 classes"),
        (ENOUGH, [0] * 7 + [1, 1], {}, "TEST has unbalanced classes: 'a' has 7 pairs, 3.5 times the 2 of 'b'; balanced "
         "figures count every class alike"),
        ([0, 0, 0, 1, 1], ENOUGH, {"few_labels": FewLabelsConfig([2, 3, 50, None])}, "few_labels.labels: without 3, "
         "50, for class 'b' has only 2 training pairs"),
    ],
)  # fmt: skip
def test_what_is_too_few_is_said(
    tmp_path: Path, train: list[int], test: list[int], options: dict[str, Any], said: str
) -> None:
    said = said.replace("TRAIN", str(tmp_path / "train")).replace("TEST", str(tmp_path / "test"))
    assert told(tmp_path, train, test, "abc", **options) == [said]


def test_pairs_without_classes_have_no_few_labels(tmp_path: Path) -> None:
    assert told(tmp_path, [-1] * 5, [-1] * 5, [], few_labels=FewLabelsConfig()) == [
        "few_labels: not measured, for the pairs have no classes"
    ]


def test_enough_is_enough(tmp_path: Path) -> None:
    assert told(tmp_path, ENOUGH, ENOUGH, "abc", few_labels=FewLabelsConfig([4, None])) == []
