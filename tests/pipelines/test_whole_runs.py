"""Whole runs on synthetic pairs: stages, what is skipped and what is repeated, figures, the page; and the control."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from commands import launch
from ranks import Ranks
from safetensors.torch import load_file, save_file

from crossmodal import ENCODERS, SOURCES
from crossmodal.data.reader import open_view
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.data.writer import write_shards
from crossmodal.encoders import Encoder, Features
from crossmodal.evaluation import classification, diagnostics, retrieval
from crossmodal.metrics import few_labels
from crossmodal.sources import Pair
from modalities.common.random import generator
from modalities.depth import Depth
from modalities.rgb import Rgb
from modalities.synthetic.scene import draw_scene
from pipelines import evaluate
from pipelines.__main__ import main
from pipelines.config import load
from pipelines.evaluation import decoded, embedding, learning, spaces
from pipelines.evaluation.evaluator import Evaluator
from pipelines.evaluation.learning import Learning
from pipelines.evaluation.results import Row
from pipelines.evaluation.spaces import in_heads
from pipelines.reporting import sections
from pipelines.runs.folder import RunFolder

pytestmark = pytest.mark.slow
ENCODER = {"name": "convnet", "width": 8, "stages": 3}
VIEWS = {"rgb": {"modality": "rgb", "size": 32}, "depth": {"modality": "depth", "size": 32, "max_m": 8.0}}
TRAIN = {"batch_size": 32, "lr": 0.003, "workers": 0}


def write(path: Path, content: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


def transfer_config(data: str, teacher: str) -> dict[str, Any]:
    return {
        "data": data,
        "views": VIEWS,
        "teachers": {"rgb": {"view": "rgb", "weights": teacher}},
        "student": {"view": "depth", "encoder": ENCODER},
        "objectives": {"crd": {"weight": 0.8}},
        "train": {**TRAIN, "epochs": 3},
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of all stages; its folder holds the configs, and `out` the stages."""
    folder = tmp_path_factory.mktemp("whole")
    source = {"name": "synthetic", "train_pairs": 96, "test_pairs": 48, "size": 32, "modalities": ["rgb", "depth"]}
    write(folder / "pairs.yaml", {"source": source})
    write(
        folder / "teacher.yaml",
        {"data": "?", "views": {"rgb": VIEWS["rgb"]}, "student": {"view": "rgb", "encoder": ENCODER},
         "train": {**TRAIN, "epochs": 3}},
    )  # fmt: skip
    write(folder / "student.yaml", transfer_config("?", "?"))
    few = {"labels": [1, None], "steps": 6, "least_steps": 3, "batch_size": 16}
    write(
        folder / "evaluation.yaml",
        {"data": {"train": "?", "test": "?"}, "students": {}, "few_labels": few, "seeds": 2, "workers": 0},
    )
    write(folder / "page.yaml", {"runs": [], "map": "pca"})
    data = {"train": "@pairs/train", "test": "@pairs/test"}
    stages = {
        "pairs": {"pipeline": "shards", "config": "pairs.yaml"},
        "teacher": {"pipeline": "supervise", "config": "teacher.yaml", "set": {"data": data["train"]}},
        "student": {
            "pipeline": "transfer",
            "config": "student.yaml",
            "set": {"data": data["train"], "teachers.rgb.weights": "@teacher"},
        },
        "evaluation": {
            "pipeline": "evaluate",
            "config": "evaluation.yaml",
            "set": {"data": data, "students.crd": ["@student"]},
        },
        "page": {
            "pipeline": "report",
            "config": "page.yaml",
            "set": {"runs": ["@evaluation", "@student", "@teacher", "@pairs"]},
        },
    }
    config = write(folder / "all.yaml", {"stages": stages, "output": str(folder / "out")})
    assert main(["run", config]) == 0
    return folder


def test_every_stage_ends_with_a_report(whole: Path) -> None:
    for stage in ("pairs", "teacher", "student", "evaluation", "page"):
        assert json.loads((whole / "out" / stage / "report.json").read_text())["environment"]["python"]


def test_the_table_compares_with_scratch_random_teacher_and_chance(whole: Path) -> None:
    figures = json.loads((whole / "out" / "evaluation" / "report.json").read_text())["figures"]
    assert set(figures["table"]) == {"teacher", "crd", "random weights", "scratch, all labels"}
    for row in figures["table"].values():
        assert 0 <= row["probe"]["mean"] <= 1 and 0 <= row["knn"]["mean"] <= 1
    assert {f"crd.to_{way}.R@{k}" for way in ("teacher", "student") for k in (1, 5, 10)} < set(figures["table"]["crd"])
    assert figures["metrics"]["crd.to_teacher.R@5"]["chance"] == pytest.approx(5 / 48)
    assert len(figures["table"]["random weights"]["knn"]["runs"]) == 2
    assert not any("R@" in name for name in figures["table"]["teacher"])  # which is not compared with itself
    # crd trains no classifier, and random weights have none
    assert {who for who, row in figures["table"].items() if "classifier" in row} == {"teacher", "scratch, all labels"}
    assert figures["table"]["scratch, all labels"]["classifier"] == figures["few_labels"]["scratch"]["all"]
    assert set(figures["few_labels"]) == {
        "crd, frozen", "crd, fine-tuned", "scratch", "random weights, frozen", "teacher, frozen",
    }  # fmt: skip
    assert list(figures["few_labels"]["scratch"]) == ["1", "all"]
    assert figures["few_labels"]["scratch"]["1"]["std"] is not None


