"""Pairs that lack a view: every pipeline computes what it would without them, and says once how many there are."""

import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import ENCODER, assert_equal, launch, lines, weights, write
from safetensors.torch import load_file

from crossmodal import SOURCES
from crossmodal.data.held_out import hold_out, take_complete
from crossmodal.data.manifest import ShardError
from crossmodal.data.shards import Shards
from crossmodal.data.writer import write_shards
from crossmodal.sources import Pair
from pipelines import certify
from pipelines.__main__ import main
from pipelines.certification.certification import Certification
from pipelines.config import load
from pipelines.runs.folder import RunFolder

VIEWS = {"rgb": {"modality": "rgb", "size": 16}, "depth": {"modality": "depth", "size": 16, "max_m": 8.0}}
TRAIN = {"epochs": 2, "batch_size": 8, "workers": 0, "log_every": 1, "crop": {"windows": 2}}
GONE = {0: "depth.png", 1: "rgb.jpg"}  # what a quarter of the pairs lacks, and what another


def told(folder: Path, left: int, text: str) -> str:
    return f"{folder}: {left} of 48 pairs are left out, because they lack a view: {text}\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of pairs of which many lack a view, and of those that lack none; a teacher that saw the latter."""
    folder = tmp_path_factory.mktemp("world")
    source = SOURCES.get("synthetic")(train_pairs=48, test_pairs=24, size=16, modalities=("rgb", "depth"))

    def pairs(split: str, *, whole: bool) -> Iterator[Pair]:
        for number, pair in enumerate(source.pairs(split)):
            members = {name: item for name, item in pair.members.items() if name != GONE.get(number % 4)}
            if len(members) == 2 or not whole:
                yield replace(pair, members=members, group=f"room {number // 12}")

    for name, whole in (("partial", False), ("whole", True)):
        for split in source.splits():
            write_shards(pairs(split, whole=whole), folder / name / split, fields=source.fields(),
                         classes=source.classes(), partial=not whole)  # fmt: skip
    teacher = {"data": str(folder / "whole" / "train"), "views": {"rgb": VIEWS["rgb"]}, "train": TRAIN,
               "output": str(folder / "teacher"), "student": {"view": "rgb", "encoder": ENCODER}}  # fmt: skip
    assert main(["supervise", str(write(folder / "teacher.yaml", teacher))]) == 0
    return folder


@pytest.fixture
def transfer(world: Path, tmp_path: Path) -> str:
    """A transfer on the pairs of which many lack a view."""
    content: dict[str, Any] = {
        "data": str(world / "partial" / "train"), "views": VIEWS, "output": str(tmp_path / "run"), "train": TRAIN,
        "teachers": {"rgb": {"view": "rgb", "weights": str(world / "teacher")}},
        "student": {"view": "depth", "encoder": ENCODER}, "objectives": {"crd": {}, "infonce": {}},
    }  # fmt: skip
    return str(write(tmp_path / "transfer.yaml", content))


def keys(shards: Shards) -> list[str]:
    return [shards.read(index, [])[0] for index in range(len(shards))]


def test_the_complete_pairs_are_those_with_all_members(world: Path) -> None:
    shards = Shards.open(world / "partial" / "train")
    members = Counter[str]()
    with tarfile.open(shards.folder / "000000.tar") as tar:
        members.update(name.partition(".")[0] for name in tar.getnames())

    complete = take_complete(shards, ["rgb", "depth"])

    assert keys(complete) == [key for key, count in members.items() if count == 3] and len(complete) == 24
    whole = Shards.open(world / "whole" / "train")
    assert keys(complete) == keys(whole) and complete.manifest.digest == shards.manifest.digest
    for name in ("pairs", "labels", "groups", "lacking"):
        assert getattr(complete.manifest, name) == getattr(whole.manifest, name)
    rgb = take_complete(shards, ["rgb"])
    assert (len(rgb), rgb.manifest.lacking) == (36, {"depth": 12})
    assert take_complete(whole, ["rgb", "depth"]) is whole


