"""The evaluations one by one: options that are refused, notes, and numbers that come with the pairs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crossmodal import EVALUATIONS, SOURCES
from crossmodal.data.shards import Shards
from crossmodal.data.writer import write_shards
from crossmodal.evaluation import Pairs
from crossmodal.sources import Pair
from modalities.rgb import Rgb


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("classification", {"neighbours": 0}, "neighbours must be at least 1, got 0"),
        ("retrieval", {"at": (1, 1)}, r"at must be one or more different numbers of at least 1, got \[1, 1\]"),
        ("retrieval", {"at": (0,)}, r"at must be .* of at least 1, got \[0\]"),
        ("retrieval", {"at": ()}, r"at must be one or more different numbers of at least 1, got \[\]"),
        ("regression", {"fact": "x", "columns": ()}, "columns must be one or more numbers of at least 0"),
        ("regression", {"fact": "x", "columns": (-1,)}, "columns must be one or more numbers of at least 0"),
        ("regression", {"fact": "x", "columns": (0,), "neighbours": 0}, "neighbours must be at least 1, got 0"),
        ("diagnostics", {"per_class": 1}, "per_class must be at least 2, got 1"),
        ("diagnostics", {"scale": (0.0, 1.0)}, "scale must be two shares above 0"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EVALUATIONS.get(name)(**options)


@pytest.mark.parametrize(
    ("fact", "columns", "words"),
    [
        ("psoe", (0,), r"pair 'a' of .*000000.tar has no fact 'psoe'; it has group, label, pose"),
        ("pose", (0, 2), r"pair 'a' of .* finite numbers in 'pose' at columns 0, 2, got \[None, 2.0\]"),
        ("pose", (0,), r"pair 'a' of .* finite numbers in 'pose' at columns 0, got \[None, 2.0\]"),
        ("label", (0,), r"pair 'a' of .* finite numbers in 'label' at columns 0, got -1"),
    ],
)
def test_a_pair_without_the_numbers_is_named(tmp_path: Path, fact: str, columns: tuple[int, ...], words: str) -> None:
    rgb = Rgb()
    pair = Pair("a", {"rgb.jpg": rgb.encode(torch.zeros(3, 8, 8))}, facts={"pose": [None, 2.0]})
    write_shards(iter([pair]), tmp_path, fields={"rgb": rgb}, classes=())
    pairs = Pairs(Shards.open(tmp_path), Shards.open(tmp_path))
    assert [part.tolist() for part in pairs.facts("pose", (1,))] == [[[2.0]], [[2.0]]]
    with pytest.raises(ValueError, match=words):
        EVALUATIONS.get("regression")(fact, columns).chance(pairs)


@pytest.mark.parametrize(
    ("name", "options", "note"),
    [
        ("classification", {"neighbours": 9}, "neighbours is 9, but only 7 training pairs have labels, so all of them "
         "vote"),
        ("regression", {"fact": "x", "columns": (0,), "neighbours": 9}, "neighbours is 9, so the answer is the mean of "
         "all 8 training pairs"),
    ],
)  # fmt: skip
def test_fewer_pairs_than_neighbours_are_noted(tmp_path: Path, name: str, options: dict[str, Any], note: str) -> None:
    source = SOURCES.get("synthetic")(train_pairs=8, size=16, modalities=("rgb",))
    pairs = [replace(pair, label=min(number, 1) - 1) for number, pair in enumerate(source.pairs("train"))]
    write_shards(iter(pairs), tmp_path, fields=source.fields(), classes=("a",))
    given = Pairs(Shards.open(tmp_path), Shards.open(tmp_path))
    assert list(EVALUATIONS.get(name)(**options).notes(given)) == [note]
    enough = {**options, "neighbours": 7 if name == "classification" else 8}
    assert list(EVALUATIONS.get(name)(**enough).notes(given)) == []