@pytest.fixture(scope="module")
def alone(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The words of an evaluation whose pairs make several batches, and what one process gives."""
    out, folder = whole / "out", tmp_path_factory.mktemp("alone") / "one"
    words = ["evaluate", str(whole / "evaluation.yaml"), f"students={{crd: [{out}/student]}}",
             f"data={{train: {out}/pairs/train, test: {out}/pairs/test}}"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "BATCH", 16)
        assert main([*words, f"output={folder}"]) == 0
    return words, folder


def figures_of(folder: Path) -> dict[str, Any]:
    """The figures of an evaluation without its time."""
    figures = json.loads((folder / "report.json").read_text())["figures"]
    assert figures.pop("seconds") > 0 and len(figures["table"]) == 4
    return figures


def test_the_figures_of_four_ranks_are_those_of_one(
    alone: tuple[list[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "BATCH", 16)
    (_, path, *words), folder = alone
    asked = load(evaluate.Config, Path(path), [*words, f"output={tmp_path / 'four'}"])
    run = lambda: RunFolder.of(tmp_path / "four", "evaluate", asked, {})  # noqa: E731
    first, *others = Ranks(4, monkeypatch).run(*[lambda: Evaluator(asked, run()).measure()] * 4)
    assert others == [{}] * 3
    assert first["figures"].pop("seconds") > 0
    assert json.dumps(first["figures"]) == json.dumps(figures_of(folder))  # in the same order, too
    ours, theirs = (load_file(each / "examples.safetensors") for each in (tmp_path / "four", folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def test_two_processes_write_the_report_of_one_and_an_unreadable_pair_of_either_ends_both(
    alone: tuple[list[str], Path], whole: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(whole / "out" / "pairs" / "test", tmp_path / "broken"))
    shard = bytearray((broken / "000000.tar").read_bytes())
    where = shard.rindex(b".depth.png") // 512 * 512 + 512
    shard[where : where + 8] = bytes(8)  # the last picture is none any more
    (broken / "000000.tar").write_bytes(shard)
    words, folder = alone
    cases = {"failed": f"data.test={broken}", "two": "seeds=2"}
    script = tmp_path / "command.py"
    script.write_text(
        "import os\nfrom pipelines.__main__ import main\nfrom pipelines.evaluation import embedding, subjects\n"
        "from pipelines.runs import distributed\n"
        "embedding.BATCH, subjects.count_copies = 16, lambda *_: (0, [])  # which would read the pair first\n"
        "part, distributed.part = distributed.part, lambda: None  # a group opens once in a process\n"
        f"for name, word in {cases!r}.items():\n"
        f"    code = main([*{words!r}, word, f'output={tmp_path}/{{name}}'])\n"
        "    print(name, 'rank', os.environ['RANK'], 'code', code, flush=True)\n"
        "part()\n"
    )
    two = launch(str(script))
    assert two.returncode == 0, two.stderr
    for rank in "01":
        assert f"failed rank {rank} code 2" in two.stdout and f"two rank {rank} code 0" in two.stdout
    assert two.stderr.count("000000.tar: pair") == 1 and "Traceback" not in two.stderr
    assert "rank 1: " in two.stderr and not (tmp_path / "failed" / "report.json").exists()
    assert two.stdout.count("No gain") + two.stdout.count("Gain over") == 1  # only the first process tells
    assert figures_of(tmp_path / "two") == figures_of(folder)


def test_chance_is_at_most_everything(whole: Path, tmp_path: Path) -> None:
    words = [f"data={{train: {whole}/out/pairs/train, test: {whole}/out/pairs/test}}", "metrics.retrieval.at=[12, 100]"]
    asked = load(evaluate.Config, whole / "evaluation.yaml", [*words, f"students={{crd: [{whole}/out/student]}}"])
    columns = Evaluator(asked, RunFolder.of(tmp_path / "new", "evaluate", asked, {})).columns
    assert [columns[f"map.to_teacher.R@{k}"]["chance"] for k in (12, 100)] == [0.25, 1.0]


def test_the_page_works_offline(whole: Path) -> None:
    page = (whole / "out" / "page" / "report.html").read_text()
    for words in ("Few labels", "Curves", "Retrieval on unseen pairs", "Both modalities in one space",
                  "Pairs as each network saw them", "chance", "objectives:"):  # fmt: skip
        assert words in page
    assert page.count('<img src="data:image/png;base64,') + page.count('class="right" src="data:image/png') > 50
    assert page.count("data:image/png;base64,") == page.count("<img ")
    assert "http://" not in page and "https://" not in page and "<script" not in page


def test_a_map_of_embeddings_shows_pairs_evenly_spread_and_not_all(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, draw = [], sections.draw_map
    monkeypatch.setattr(sections, "draw_map", lambda *parts: shown.append(parts) or draw(*parts))
    monkeypatch.setattr(sections, "SHOWN", 24)
    runs = f"runs=[{whole}/out/evaluation]"
    assert main(["report", str(whole / "page.yaml"), runs, f"output={tmp_path / 'page'}"]) == 0
    (points, label, *_), labels = shown[0], Shards.open(whole / "out" / "pairs" / "test").labels()
    assert len(points) == 2 * 24
    assert label.tolist() == [labels[int(place * 47 / 23)] for place in range(24)]  # of 48


def test_unchanged_stages_are_not_run_again(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = {path: path.stat().st_mtime_ns for path in (whole / "out").rglob("*") if path.is_file()}
    assert main(["run", str(whole / "all.yaml")]) == 0
    assert capsys.readouterr().out.count("finished before; nothing to do") == 5
    assert {path: path.stat().st_mtime_ns for path in (whole / "out").rglob("*") if path.is_file()} == written


def test_features_of_a_teacher_that_has_none_are_missed_before_any_stage_runs(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {"data": "?", "views": VIEWS, "teachers": {"rgb": {"view": "rgb", "weights": "?"}}, "crop": {"windows": 1}}
    stages = {
        "kept": {"pipeline": "features", "config": write(tmp_path / "kept.yaml", kept)},
        "student": {"pipeline": "transfer", "config": str(whole / "student.yaml"),
                    "set": {"teachers.rgb.features": "@kept/depth"}},
    }  # fmt: skip
    assert main(["run", write(tmp_path / "all.yaml", {"stages": stages, "output": str(tmp_path / "new")})]) == 2
    told = "stages.student.set.teachers.rgb.features: stage 'kept' makes rgb, but not 'depth'"
    assert told in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_page_tells_pairs_left_out_and_replaced_and_what_an_evaluation_noted(whole: Path, tmp_path: Path) -> None:
    for name in ("pairs", "student", "evaluation"):
        path = Path(shutil.copytree(whole / "out" / name, tmp_path / name)) / "report.json"
        told = json.loads(path.read_text())
        told["figures"] |= {"unreadable_replaced": 15} if name == "student" else {}
        told["figures"] |= {"notes": ["test has no owl"]} if name == "evaluation" else {}
        path.write_text(json.dumps(told | {"dropped": 3}))
    words = [f"runs=[{tmp_path}/pairs, {tmp_path}/student, {tmp_path}/evaluation]", f"output={tmp_path}/page"]
    assert main(["report", str(whole / "page.yaml"), *words]) == 0
    page = " ".join((tmp_path / "page" / "report.html").read_text().split())
    assert "; 3 pairs left out because a file is missing" in page
    assert "15 replacements of unreadable pairs, over all epochs." in page
    assert "Note: test has no owl." in page


def test_a_page_of_nothing_is_refused(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(whole / "page.yaml"), f"output={tmp_path / 'page'}"]) == 2
    assert "runs must name at least one finished run" in capsys.readouterr().err


def test_results_that_are_gone_are_made_again(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = whole / "out"
    tar = next((out / "pairs" / "test").glob("*.tar"))
    files = [tar, out / "student" / "model" / "model.safetensors", out / "student" / "model" / "model.json"]
    before = [file.read_bytes() for file in files]
    tar.write_bytes(before[0][:-512])  # cut short
    shutil.rmtree(out / "student" / "model")
    assert main(["run", str(whole / "all.yaml")]) == 0
    told = capsys.readouterr().out
    assert f"{out / 'pairs'}: finished before, but test/{tar.name} is gone or changed in size, so it" in told
    assert f"{out / 'student'}: finished before, but model/model.json and 1 more files are gone" in told
    assert told.count("finished before; nothing to do") == 2  # teacher and evaluation, whose inputs are as they were
    assert [file.read_bytes() for file in files] == before


def test_what_is_wrong_while_a_stage_runs_is_said_with_its_name(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["stages.page.set.runs=['nowhere']", "~stages.student", "~stages.evaluation", "~stages.teacher"]
    assert main(["run", str(whole / "all.yaml"), *words, f"output={tmp_path / 'new'}"]) == 2
    assert capsys.readouterr().err == "stage page: runs: nowhere holds no finished run\n"


def test_a_changed_stage_runs_again_with_what_follows_it(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(whole / "all.yaml"), "stages.student.set.train.epochs=2"]) == 0
    told = capsys.readouterr().out
    assert told.count("finished before") == 2  # pairs and teacher
    assert "student: config or inputs changed; the earlier result is now" in told
    assert (whole / "out" / "student.before-1" / "report.json").is_file()
    assert (whole / "out" / "page.before-1").is_dir()


def test_mistakes_in_any_stage_are_found_before_any_runs(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", str(whole / "all.yaml"), f"output={tmp_path / 'new'}"]
    for wrong, answer in {
        "stages.student.set.train.epocs=2": "stage student: override train.epocs=2: train.epocs is not known; did you",
        "stages.page.set.runs=['@evaluations']": "stages.page.set.runs must name an earlier stage after @, got 'eval",
        "stages.pairs.pipeline=shard": "stages.pairs.pipeline is not known; did you mean 'shards'?",
        "stages.pairs.pipeline=run": "stages.pairs.pipeline is not known",
        "stages.student.set.output=there": "stages.student.set.output must be left out: a stage writes to",
        "stages.evaluation.set.data.test='@pairs/tst'": "stages.evaluation.set.data.test: stage 'pairs' makes train, "
        "test, but not 'tst'; did you mean 'test'?",
        "stages.pairs.set.splits=[train]": "stages.evaluation.set.data.test: stage 'pairs' makes train, but not 'test'",
    }.items():
        assert main([*words, wrong]) == 2
        assert answer in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_parts_with_other_classes_are_not_compared(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole / "out" / "pairs" / "test", tmp_path / "test")
    manifest = json.loads((tmp_path / "test" / "manifest.json").read_text())
    manifest["classes"].reverse()
    (tmp_path / "test" / "manifest.json").write_text(json.dumps(manifest))
    student, data = whole / "out" / "student", whole / "out" / "pairs" / "train"
    words = [f"data={{train: {data}, test: {tmp_path / 'test'}}}", f"students={{crd: [{student}]}}"]
    assert main(["evaluate", str(whole / "evaluation.yaml"), *words, f"output={tmp_path / 'new'}"]) == 2
    assert "must have the same classes" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_pairs_that_were_learnt_from_do_not_judge(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = whole / "out"
    source = SOURCES.get("synthetic")(train_pairs=96, test_pairs=48, size=32, modalities=("rgb", "depth"))
    for name, count in (("some", 48), ("none", 0)):  # of the test pairs, after 7 training pairs under other keys
        known = (replace(pair, key=f"again_{pair.key}") for pair in islice(source.pairs("train"), 7))
        pairs = chain(known, islice(source.pairs("test"), count))
        write_shards(pairs, tmp_path / name, fields=source.fields(), classes=source.classes())
    words = ["evaluate", str(whole / "evaluation.yaml"), f"students={{crd: [{out}/student]}}", "few_labels=null",
             f"data={{train: {out}/pairs/train, test: {tmp_path}/none}}", f"output={tmp_path / 'new'}"]  # fmt: skip
    assert main(words) == 2
    assert f"data.test: all 7 pairs of {tmp_path / 'none'} are among those of" in capsys.readouterr().err
    assert main([*words, f"data={{train: {out}/pairs/test, test: {out}/pairs/train}}"]) == 2
    assert f"data.test: {out / 'student'} was trained on {out}/pairs/train; evaluate on" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main([*words, f"data.test={tmp_path / 'some'}"]) == 0
    assert f"data.test: 7 of the 55 pairs of {tmp_path / 'some'} are among those of" in capsys.readouterr().err
    assert json.loads((tmp_path / "new" / "report.json").read_text())["figures"]["copies"] == 7


def test_pairs_that_a_student_saw_in_other_folders_are_counted(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = SOURCES.get("synthetic")(train_pairs=96, test_pairs=48, size=32, modalities=("rgb", "depth"))
    train, test = [*source.pairs("train")], [*source.pairs("test")]
    for name, pairs in {
        "seen": train[:24],
        "rest": train[24:48],
        "judge": train[:10] + test[:20],
        "all": train[:5],
    }.items():
        write_shards(iter(pairs), tmp_path / name, fields=source.fields(), classes=source.classes())
    learn = ["supervise", str(whole / "teacher.yaml"), "train.epochs=1", "train.batch_size=12"]
    first, second = tmp_path / "first", tmp_path / "second"  # the second begins from the first and saw what it saw
    assert main([*learn, f"data={tmp_path}/seen", f"output={first}"]) == 0
    assert main([*learn, f"data={tmp_path}/rest", f"student.weights={first}", f"output={second}"]) == 0
    words = ["evaluate", str(whole / "evaluation.yaml"), f"students={{s: [{second}]}}", "few_labels=null", "seeds=1",
             f"data={{train: {tmp_path}/rest, test: {tmp_path}/judge}}"]  # fmt: skip
    assert main([*words, f"data.test={tmp_path}/all", f"output={tmp_path}/new"]) == 2
    assert (
        f"all 5 pairs of {tmp_path}/all are among those of {tmp_path}/seen, which {first} was trained on; evaluate on"
        in (capsys.readouterr().err)
    )
    for name, said, copies, untold in (
        (
            "there",
            f"data.test: 10 of the 30 pairs of {tmp_path}/judge are among those of {tmp_path}/seen, which",
            10,
            [],
        ),
        ("gone", f"trained on in {tmp_path}/seen: gone", 0, [f"{tmp_path}/seen"]),
    ):
        assert main([*words, f"output={tmp_path / name}"]) == 0
        assert capsys.readouterr().err.count(said) == 1
        figures = json.loads((tmp_path / name / "report.json").read_text())["figures"]
        assert (figures["copies"], figures["untold"]) == (copies, untold)
        page = tmp_path / f"page_{name}"
        assert main(["report", str(whole / "page.yaml"), f"runs=[{tmp_path / name}]", f"output={page}"]) == 0
        told = "but for 10, which are among" if copies else f"what {tmp_path}/seen had of them cannot be told"
        assert told in (page / "report.html").read_text()
        shutil.rmtree(tmp_path / "seen", ignore_errors=True)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_without_labels_is_refused_before_anything_is_measured(
    whole: Path, tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, parts = whole / "out", {}
    source = SOURCES.get("synthetic")(train_pairs=96, test_pairs=48, size=32, modalities=("rgb", "depth"))
    for labelled in (0, 20):
        pairs = [replace(pair, label=pair.label if number < labelled else -1)
                 for number, pair in enumerate(source.pairs(part))]  # fmt: skip
        parts[labelled] = tmp_path / str(labelled)
        write_shards(iter(pairs), parts[labelled], fields=source.fields(), classes=source.classes())
    words = ["evaluate", str(whole / "evaluation.yaml"), f"students={{crd: [{out}/student]}}",
             f"data={{train: {out}/pairs/train, test: {out}/pairs/test}}", "few_labels=null"]  # fmt: skip
    if part == "test":
        pairs = [replace(pair, label=3) for pair in source.pairs(part)]
        write_shards(iter(pairs), tmp_path / "one", fields=source.fields(), classes=source.classes())
        assert main([*words, f"data.test={tmp_path / 'one'}", f"output={tmp_path / 'new'}"]) == 2
        assert (
            f"all labelled pairs of {tmp_path / 'one'} are of class {source.classes()[3]!r}" in capsys.readouterr().err
        )
    assert main([*words, f"data.{part}={parts[0]}", f"output={tmp_path / 'new'}"]) == 2
    assert f"data.{part}: none of the {len(pairs)} pairs of {parts[0]} has a label" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main([*words, f"data.{part}={parts[20]}", f"output={tmp_path / 'new'}"]) == 0


def test_label_counts_that_a_class_does_not_have_are_left_out_and_shown_nowhere(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, source = whole / "out", SOURCES.get("synthetic")(train_pairs=96, size=32, modalities=("rgb", "depth"))
    pairs = [replace(pair, label=pair.label if number % 3 else -1) for number, pair in enumerate(source.pairs("train"))]
    write_shards(iter(pairs), tmp_path / "some", fields=source.fields(), classes=source.classes())
    words = ["evaluate", str(whole / "evaluation.yaml"), f"students={{crd: [{out}/student]}}", "seeds=1",
             f"data={{train: {tmp_path}/some, test: {out}/pairs/test}}"]  # fmt: skip
    few = ["few_labels.labels=[1, 50, 1000]", "few_labels.whole=none", f"output={tmp_path / 'new'}"]
    assert main([*words, *few]) == 0
    assert "few_labels.labels: without 50, 1000, for class " in capsys.readouterr().out
    figures = json.loads((tmp_path / "new" / "report.json").read_text())["figures"]
    assert figures["labelled"] == [64, 48]
    assert all(list(curve) == ["1"] for curve in figures["few_labels"].values())
    assert main(["report", str(whole / "page.yaml"), f"runs=[{tmp_path}/new]", f"output={tmp_path}/page"]) == 0
    page = (tmp_path / "page" / "report.html").read_text()
    assert "96 training pairs (64 of them with labels), 48 unseen test pairs;" in page and ">50</th>" not in page


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("students={~crd: null}", "students must name at least one finished run"),
        ("students={crd: []}", "students.crd must have from 1 folder to one for each of the 2 seeds, got 0"),
        ("students={crd: [OUT/pairs]}", "pairs holds no exported model"),
        ("students={crd: [STRANGE]}", "must be the folder of a finished run of transfer, supervise, pretrain"),
        ("students={crd: [OUT/nothing]}", "nothing holds no exported model"),
        ("teacher=rbg", "was not taught by 'rbg'; did you mean 'rgb'?"),
        ("data.test=OUT/pairs", "pairs holds the shards of test, train: name one of them"),
        ("few_labels.labels=[5, null, 5]", "few_labels.labels must be different counts, got [5, None, 5]"),
        ("metrics.retrieval.at=[1, 1]", "metrics.retrieval cannot be built: at must be one or more different numbers"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_measured(
    whole: Path, tmp_path: Path, override: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = whole / "out"
    data = f"data={{train: {out}/pairs/train, test: {out}/pairs/test}}"
    strange = shutil.copytree(out / "student" / "model", tmp_path / "strange")
    given = [data, f"students={{crd: [{out}/student]}}",
             override.replace("OUT", str(out)).replace("STRANGE", str(strange))]  # fmt: skip
    assert main(["evaluate", str(whole / "evaluation.yaml"), *given, f"output={tmp_path / 'new'}"]) == 2
    told = capsys.readouterr().err
    assert words in told and "Traceback" not in told
    assert not (tmp_path / "new").exists()


class Recorded:
    """A module whose functions record the first column of each matrix that they get, and the folder of signals."""

    def __init__(self, module: ModuleType, calls: dict[str, list[list[Any]]]) -> None:
        self.module, self.calls = module, calls

    def __getattr__(self, name: str) -> Any:
        def record(*arguments: Any, **options: Any) -> Any:
            given = [*arguments, *options.values()]
            columns = [{*item[:, 0].tolist()} for item in given if isinstance(item, torch.Tensor) and item.ndim == 2]
            folders = [item.signals.shards.folder.name for item in given if isinstance(item, decoded.Chosen)]
            self.calls.setdefault(name, []).append([*columns, *folders])
            return found(*arguments, **options)

        found = getattr(self.module, name)
        return record if callable(found) and not isinstance(found, type) else found


def test_an_evaluation_learns_from_training_pairs_and_judges_by_test_pairs_alone(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embeddings carry which part they are of in their first number: 1 for training pairs, -1 for test pairs."""
    calls: dict[str, list[list[Any]]] = {}
    features = Evaluator.features

    def tag(self: Evaluator, encoder: Encoder, view: View, shards: Shards, *, alone: bool = False) -> Features:
        found = features(self, encoder, view, shards, alone=alone)
        number = 1.0 if shards.folder.name == "train" else -1.0
        return found._replace(embedding=found.embedding.index_fill(1, torch.tensor([0]), number))

    monkeypatch.setattr(Evaluator, "features", tag)
    for module, names in {
        classification: ("neighbours", "probe"), retrieval: ("retrieval",), diagnostics: ("diagnostics", "few_labels"),
        learning: ("probe", "few_labels"), spaces: ("retrieval",),
    }.items():  # fmt: skip
        for name in names:
            monkeypatch.setattr(module, name, Recorded(getattr(module, name), calls))
    out = whole / "out"
    words = [f"data={{train: {out}/pairs/train, test: {out}/pairs/test}}", f"students={{crd: [{out}/student]}}",
             "metrics={classification: {}, retrieval: {}, diagnostics: {per_class: 4}}"]  # fmt: skip
    asked = load(evaluate.Config, whole / "evaluation.yaml", words)
    evaluation = Evaluator(asked, RunFolder.of(tmp_path / "new", "evaluate", asked, {}))
    monkeypatch.setattr(diagnostics, "diagnose_encoder", lambda *_, **__: {})
    evaluation.measure()
    learnt, judged = {1.0}, {-1.0}
    for name, expected in {
        "classify": [learnt, judged], "best_neighbours": [learnt, judged], "train_on": ["train"],
        "ridge": [learnt, {0.0}],  # less the mean of the teacher's training embeddings
    }.items():  # fmt: skip
        assert calls[name] and all(call == expected for call in calls[name]), name
    assert all(call == [learnt, judged] for call in calls["linear_probe"]) and len(calls["linear_probe"]) > 8
    assert all(call[0] == judged for call in calls["apply_map"])
    assert sum({-2.0} in call for call in calls["hits"]) == 2 * len(calls["ridge"])  # test pairs less the same mean


def test_further_students_are_trained_with_other_seeds(
    whole: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole / "out" / "student", tmp_path / "student")
    words = [f"data={{train: {whole}/out/pairs/train, test: {whole}/out/pairs/test}}", "trainings=2",
             f"students={{crd: [{tmp_path}/student]}}", "few_labels.whole=none", f"output={tmp_path}/out"]  # fmt: skip
    for _ in range(2):  # the second time everything is finished
        assert main(["evaluate", str(whole / "evaluation.yaml"), *words]) == 0
        told = capsys.readouterr().out
        assert "and other trainings (2)." in told and "linear probe" in told
    ours, theirs = (
        load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "student_seed_1", second)
    )
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    figures = json.loads((tmp_path / "out" / "report.json").read_text())["figures"]
    assert len(figures["table"]["crd"]["probe"]["runs"]) == 2


