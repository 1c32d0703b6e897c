"""Pairs held out of training: which they are, that nothing is lost or cut, and that nobody is judged by what it saw."""

import json
import math
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
import yaml

from crossmodal import SOURCES
from crossmodal.data.held_out import hold_out, thin_out
from crossmodal.data.manifest import ShardError
from crossmodal.data.reader import Plan
from crossmodal.data.shards import Shards
from crossmodal.data.splits import take_share
from crossmodal.data.writer import write_shards
from modalities.common.random import generator
from pipelines.__main__ import main

VIEWS = {"rgb": {"modality": "rgb", "size": 32}, "depth": {"modality": "depth", "size": 32, "max_m": 8.0}}


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 pairs in 13 groups of unequal size, of mixed classes; the first 5 pairs have no group."""
    return write_grouped(
        tmp_path_factory.mktemp("grouped"), lambda place: f"room {place**2 // 700}" if place > 4 else ""
    )


def write_grouped(folder: Path, group: Callable[[int], str], pairs: int = 96) -> Path:
    source = SOURCES.get("synthetic")(train_pairs=pairs, test_pairs=1, size=32)
    found = (replace(pair, group=group(place)) for place, pair in enumerate(source.pairs("train")))
    write_shards(found, folder, fields=source.fields(), classes=source.classes(), pairs_per_shard=25)
    return folder


def keys(shards: Shards) -> list[str]:
    return [shards.read(index, [])[0] for index in range(len(shards))]


def groups(shards: Shards) -> list[str]:
    return [shards.facts(index).get("group") or "" for index in range(len(shards))]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_pair_is_in_one_part_in_its_order(synthetic: Path, share: float, seed: int) -> None:
    shards = Shards.open(synthetic / "train")
    parts = hold_out(shards, share, seed)
    found = [keys(part) for part in parts]
    assert len(parts[1]) == round(share * 96) and len(parts[0]) + len(parts[1]) == 96
    assert sorted(found[0] + found[1]) == sorted(keys(shards))
    for part, names in zip(parts, found, strict=True):
        order = [keys(shards).index(name) for name in names]
        assert order == sorted(order)
        assert part.labels().tolist() == shards.labels()[order].tolist()


def test_a_part_knows_its_counts_and_where_its_shards_begin(grouped: Path) -> None:
    shards = Shards.open(grouped)
    for part in hold_out(shards, 0.3):
        names = [shards.manifest.classes[label] for label in part.labels().tolist()]
        assert part.manifest.labels == Counter(names)
        assert part.manifest.groups == Counter(name for name in groups(part) if name)
        places = [keys(shards).index(name) for name in keys(part)]
        assert part.starts.tolist() == [sum(place < start for place in places) for start in (0, 25, 50, 75, 96)]
        order = Plan(len(part), 5, shard_starts=tuple(part.starts[:-1].tolist())).epoch(0)
        assert len(set(order.ravel().tolist())) == order.size and order.max() < len(part)


def test_a_part_reaches_another_process_as_it_is(synthetic: Path) -> None:
    held = hold_out(Shards.open(synthetic / "train"), 0.3)[1]
    assert keys(pickle.loads(pickle.dumps(held))) == keys(held)


def test_a_part_may_be_parted_again(synthetic: Path) -> None:
    first, held = hold_out(Shards.open(synthetic / "train"), 0.25)
    second, other = hold_out(first, 0.25)
    assert sorted(keys(second) + keys(other) + keys(held)) == sorted(keys(Shards.open(synthetic / "train")))


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4, 0.7])
def test_no_group_is_cut_and_the_share_is_met_to_half_a_group(grouped: Path, share: float) -> None:
    shards = Shards.open(grouped)
    largest = max(shards.manifest.groups.values())
    for seed in range(5):
        rest, held = hold_out(shards, share, seed)
        assert not {*groups(rest)} & {*groups(held)} - {""}
        assert abs(len(held) - share * 96) <= largest / 2


def test_pairs_without_groups_are_held_out_in_runs_of_neighbours(tmp_path: Path) -> None:
    """They may be a video: a held-out frame beside a trained one would be a near copy of it."""
    folder = write_grouped(tmp_path, lambda place: "", pairs=60)
    labels = Shards.open(folder).labels()
    starts = set()
    for seed in range(8):
        held = hold_out(Shards.open(folder), 0.3, seed)[1]
        for label in labels.unique().tolist():
            members = (labels == label).nonzero()[:, 0].tolist()
            taken = [place for place, index in enumerate(members) if index in held.places.tolist()]
            assert taken == list(range(taken[0], taken[0] + len(taken))), label
            starts.add(taken[0])
    assert len(starts) > 3  # the seed decides where


def test_every_class_gives_its_share(synthetic: Path) -> None:
    shards = Shards.open(synthetic / "train")
    held = hold_out(shards, 0.25)[1]
    for name, count in shards.manifest.labels.items():
        assert abs(held.manifest.labels.get(name, 0) - count / 4) <= 1


def test_groups_of_one_class_each_leave_every_class_on_both_sides(tmp_path: Path) -> None:
    folder = write_grouped(tmp_path / "first", lambda place: "", pairs=60)
    labels = Shards.open(folder).labels().tolist()
    folder = write_grouped(tmp_path / "second", lambda place: f"{labels[place]} {place % 4}", pairs=60)
    for part in hold_out(Shards.open(folder), 0.5):
        assert set(part.manifest.labels) == set(Shards.open(folder).manifest.labels)


def test_the_draw_depends_on_the_seed_alone(synthetic: Path, tmp_path: Path) -> None:
    held = [keys(hold_out(Shards.open(synthetic / "train"), 0.25, seed)[1]) for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]
    source = SOURCES.get("synthetic")(train_pairs=96, test_pairs=40, size=32)
    write_shards(source.pairs("train"), tmp_path, fields=source.fields(), classes=source.classes(), pairs_per_shard=7)
    assert keys(hold_out(Shards.open(tmp_path), 0.25, 0)[1]) == held[0]


def test_a_part_without_pairs_is_refused(tmp_path: Path) -> None:
    folder = write_grouped(tmp_path, lambda place: f"room {place // 6}", pairs=12)
    with pytest.raises(
        ShardError, match=r"a share of 0.1 holds out none of the 12 pairs of .* in 2 groups, which are never"
    ):
        hold_out(Shards.open(folder), 0.1)
    with pytest.raises(ShardError, match=r"a share of 0.9 holds out all of the 12 pairs"):
        hold_out(Shards.open(folder), 0.9)


@pytest.mark.slow
def test_held_out_pairs_are_not_trained_on_and_judge_only_who_did_not_see_them(
    grouped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = {"name": "convnet", "width": 8, "stages": 2}
    teacher = {"data": str(grouped), "views": {"rgb": VIEWS["rgb"]}, "student": {"view": "rgb", "encoder": encoder},
               "train": {"epochs": 1, "batch_size": 16, "workers": 0}, "output": str(tmp_path / "teacher")}  # fmt: skip
    student = {**teacher, "views": VIEWS, "teachers": {"rgb": {"view": "rgb", "weights": str(tmp_path / "teacher")}},
               "student": {"view": "depth", "encoder": encoder}, "objectives": {"crd": {}},
               "held_out": {"share": 0.3}, "output": str(tmp_path / "student")}  # fmt: skip
    asked = {"data": {"train": str(grouped), "held_out": {"share": 0.3}},
             "students": {"crd": [str(tmp_path / "student")]},
             "few_labels": None, "workers": 0, "output": str(tmp_path / "evaluation")}  # fmt: skip
    for name, content in {"teacher": teacher, "student": student, "evaluation": asked}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    assert main(["supervise", str(tmp_path / "teacher.yaml")]) == 0
    assert main(["transfer", str(tmp_path / "student.yaml")]) == 0
    assert main(["evaluate", str(tmp_path / "evaluation.yaml")]) == 0
    rest, held = hold_out(Shards.open(grouped), 0.3)
    figures = json.loads((tmp_path / "evaluation" / "report.json").read_text())["figures"]
    assert (figures["train_pairs"], figures["test_pairs"]) == (len(rest), len(held))
    assert json.loads((tmp_path / "student" / "report.json").read_text())["figures"]["pairs"] == len(rest)
    page = ["runs=[" + str(tmp_path / "evaluation") + "]", f"output={tmp_path / 'page'}", "map=pca"]
    (tmp_path / "page.yaml").write_text("")
    assert main(["report", str(tmp_path / "page.yaml"), *page]) == 0
    other = [str(tmp_path / "evaluation.yaml"), f"output={tmp_path / 'other'}"]
    assert main(["evaluate", *other, "data.held_out.seed=1"]) == 2
    assert "without holding out the same pairs, so it may have seen these" in capsys.readouterr().err
    assert main(["evaluate", *other, f"data.test={grouped}"]) == 2
    assert "data.test must be given, or held_out in its place, but not both" in capsys.readouterr().err


@pytest.mark.parametrize("keep", ["linear", "exponential"])
def test_a_long_tail_keeps_its_shares_and_is_the_same_every_time(
    synthetic: Path, keep: Literal["linear", "exponential"]
) -> None:
    whole = Shards.open(synthetic / "train")
    thin, classes = thin_out(whole, keep), whole.manifest.classes
    for number, name in enumerate(classes, 1):
        share = number / len(classes) if keep == "linear" else math.exp(number - len(classes))
        assert thin.manifest.labels.get(name, 0) == round(share * whole.manifest.labels[name])
    assert thin.labels().bincount(minlength=len(classes)).sum() == len(thin) == thin.manifest.pairs < len(whole)
    assert set(keys(thin)) < set(keys(whole)) and keys(thin) == keys(thin_out(whole, keep))
    assert keys(thin) != keys(thin_out(whole, keep, seed=1))


def test_without_classes_there_is_no_long_tail(grouped: Path) -> None:
    shards = Shards.open(grouped)
    bare = Shards(shards.folder, replace(shards.manifest, classes=[], labels={}))
    with pytest.raises(ShardError, match="has no classes to keep shares of"):
        thin_out(bare, "linear")


def in_loops(labels: list[int], groups: list[str], share: float, seed: int) -> list[int]:
    """`take_share` over lists, pair by pair."""
    units: dict[str, list[int]] = {}
    runs: dict[int, list[int]] = {}
    for index, (label, group) in enumerate(zip(labels, groups, strict=True)):
        if group:
            units.setdefault(group, []).append(index)
        else:
            runs.setdefault(label, []).append(index)
    random = generator(seed, "held out")
    every = [*units.values()]
    shuffled = [every[place] for place in torch.randperm(len(every), generator=random).tolist()]
    passed, taken = 0, list[int]()
    for unit in sorted(shuffled, key=lambda unit: Counter(labels[index] for index in unit).most_common(1)[0][0]):
        passed += len(unit)
        if share * passed - len(taken) >= len(unit) / 2:
            taken += unit
    passed, single, least = 0, 0, min(round(share * sum(map(len, runs.values()))), 1)
    for _, members in sorted(runs.items()):
        passed += len(members)
        count = min(max(round(share * passed) - single, least), len(members) - 1)
        single += count
        start = int(torch.randint(len(members) - count + 1, (), generator=random))
        taken += members[start : start + count]
    return taken


def test_a_share_is_that_of_loops_over_the_pairs() -> None:
    random = torch.Generator().manual_seed(0)
    for trial in range(40):
        labels = torch.randint(-1, 4, (60,), generator=random).tolist()
        rooms = torch.randint(-trial, 9, (60,), generator=random).tolist()
        groups = [f"room {room}" if room >= 0 else "" for room in rooms]
        assert take_share(labels, groups, 0.3, seed=trial) == in_loops(labels, groups, 0.3, trial)