def test_what_is_held_out_does_not_depend_on_the_views(world: Path) -> None:
    shards = Shards.open(world / "partial" / "train")
    for part in hold_out(shards, 0.25, seed=1):
        both = take_complete(part, ["rgb", "depth"])
        assert 0 < len(both) < len(part) and {*keys(both)} < {*keys(part)}
        assert part.manifest.lacking == {
            name: len(part) - len(take_complete(part, [name])) for name in ("rgb", "depth")
        }


def test_pairs_of_a_shard_that_is_gone_are_left_to_their_reader(tmp_path: Path, world: Path) -> None:
    source = SOURCES.get("synthetic")(train_pairs=8, test_pairs=0, size=16, modalities=("rgb", "depth"))
    pairs = (replace(pair, members={name: item for name, item in pair.members.items() if number or name[0] == "r"})
             for number, pair in enumerate(source.pairs("train")))  # fmt: skip
    write_shards(
        pairs, tmp_path / "p", fields=source.fields(), classes=source.classes(), partial=True, pairs_per_shard=4
    )
    (tmp_path / "p" / "000001.tar").unlink()

    assert len(take_complete(Shards.open(tmp_path / "p"), ["depth"])) == 7


def test_a_transfer_is_that_of_the_complete_pairs_to_the_bit(
    transfer: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transfer", transfer]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(told(world / "partial" / "train", 24, "12 without depth and 12 without rgb"))
    assert out.count("left out") == 1 and err == ""

    assert main(["transfer", transfer, f"data={world / 'whole' / 'train'}", f"output={tmp_path / 'whole'}"]) == 0
    assert "left out" not in capsys.readouterr().out
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_on_error_skip_replaces_no_pair_that_lacks_a_view(transfer: str, tmp_path: Path) -> None:
    for mode in ("stop", "skip"):
        assert main(["transfer", transfer, f"train.on_error={mode}", f"output={tmp_path / mode}"]) == 0
    assert_equal(weights(tmp_path / "stop"), weights(tmp_path / "skip"))
    assert json.loads((tmp_path / "skip" / "report.json").read_text())["figures"]["unreadable_replaced"] == 0


@pytest.mark.slow
def test_two_processes_leave_out_the_same_pairs(transfer: str, world: Path, tmp_path: Path) -> None:
    for name in ("partial", "whole"):
        done = launch("transfer", transfer, f"data={world / name / 'train'}", f"output={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("left out") == (name == "partial")
    assert_equal(weights(tmp_path / "partial"), weights(tmp_path / "whole"))


def test_views_that_a_run_does_not_see_leave_out_nothing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path / "c.yaml", {
        "data": str(world / "partial" / "train"), "views": VIEWS, "student": {"view": "rgb", "encoder": ENCODER},
        "train": TRAIN, "output": str(tmp_path / "run"),
    })  # fmt: skip
    assert main(["supervise", str(config)]) == 0
    assert told(world / "partial" / "train", 12, "12 without rgb") in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "report.json").read_text())["figures"]["pairs"] == 36