def test_a_students_exported_folder_stands_for_its_run(whole: Path, tmp_path: Path) -> None:
    found = {}
    for folder in ("student", "student/model"):
        students = f"students={{crd: [{whole}/out/{folder}]}}"
        data = f"data={{train: {whole}/out/pairs/train, test: {whole}/out/pairs/test}}"
        found[folder] = evaluate.inputs(load(evaluate.Config, whole / "evaluation.yaml", [data, students]))
    assert found["student/model"] == found["student"] and "teacher" in found["student"]


@pytest.fixture(scope="module")
def second(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that differs from the first by its seed."""
    folder = tmp_path_factory.mktemp("second")
    first = str(whole / "out" / "student" / "config.yaml")
    assert main(["transfer", first, "seed=1", f"output={folder / 'student'}"]) == 0
    return folder / "student"


def test_only_students_that_differ_by_their_seeds_are_averaged(
    whole: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = whole / "out", tmp_path / "other"
    assert main(["transfer", str(second / "config.yaml"), "objectives.crd.weight=0.1", f"output={other}"]) == 0
    words = ["evaluate", str(whole / "evaluation.yaml"), f"data={{train: {out}/pairs/train, test: {out}/pairs/test}}",
             "few_labels=null", f"output={tmp_path / 'new'}"]  # fmt: skip
    for students, said in (
        (f"{second}, {other}", f"students.crd: {second} and {other} differ in more than their seed, so give each a "
         "name of its own. What differs:\n  objectives.crd.weight: 0.8 and 0.1\n"),
        (f"{second}, {second}/model", f"students.crd: {second}/model has the weights of {second}, which would count"),
    ):  # fmt: skip
        assert main([*words, f"students={{crd: [{students}]}}"]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main([*words, f"students={{crd: [{out}/student, {second}]}}"]) == 0


def test_few_labels_count_every_student_alike_and_train_only_whom_they_are_asked_to(
    whole: Path, second: Path, tmp_path: Path
) -> None:
    out = whole / "out"
    words = ["evaluate", str(whole / "evaluation.yaml"), f"data={{train: {out}/pairs/train, test: {out}/pairs/test}}",
             f"students={{crd: [{out}/student, {second}]}}", "seeds=3", "few_labels.labels=[1]"]  # fmt: skip
    curves = {}
    for trained in ("scratch", "none"):
        folder = tmp_path / trained
        assert main([*words, f"few_labels.whole={trained}", f"output={folder}"]) == 0
        curves[trained] = json.loads((folder / "report.json").read_text())["figures"]["few_labels"]
    assert len(curves["none"]["crd, frozen"]["1"]["runs"]) == 2  # the third seed would count one of them twice
    assert len(curves["none"]["teacher, frozen"]["1"]["runs"]) == 3
    assert set(curves["none"]) == {"crd, frozen", "random weights, frozen", "teacher, frozen"}
    assert set(curves["scratch"]) == {*curves["none"], "scratch"}


def test_fine_tuning_does_not_depend_on_what_else_is_asked_for(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, found = whole / "out", {}
    words = [f"data={{train: {out}/pairs/train, test: {out}/pairs/test}}", "seeds=1"]
    for labels, names in (("[null]", ["crd"]), ("[1, null]", ["other", "crd"])):
        students = f"students={json.dumps({name: [f'{out}/student'] for name in names})}"
        asked = load(evaluate.Config, whole / "evaluation.yaml", [*words, students, f"few_labels.labels={labels}"])
        tuned = []  # the last ones are crd and scratch with all labels

        def keep(encoder: Encoder, *_: Any, tuned: list[Any] = tuned, **__: Any) -> None:
            weights = {name: weight.clone() for name, weight in encoder.state_dict().items()}
            tuned.append((weights, torch.rand(3)))  # as dropout would draw

        monkeypatch.setattr(few_labels, "train_on", keep)
        evaluation = Evaluator(asked, RunFolder.of(tmp_path / "new", "evaluate", asked, {}))
        [*Learning(evaluation, "run").whole(lambda who, network: Row(who, {}, {}))]
        found[labels] = tuned[-2:]
    torch.testing.assert_close(*found.values(), rtol=0, atol=0)


def test_a_teacher_that_has_changed_since_is_not_compared_with(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(whole / "out", tmp_path / "out"))
    config = out / "student" / "config.yaml"
    config.write_text(config.read_text().replace(str(whole / "out"), str(out)))
    data = f"data={{train: {out}/pairs/train, test: {out}/pairs/test}}"
    words = ["evaluate", str(whole / "evaluation.yaml"), data, f"students={{crd: [{out}/student]}}"]
    tensors = load_file(out / "teacher" / "model" / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, out / "teacher" / "model" / "model.safetensors")
    card = out / "teacher" / "model" / "model.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "weights": ""}))  # else the sum would be refused first
    assert main([*words, f"output={tmp_path / 'new'}"]) == 2
    assert "has other weights now than when it taught" in capsys.readouterr().err


def test_a_student_of_two_teachers_is_compared_through_the_head_of_the_one_asked_for(
    whole: Path, tmp_path: Path
) -> None:
    out = whole / "out"
    config = transfer_config(str(out / "pairs" / "train"), str(out / "teacher"))
    config["teachers"]["depth"] = {"view": "depth", "weights": str(out / "student")}
    path = write(tmp_path / "two.yaml", {**config, "output": str(tmp_path / "two")})
    assert main(["transfer", path, "train.epochs=1"]) == 0
    words = [f"data={{train: {out}/pairs/train, test: {out}/pairs/test}}", f"students={{crd: [{tmp_path}/two]}}"]
    for teacher in ("rgb", "depth"):
        asked = load(evaluate.Config, whole / "evaluation.yaml", [*words, f"teacher={teacher}"])
        evaluation = Evaluator(asked, RunFolder.of(tmp_path / teacher, "evaluate", asked, {}))
        ours = evaluation.embed(evaluation.first.encoder, evaluation.view)
        theirs = evaluation.embed(evaluation.teacher.encoder, evaluation.teacher_view)
        found = in_heads(evaluation.first, ours.test, theirs.test, teacher)[f"crd.{teacher}"]
        with torch.inference_mode():
            expected = evaluation.first.heads[f"crd.{teacher}"].project(ours.test, theirs.test)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_a_student_sees_the_data_once_where_its_features_are_few(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = whole / "out"
    words = [f"data={{train: {out}/pairs/train, test: {out}/pairs/test}}", f"students={{crd: [{out}/student]}}"]
    asked = load(evaluate.Config, whole / "evaluation.yaml", words)
    evaluation = Evaluator(asked, RunFolder.of(tmp_path / "new", "evaluate", asked, {}))
    kept = evaluation.see(evaluation.first)
    assert evaluation.see(evaluation.first) is kept
    evaluation.seen.clear()
    monkeypatch.setattr(embedding, "HELD", 10)
    again = evaluation.see(evaluation.first)
    assert evaluation.see(evaluation.first) is not again and not evaluation.seen
    assert torch.equal(again.test.embedding, kept.test.embedding)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames without labels as a depth camera's user has them: colour, depth, and a text file of numbers."""
    folder = tmp_path_factory.mktemp("recording")
    (folder / "frames").mkdir()
    for number in range(80):
        scene = draw_scene(generator("recording", number), size=32)
        stem = folder / "frames" / f"{number:03d}"
        stem.with_suffix(".color.jpg").write_bytes(Rgb().encode(Rgb().render(scene)))
        stem.with_suffix(".depth.png").write_bytes(Depth(scale_m=0.001).encode(Depth().render(scene)))
        stem.with_suffix(".pose.txt").write_text(f"{scene.wall_m} {scene.solids[0].distance_m}")
    return folder


def test_signals_are_decoded_when_asked_for_and_few_are_kept(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards.open(whole / "out" / "pairs" / "train")
    view = open_view(shards, "depth", size=32, max_m=8.0)
    decode, read = Depth.decode, []
    monkeypatch.setattr(Depth, "decode", lambda self, data: read.append(1) or decode(self, data))
    monkeypatch.setattr(decoded, "HELD", 2 * 32 * 32)
    signals = decoded.Chosen(decoded.Decoded(shards, view), [5, 7, 11, 5])
    assert len(signals) == 4 and not read
    first = [signals[position] for position in range(4)]
    assert len(read) == 3 and torch.equal(first[0], first[3]) and not torch.equal(first[0], first[1])
    again = [signals[position] for position in range(4)]
    assert len(read) == 4  # only pair 11 found no room
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))