def test_a_run_without_any_complete_pair_is_one_error(
    transfer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = SOURCES.get("synthetic")(train_pairs=8, test_pairs=0, size=16, modalities=("rgb", "depth"))
    pairs = (replace(pair, members={name: item for name, item in pair.members.items() if name != GONE[number % 2]})
             for number, pair in enumerate(source.pairs("train")))  # fmt: skip
    write_shards(pairs, tmp_path / "p", fields=source.fields(), classes=source.classes(), partial=True)

    assert main(["transfer", transfer, f"data={tmp_path / 'p'}"]) == 2
    assert capsys.readouterr().err == (
        f"data: none of the 8 pairs of {tmp_path / 'p'} has all views that are needed: 4 without depth and 4 "
        "without rgb; pack them again with the files\n"
    )
    with pytest.raises(ShardError, match="none of the 8 pairs"):
        take_complete(Shards.open(tmp_path / "p"), ["rgb", "depth"])


def test_features_are_of_the_pairs_that_the_teacher_can_see(
    transfer: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path / "features.yaml", {
        "data": str(world / "partial" / "train"), "views": {"rgb": VIEWS["rgb"]}, "crop": {"windows": 2}, "workers": 0,
        "teachers": {"rgb": {"view": "rgb", "weights": str(world / "teacher")}}, "dtype": "float32",
        "output": str(tmp_path / "features"),
    })  # fmt: skip
    assert main(["features", str(config)]) == 0
    out, err = capsys.readouterr()
    assert told(world / "partial" / "train", 12, "12 without rgb") in out and err == ""
    figures = json.loads((tmp_path / "features" / "report.json").read_text())["figures"]
    assert (figures["teachers"]["rgb"]["pairs"], figures["teachers"]["rgb"]["unreadable"]) == (48, 12)

    cached = f"teachers.rgb.features={tmp_path / 'features' / 'rgb'}"
    for name, words in (("run", []), ("cached", [cached])):
        assert main(["transfer", transfer, *words, f"output={tmp_path / name}"]) == 0
    for ours, theirs in zip(lines(tmp_path / "cached"), lines(tmp_path / "run"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_an_evaluation_and_its_report_are_those_of_the_complete_pairs(
    transfer: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {}
    for name in ("partial", "whole"):
        student, output = tmp_path / f"{name} student", tmp_path / name
        assert main(["transfer", transfer, f"data={world / name / 'train'}", f"output={student}"]) == 0
        config = write(tmp_path / f"{name}.yaml", {
            "data": {part: str(world / name / part) for part in ("train", "test")},
            "students": {"depth": [str(student)]}, "few_labels": None, "seeds": 1, "workers": 0, "output": str(output),
        })  # fmt: skip
        capsys.readouterr()
        assert main(["evaluate", str(config)]) == 0
        assert (capsys.readouterr().out.count("left out") == 2) == (name == "partial")
        figures[name] = json.loads((output / "report.json").read_text())["figures"]
        page = write(tmp_path / "page.yaml", {"runs": [str(output)], "output": str(tmp_path / f"{name} page")})
        assert main(["report", str(page)]) == 0
    assert figures["partial"]["test_pairs"] == 12 and figures["partial"]["table"] == figures["whole"]["table"]
    examples = [load_file(tmp_path / name / "examples.safetensors") for name in ("partial", "whole")]
    assert_equal(*examples)
    pages = [(tmp_path / f"{name} page" / "report.html").read_text() for name in ("partial", "whole")]
    pictures = [re.findall(r'src="(data:image/png[^"]+)"', page) for page in pages]
    assert pictures[0] == pictures[1] != []


@pytest.mark.parametrize("objective", ["cacr", "align_uniform"])
def test_a_pretraining_whose_objective_cannot_mask_is_that_of_the_complete_pairs(
    objective: str, world: Path, tmp_path: Path
) -> None:
    for name in ("partial", "whole"):
        config = write(tmp_path / "c.yaml", {
            "data": str(world / name / "train"), "views": VIEWS, "crops": 1, "objectives": {objective: {}},
            "encoders": {view: {"view": view, "encoder": {**ENCODER}} for view in VIEWS}, "train": TRAIN,
            "output": str(tmp_path / name),
        })  # fmt: skip
        assert main(["pretrain", str(config)]) == 0
    for view in VIEWS:
        assert_equal(weights(tmp_path / "partial" / view), weights(tmp_path / "whole" / view))


def test_complete_pairs_are_certified(world: Path, tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml", {
        "data": str(world / "partial" / "train"), "test": str(world / "partial" / "test"), "views": VIEWS,
        "encoder": {"view": "depth", "encoder": ENCODER}, "validation": 0.25,
    })  # fmt: skip
    loaded = load(certify.Config, config)
    split = Certification(loaded, RunFolder.of(tmp_path / "run", "certify", loaded, {})).split
    parts = {name: part for name, part in vars(split).items() if part is not None}
    assert sum(map(len, parts.values())) == 36 + 18
    assert all("depth" not in part.manifest.lacking for part in parts.values())