def test_a_recording_without_labels_is_judged_by_numbers_that_come_with_the_pairs(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {"rgb": {"modality": "rgb", "files": "{key}.color.jpg"},
               "depth": {"modality": "depth", "files": "{key}.depth.png", "scale_m": 0.001}}  # fmt: skip
    source = {"name": "folder", "root": str(recording / "frames"), "members": members,
              "facts": {"pose": "{key}.pose.txt"}, "test_share": 0.3}  # fmt: skip
    assert main(["shards", write(tmp_path / "s.yaml", {"source": source, "output": str(tmp_path / "pairs")})]) == 0
    published = ENCODERS.get("convnet")((3, 32, 32), 0, width=8, stages=3).trunk.state_dict()
    torch.save(published, tmp_path / "published.pth")
    config = transfer_config(str(tmp_path / "pairs" / "train"), str(tmp_path / "published.pth"))
    config["teachers"]["rgb"]["encoder"] = dict(ENCODER)
    path = write(tmp_path / "t.yaml", {**config, "output": str(tmp_path / "student")})
    assert main(["transfer", path, "train.epochs=1"]) == 0
    asked = {
        "data": {"train": str(tmp_path / "pairs" / "train"), "test": str(tmp_path / "pairs" / "test")},
        "students": {"crd": [str(tmp_path / "student")]},
        "metrics": {"retrieval": {}, "regression": {"fact": "pose", "columns": [0, 1], "unit": "m"}},
        "few_labels": {"steps": 60, "least_steps": 60, "batch_size": 16},
        "seeds": 2,
        "workers": 0,
    }
    evaluation = write(tmp_path / "e.yaml", {**asked, "output": str(tmp_path / "evaluation")})
    assert main(["evaluate", evaluation]) == 0
    figures = json.loads((tmp_path / "evaluation" / "report.json").read_text())["figures"]
    assert set(figures["table"]) == {"teacher", "crd", "random weights", "scratch, trained on pose"}
    scratch = figures["table"]["scratch, trained on pose"]["error.pose"]
    assert scratch["mean"] < 0.7 * figures["metrics"]["error.pose"]["chance"] and len(scratch["runs"]) == 2
    assert not figures["few_labels"] and figures["metrics"]["frozen@1"]["chance"] is None
    page = write(tmp_path / "r.yaml", {"runs": [str(tmp_path / "evaluation")], "output": str(tmp_path / "page")})
    assert main(["report", page]) == 0
    assert '<th scope="row">error of pose, m</th>' in (tmp_path / "page" / "report.html").read_text()
    assert main(["evaluate", evaluation, "metrics.regression.fact=psoe", f"output={tmp_path / 'new'}"]) == 2
    assert "000000.tar has no fact 'psoe'; it has group, label, pose" in capsys.readouterr().err


def test_shards_are_checked_and_described(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = whole / "out" / "pairs"
    assert main(["shards", "--check", str(pairs)]) == 0
    assert main(["shards", "--info", str(pairs)]) == 0
    assert "96 pairs in 1 shards" in capsys.readouterr().out
    assert main(["shards", "--sheet", str(pairs / "train")]) == 0
    assert (pairs / "train" / "sheet.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["shards", "--check", str(whole)]) == 1
    assert "holds no shards" in capsys.readouterr().err
    unfinished = Path(shutil.copytree(pairs, tmp_path / "pairs"))
    (unfinished / "test" / "manifest.json").unlink()
    assert main(["shards", "--check", str(unfinished)]) == 1
    assert "test/manifest.json is missing (the folder exists but its shards" in capsys.readouterr().err


def shuffled(pairs: Iterator[Pair]) -> Iterator[Pair]:
    """Every pair with the colour picture of the one 37 places on: wrong on purpose, otherwise the same data."""
    listed = list(pairs)
    for place, pair in enumerate(listed):
        other = listed[(place + 37) % len(listed)]
        yield replace(pair, members={**pair.members, "rgb.jpg": other.members["rgb.jpg"]})


def test_with_shuffled_pairs_the_gain_and_the_retrieval_disappear(tmp_path: Path) -> None:
    calm = ["views.rgb.jitter=0.0", "views.rgb.grey=0.0"]
    source = SOURCES.get("synthetic")(train_pairs=512, test_pairs=128, size=32, modalities=("rgb", "depth"))
    made = {"true": source.pairs("train"), "wrong": shuffled(source.pairs("train")), "test": source.pairs("test")}
    for name, pairs in made.items():
        write_shards(pairs, tmp_path / name, fields=source.fields(), classes=source.classes())
    teacher = write(
        tmp_path / "teacher.yaml",
        {"data": str(tmp_path / "true"), "views": {"rgb": VIEWS["rgb"]}, "output": str(tmp_path / "teacher"),
         "student": {"view": "rgb", "encoder": ENCODER}, "train": {**TRAIN, "epochs": 15}},
    )  # fmt: skip
    assert main(["supervise", teacher, "student.encoder.width=16", *calm]) == 0
    table = {}
    for name in ("true", "wrong"):
        student = transfer_config(str(tmp_path / name), str(tmp_path / "teacher"))
        config = write(tmp_path / f"{name}.yaml", {**student, "output": str(tmp_path / f"run_{name}")})
        assert (
            main(
                [
                    "transfer",
                    config,
                    "objectives={~crd: , infonce: }",
                    "student.encoder.width=16",
                    "train.epochs=12",
                    *calm,
                ]
            )
            == 0
        )
        evaluation = write(
            tmp_path / f"evaluate_{name}.yaml",
            {"data": {"train": str(tmp_path / "true"), "test": str(tmp_path / "test")}, "few_labels": None, "seeds": 1,
             "students": {"crd": [str(tmp_path / f"run_{name}")]}, "output": str(tmp_path / f"figures_{name}"),
             "workers": 0},
        )  # fmt: skip
        assert main(["evaluate", evaluation]) == 0
        figures = json.loads((tmp_path / f"figures_{name}" / "report.json").read_text())["figures"]
        table[name] = {key: value["mean"] for key, value in figures["table"]["crd"].items()}
        table["random"] = {key: value["mean"] for key, value in figures["table"]["random weights"].items()}
    chance = 5 / 128
    assert table["true"]["infonce.to_teacher.R@5"] > 3 * chance
    assert table["wrong"]["infonce.to_teacher.R@5"] < table["true"]["infonce.to_teacher.R@5"] / 2
    assert table["true"]["probe"] > table["random"]["probe"] + 0.15
    assert table["wrong"]["probe"] < table["true"]["probe"] - 0.15


def test_an_exported_student_is_used_as_the_docs_say(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    blocks = [block.split("```")[0] for block in page.split("```python\n")[1:]]
    (code,) = (block for block in blocks if "cm.load" in block)
    source = SOURCES.get("synthetic")(train_pairs=1, test_pairs=1, size=32, modalities=("depth",))
    monkeypatch.chdir(tmp_path)
    Path("frame.depth.png").write_bytes(next(source.pairs("train")).members["depth.png"])
    Path("runs/doom").mkdir(parents=True)
    Path("runs/doom/student").symlink_to(whole / "out" / "student")
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["vectors"].shape == (1, 32)
    assert all(len(stage) == 1 for stage in (found["fine"], *found["coarse"]))
