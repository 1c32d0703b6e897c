"""Comparisons: how weights are chosen, when the test set is opened, what is kept, what is counted, what is refused."""

import json
import signal
import statistics
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from commands import assert_equal, launch, start, wait_until, weights, write

from crossmodal.data.shards import Shards
from pipelines import compare, transfer
from pipelines.__main__ import main
from pipelines.comparison.comparison import Comparison, figure_of
from pipelines.config import ConfigError, load
from pipelines.reporting.table import markdown, rows_of
from pipelines.schemas.compare import Trial

ENCODER = {"name": "convnet", "width": 8, "stages": 2}
VIEWS = {"rgb": {"modality": "rgb", "size": 16}, "depth": {"modality": "depth", "size": 16, "max_m": 8.0}}
TRAIN = {"epochs": 1, "batch_size": 24, "lr": 0.003, "workers": 0}
ROWS = {"kd": {"kd": {}}, "crd+kd": {"crd": {"weight": 0.5}, "kd": {}}, "labels": {}}


@pytest.fixture(scope="module")
def files(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a comparison of three rows, cross-entropy beside: 4 trials of 3 steps, 6 students of 4."""
    folder = tmp_path_factory.mktemp("compare")
    data, teacher = str(synthetic / "train"), str(folder / "teacher")
    write(folder / "teacher.yaml", {"data": data, "views": {"rgb": VIEWS["rgb"]},
          "student": {"view": "rgb", "encoder": ENCODER}, "train": TRAIN, "output": teacher})  # fmt: skip
    write(folder / "transfer.yaml", {"data": data, "views": VIEWS, "train": TRAIN,
          "teachers": {"rgb": {"view": "rgb", "weights": teacher}},
          "student": {"view": "depth", "encoder": ENCODER}})  # fmt: skip
    write(folder / "evaluate.yaml", {"data": {"test": str(synthetic / "test")}, "workers": 0,
          "few_labels": {"labels": [2, None], "whole": "scratch", "steps": 4, "least_steps": 4}})  # fmt: skip
    return write(folder / "compare.yaml", {
        "transfer": {"base": "transfer.yaml"}, "evaluate": {"base": "evaluate.yaml"},
        "objectives": ROWS, "beside": {"cross_entropy": {"weight": 0.5}}, "seeds": [3, 4],
        "metrics": ["probe", "frozen@2", "classifier", "map.to_teacher.R@5", "heads.to_teacher.R@5"],
        "search": {"weights": [0.1, 4], "epochs": 1, "held_out": {"share": 0.25}}, "output": str(folder / "out"),
    })  # fmt: skip


@pytest.fixture(scope="module")
def config(files: Path) -> Path:
    """The same, with a teacher that is trained."""
    assert main(["supervise", str(files.parent / "teacher.yaml")]) == 0
    return files


@pytest.fixture(scope="module")
def whole(config: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folder of the finished comparison, and what it did in order: trainings, and data sets that were opened."""
    events: list[str] = []
    train, opened = transfer.run, Shards.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shards, "open", lambda folder: events.append(f"open {Path(folder).name}") or opened(folder))
        patch.setattr(transfer, "run", lambda config, path: events.append(config.output) or train(config, path))
        assert main(["compare", str(config)]) == 0
    yield config.parent / "out", events


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())["figures"]


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def figures_alone(found: dict[str, Any]) -> dict[str, Any]:
    """Results without what a clock or a folder decides."""
    costs = ("milliseconds_per_step", "peak_memory_mb", "students")
    rows = {name: {key: value for key, value in row.items() if key not in costs} for name, row in found["rows"].items()}
    return {**found, "rows": rows, "shared": {key: value for key, value in found["shared"].items() if key != "seconds"}}


@pytest.mark.slow
def test_the_test_set_is_opened_when_every_weight_has_been_chosen(whole: tuple[Path, list[str]]) -> None:
    folder, events = whole
    trained = [Path(event).relative_to(folder).parts for event in events if event.startswith(str(folder))]
    assert trained == [
        *(("search", name, f"weight_{weight}") for name in ("kd", "crd+kd") for weight in ("0.1", "4")),
        *((name, f"seed_{seed}") for name in ROWS for seed in (3, 4)),
    ]
    first = events.index("open test")
    assert all(event.startswith("open") for event in events[first:])
    assert all(event in ("open train", "open test") for event in events[first:])


@pytest.mark.slow
def test_the_chosen_weight_is_the_best_on_held_out_pairs(whole: tuple[Path, list[str]]) -> None:
    folder, _ = whole
    searched, found = report(folder / "search" / "evaluation"), results(folder)
    assert searched["test_pairs"] + searched["train_pairs"] == 96 and searched["test_pairs"] == 24
    assert found["shared"]["search"] == {"steps": 3, "held_out_pairs": 24}
    for name in ("kd", "crd+kd"):
        scores = {weight: searched["table"][f"{name}/weight_{weight:g}"]["probe"]["mean"] for weight in (0.1, 4.0)}
        row = found["rows"][name]
        assert {trial["weight"]: trial["score"] for trial in row["trials"]} == scores
        best = [weight for weight, score in scores.items() if score == max(scores.values())]
        assert row["chosen"]["weight"] == best[-1]  # of equals, the one nearer to 1, which is 4
        own = {key: 1.0 if key == "kd" else 0.5 for key in name.split("+")}
        trained = yaml.safe_load((folder / name / "seed_3" / "config.yaml").read_text())
        assert trained["held_out"] is None and trained["seed"] == 3 and trained["train"]["epochs"] == 1
        assert {key: term["weight"] for key, term in trained["objectives"].items()} == {
            **{key: weight * row["chosen"]["weight"] for key, weight in own.items()}, "cross_entropy": 0.5
        }  # fmt: skip
    assert found["rows"]["labels"]["trials"] == [] and found["rows"]["labels"]["chosen"] == {"weight": 1, "rate": 1}


@pytest.mark.slow
def test_the_tables_numbers_are_those_of_the_evaluation(whole: tuple[Path, list[str]]) -> None:
    folder, _ = whole
    judged, found = report(folder / "evaluation"), results(folder)
    assert found == report(folder)
    for name, row in found["rows"].items():
        assert row["figures"]["probe"] == judged["table"][name]["probe"]
        assert row["figures"]["frozen@2"] == judged["few_labels"][f"{name}, frozen"]["2"]
        assert len(row["figures"]["probe"]["runs"]) == row["trained"] == 2
        students = [report(folder / name / f"seed_{seed}") for seed in (3, 4)]
        assert {student["steps"] for student in students} == {found["shared"]["steps"]} == {4}
        assert row["milliseconds_per_step"] == statistics.median(each["milliseconds_per_step"] for each in students)
        assert row["peak_memory_mb"] == max(each["peak_memory_mb"] for each in students)
    means = [row["figures"]["probe"]["mean"] for row in found["rows"].values()]
    assert means == sorted(means, reverse=True)
    assert found["rows"]["kd"]["figures"]["heads.to_teacher.R@5"] is None
    assert found["baselines"]["scratch"]["probe"] == judged["table"]["scratch, all labels"]["probe"]
    assert found["baselines"]["teacher"]["frozen@2"] == judged["few_labels"]["teacher, frozen"]["2"]
    text = (folder / "table.md").read_text()
    assert ("Peak MB on a CPU is all of the process" in text) == (found["shared"]["device"] == "cpu")
    assert text.startswith(markdown(rows_of(found))) and "24 pairs held out of training, 3 steps a trial" in text
    best = next(iter(found["rows"].values()))["figures"]["probe"]
    assert f"| {100 * best['mean']:.1f} ± {100 * best['std']:.1f} |" in text.splitlines()[2]
    page = (folder / "report" / "report.html").read_text()
    assert all(f'<th scope="row">{name}</th>' in page for name in (*ROWS, "chance")) and "held out of training" in page


@pytest.mark.slow
def test_a_finished_comparison_is_not_repeated_and_a_row_is_added_alone(
    whole: tuple[Path, list[str]], config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = whole
    before = results(folder)
    assert main(["compare", str(config)]) == 0
    assert capsys.readouterr().out.count("finished before; nothing to do") == 2  # the comparison and its page
    trained: list[str] = []
    train = transfer.run
    monkeypatch.setattr(
        transfer, "run", lambda config, path: (Path(config.output) / "report.json").exists()
        or trained.append(config.output) or train(config, path)
    )  # fmt: skip
    assert main(["compare", str(config), "objectives.flow={fsp: {}}", "transfer.prepare.epochs=2"]) == 0
    assert [Path(path).relative_to(folder).parts for path in trained] == [
        ("search", "flow", "weight_0.1"), ("search", "flow", "weight_4"), ("flow", "seed_3"), ("flow", "seed_4")
    ]  # fmt: skip
    rows = results(folder)["rows"]
    assert {name: rows[name] for name in before["rows"]} == before["rows"]
    assert rows["flow"]["preparation_steps"] == 8 and rows["kd"]["preparation_steps"] is None
    assert "Prepared before: flow in 8 steps." in (folder / "table.md").read_text()
    stage = {"pipeline": "compare", "config": config.name, "set": {"metrics": ["probe"]}}
    whole_file = write(config.parent / "run.yaml", {"stages": {folder.name: stage}, "output": str(folder.parent)})
    trained.clear()
    assert main(["run", str(whole_file)]) == 0
    assert not trained and not folder.with_name(f"{folder.name}.before-1").exists()


@pytest.mark.slow
def test_killed_at_any_time_the_same_command_ends_equal(config: Path, tmp_path: Path, synthetic: Path) -> None:
    words = ["compare", str(config), "~objectives.crd+kd", "seeds=[3]", "transfer.train.save_every=1"]
    process = start(*words, f"output={tmp_path / 'killed'}")
    wait_until(lambda: list(tmp_path.glob("killed/kd/seed_3/checkpoints/*.pt")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = tmp_path / "killed" / "search" / "kd" / "weight_4" / "report.json"
    written = kept.stat().st_mtime_ns
    for name in ("killed", "straight"):
        assert main([*words, f"output={tmp_path / name}"]) == 0
    assert kept.stat().st_mtime_ns == written
    assert figures_alone(results(tmp_path / "killed")) == figures_alone(results(tmp_path / "straight"))
    assert_equal(*(weights(tmp_path / name / "kd" / "seed_3") for name in ("killed", "straight")))


@pytest.mark.slow
def test_two_processes_compare_together(config: Path, tmp_path: Path) -> None:
    words = ["compare", str(config), "objectives={~labels: , ~crd+kd: }", "seeds=[3]", f"output={tmp_path / 'out'}"]
    done = launch(*words)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "out")
    assert found["shared"]["processes"] == 2 and found["rows"]["kd"]["trained"] == 1
    assert (tmp_path / "out" / "report" / "report.html").is_file()


@pytest.mark.slow
def test_objectives_without_a_teacher_are_compared(files: Path, tmp_path: Path) -> None:
    words = ["objectives={~kd: , ~crd+kd: }", "objectives.smooth={wide: {name: cross_entropy, smoothing: 0.1}}",
             "transfer.teachers={~rgb: }", "metrics=[probe]", "seeds=[3]", f"output={tmp_path / 'out'}"]  # fmt: skip
    assert main(["compare", str(files), *words]) == 0
    found = results(tmp_path / "out")
    assert {name: row["trained"] for name, row in found["rows"].items()} == {"labels": 1, "smooth": 1}
    assert found["baselines"]["teacher"] == {"probe": None}


@pytest.mark.slow
def test_what_diverges_is_counted_and_does_not_stop_the_rest(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(config), "objectives.wild={kd: {weight: 1e30}}", "objectives={~labels: , ~crd+kd: }",
             "search.weights=[1, 1e32]", "transfer.train.optimiser=sgd", f"output={tmp_path / 'out'}"]  # fmt: skip
    assert main(words) == 0
    found = results(tmp_path / "out")
    assert list(found["rows"]) == ["kd", "wild"]
    assert [trial["diverged"] for trial in found["rows"]["kd"]["trials"]] == [False, True]
    assert found["rows"]["kd"]["chosen"]["weight"] == 1 and found["rows"]["kd"]["diverged"] == 0
    assert found["rows"]["wild"]["chosen"] is None
    assert (found["rows"]["wild"]["trained"], found["rows"]["wild"]["diverged"]) == (0, 2)
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| wild | diverged | - | - | - | - | 0 of 2 | - | - | - |" in text
    assert "Diverged in the search: kd at weight x 1e+32; wild at weight x 1; wild at weight x 1e+32." in text
    capsys.readouterr()
    (tmp_path / "out" / "report.json").unlink()
    assert main(words) == 0
    assert capsys.readouterr().out.count("diverged before") == 3  # they are not tried again


@pytest.mark.slow
def test_a_student_that_diverges_in_the_end_is_left_out_of_the_mean(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.config.errors import DivergedError

    train = transfer.run

    def run(asked: transfer.Config, path: Path) -> None:
        train(asked, path)
        if asked.output.endswith("kd/seed_4"):
            (Path(asked.output) / "report.json").unlink()
            raise DivergedError("on purpose")

    monkeypatch.setattr(transfer, "run", run)
    words = ["~objectives.crd+kd", "search=null", f"output={tmp_path / 'out'}"]
    assert main(["compare", str(config), *words]) == 0
    row = results(tmp_path / "out")["rows"]["kd"]
    assert (row["trained"], row["diverged"]) == (1, 1)
    assert len(row["figures"]["probe"]["runs"]) == 1 and row["figures"]["probe"]["std"] is None
    assert "| 1 of 2 |" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.slow
def test_rows_that_cannot_be_built_are_all_named_before_anything_is_trained(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["objectives.maps={at: {}}", "objectives.flow={fsp: {}}", "transfer.views.depth.aligned=false"]
    assert main(["compare", str(config), *words, f"output={tmp_path / 'out'}"]) == 2
    told = capsys.readouterr().err
    assert "row maps: objectives.at compares maps place by place, so views 'depth' and 'rgb'" in told
    assert "row flow: objectives.fsp compares" in told and "Traceback" not in told
    assert main(["compare", str(config), "objectives.odd={kd: {temperature: -1}}", f"output={tmp_path / 'out'}"]) == 2
    assert "row odd: objectives.kd: " in capsys.readouterr().err
    words = ["~beside", "~objectives.labels", "objectives.sp={sp: {}}", "metrics=[classifier]"]
    assert main(["compare", str(config), *words, f"output={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err == (
        "row sp: metrics.0 is classifier, and no objective here trains a classifier; add cross_entropy\n"
    )
    for share, told in (
        ("0.0001", "search.held_out: a share of 0.0001 holds out none"),
        ("0.98", "search.held_out.share: 0.98 leaves "),
    ):
        words = [f"search.held_out.share={share}", f"output={tmp_path / 'out'}"]
        assert main(["compare", str(config), *words]) == 2
        assert capsys.readouterr().err.startswith(told)
    assert main(["compare", str(config), f"evaluate.data.test={tmp_path}", f"output={tmp_path / 'out'}"]) == 2
    assert f"evaluate.data.test: {tmp_path}/manifest.json is missing" in capsys.readouterr().err
    assert main(["compare", str(config), "evaluate.data.test=${transfer.data}", f"output={tmp_path / 'out'}"]) == 2
    assert "evaluate.data.test: " in (told := capsys.readouterr().err) and "has the pairs of transfer.data" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("objectives={~kd: , ~crd+kd: , ~labels: }", "objectives must name at least one row of the table"),
        ("objectives.search={kd: {}}", "objectives.search needs another name: of letters, digits, _, + and -, not sea"),
        ("objectives={a/b: {kd: {}}}", "objectives.a/b needs another name"),
        ("~beside", "objectives.labels must have an objective, for there is none beside it"),
        ("beside.kd={}", "objectives.kd.kd is beside every row already; give it another name"),
        ("objectives.kd.kd.teachers=[gps]", "objectives.kd.kd.teachers must be one of the teachers, got 'gps'"),
        ("objectives.kd={a/b: {name: kd}}", "objectives.kd.a/b needs another name: use letters, digits, _ and -"),
        ("transfer.teachers={a/b: {view: rgb, weights: w}}", "transfer.teachers.a/b needs another name: use letters"),
        ("seeds=[]", "seeds must be one or more different numbers, got []"),
        ("seeds=[1, 1]", "seeds must be one or more different numbers, got [1, 1]"),
        ("search.weights=[1.0, 1.0]", "search.weights must be one or more different factors, got [1.0, 1.0]"),
        ("search.weights=[0]", "search.weights must each be above 0, got [0.0]"),
        ("metrics=[]", "metrics must be one or more different metrics, got []"),
        ("metrics=[prob]", "metrics.0 must be a metric that evaluate.metrics or evaluate.few_labels measures"),
        ("metrics=[prob]", "got 'prob'; did you mean 'probe'? (known: knn, probe, probe.balanced, classifier, map"),
        ("metrics=[error.pose]", "got 'error.pose' (known: knn, probe, probe.balanced, classifier, "),
        ("metrics=[map.to_teacher.R@7]", "got 'map.to_teacher.R@7'; did you mean 'map.to_"),
        ("metrics=[frozen@3]", "got 'frozen@3'; did you mean 'frozen@2'?"),
        ("metrics=[knn, fine-tuned@2]", "got 'fine-tuned@2'; did you mean"),
        ("metrics=[heads.to_teacher.R@5]", "metrics.0 is heads.to_teacher.R@5, which objectives without heads lack"),
        ("transfer.teachers={~rgb: }", "metrics.3 is map.to_teacher.R@5, which needs a teacher; transfer.teachers "),
        ("evaluate.teacher=rbg", "evaluate.teacher must be of the transfer's teachers, got 'rbg'; did you mean 'rgb'"),
        ("evaluate.data={test: null, held_out: {}}", "evaluate.data.test must be given: what is compared in the end"),
        ("transfer.teachers.rgb.features=f", "transfer.teachers.rgb.features must be null where there are sev"),
        (["seeds=[1]", "transfer.teachers.rgb.features=f"], "search.seed must be 1, as in seeds, where trans"),
        ("transfer.train.epocs=3", "transfer.train.epocs is not known; did you mean 'epochs'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_said_with_its_place(files: Path, override: str | list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(compare.Config, files, [override] if isinstance(override, str) else override)
    assert any(problem in line for line in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(("search", "rest"), [("search.seed=0", " that are not held out"), ("search=null", "")])
def test_a_class_must_have_the_labels_that_a_metric_is_of(
    config: Path, tmp_path: Path, search: str, rest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate.few_labels.labels=[30]", "metrics=[frozen@30]", search]
    assert main(["compare", str(config), *words, f"output={tmp_path / 'new'}"]) == 2
    told = capsys.readouterr().err
    assert "metrics.0 is frozen@30, but class " in told and told.endswith(f" training pairs{rest}\n")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("transfer.objectives={infonce: {}}", "transfer.objectives is set by objectives and beside; leave it out"),
        ("transfer={held_out: null}", "transfer.held_out is set by search.held_out, and in the end there is none; lea"),
        ("transfer.seed=3", "transfer.seed is set by seeds and search.seed; leave it out"),
        ("transfer.output=x", "transfer.output is set by output; leave it out"),
        ("evaluate.data={train: x}", "evaluate.data.train is set by transfer.data; leave it out"),
        ("evaluate.students.a=[x]", "evaluate.students is set by objectives and seeds; leave it out"),
        ("evaluate.seeds=2", "evaluate.seeds is set by seeds; leave it out"),
        ("evaluate.output=x", "evaluate.output is set by output; leave it out"),
    ],
)
def test_what_the_comparison_sets_is_refused_as_an_override(files: Path, override: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(compare.Config, files, [override])
    (told,) = caught.value.problems
    assert told.startswith(f"override {override}: {problem}")


def test_what_the_comparison_sets_is_refused_in_its_own_file(files: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(f"base: {files}\ntransfer:\n  seed: 3\nevaluate:\n  data:\n    train: x\n")
    with pytest.raises(ConfigError) as caught:
        load(compare.Config, own)
    assert caught.value.problems == [
        f"{own}:3: transfer.seed is set by seeds and search.seed; leave it out",
        f"{own}:6: evaluate.data.train is set by transfer.data; leave it out",
    ]


def test_a_base_may_have_what_the_comparison_sets_and_it_counts_for_nothing(files: Path, tmp_path: Path) -> None:
    bare, ignored = load(compare.Config, files), tmp_path / "base.yaml"
    write(ignored, {"base": str(files), "transfer": {"objectives": {"infonce": {}}, "seed": 9},
                    "evaluate": {"data": {"train": "elsewhere"}, "students": {"a": ["b"]}}})  # fmt: skip
    given = load(compare.Config, write(tmp_path / "own.yaml", {"base": "base.yaml"}), ["seeds=[3, 4]"])
    assert given.evaluate.data.train == "elsewhere" and given.evaluate.students == {"a": ["b"]}
    for made in (lambda config: config.final("kd", Trial(), 3), lambda config: config.judge({"kd": ["run"]})):
        assert made(bare) == made(given)
    assert bare.judge({"kd": ["run"]}).data.train == bare.transfer.data


def test_weights_are_tried_where_they_matter(files: Path) -> None:
    def trials(*overrides: str) -> dict[str, int]:
        found = load(compare.Config, files, overrides)
        return {name: len(found.trials(name)) for name in found.objectives}

    alone = ["~beside", "~objectives.labels"]
    assert trials() == {"kd": 2, "crd+kd": 2, "labels": 0}
    assert trials(*alone) == {"kd": 0, "crd+kd": 0}  # adamw does not see a factor of the whole loss
    assert trials(*alone, "transfer.train.optimiser=sgd") == {"kd": 2, "crd+kd": 2}
    assert trials(*alone, "transfer.train.clip_norm=1.0") == {"kd": 2, "crd+kd": 2}
    assert trials(*alone, "search.rates=[0.5, 1, 2]") == {"kd": 3, "crd+kd": 3}
    assert trials("search.weights=[1]") == {"kd": 0, "crd+kd": 0, "labels": 0}
    assert trials("search.weights=[2]") == {"kd": 1, "crd+kd": 1, "labels": 0}
    assert trials("search.rates=[1, 2]") == {"kd": 4, "crd+kd": 4, "labels": 2}
    assert trials("search=null") == {"kd": 0, "crd+kd": 0, "labels": 0}


def test_a_trial_differs_from_the_end_by_its_factors_epochs_pairs_and_seed(files: Path) -> None:
    asked = load(compare.Config, files, ["search.rates=[2.0]", "search.seed=9", "transfer.train.epochs=2"])
    trial, final = asked.trial("crd+kd", Trial(4, 2)), asked.final("crd+kd", Trial(4, 2), 3)
    assert {name: term.weight for name, term in trial.objectives.items()} == {"crd": 2, "kd": 4, "cross_entropy": 0.5}
    assert trial.objectives == final.objectives
    assert trial.train.lr == final.train.lr == 0.006
    assert (trial.train.epochs, trial.seed, final.train.epochs, final.seed) == (1, 9, 2, 3)
    assert trial.held_out is not None and trial.held_out.share == 0.25 and final.held_out is None
    assert trial.output.endswith("out/search/crd+kd/weight_4_rate_2") and final.output.endswith("out/crd+kd/seed_3")


def test_the_search_measures_no_more_than_it_needs(files: Path) -> None:
    assert load(compare.Config, files).judge_trials({"a": ["b"]}).few_labels is None
    few = load(compare.Config, files, ["metrics=[frozen@all]"]).judge_trials({"a": ["b"]}).few_labels
    assert few is not None and few.labels == [None] and few.whole == "none"


def test_figures_are_found_by_name() -> None:
    first, second, third = ({"mean": mean} for mean in (0.1, 0.2, 0.3))
    table = {"crd": {"probe": first}, "crd+kd": {"probe": second}, "scratch, all labels": {"probe": third}}
    curves = {"scratch": {"2": first}, "crd, frozen": {"all": second}, "crd, fine-tuned": {"2": third}}
    asked = {("crd", "probe"): first, ("crd+kd", "probe"): second, ("scratch", "probe"): third, ("crd", "knn"): None,
             ("scratch", "fine-tuned@2"): first, ("crd", "frozen@all"): second, ("crd", "fine-tuned@2"): third,
             ("scratch", "frozen@2"): first, ("random weights", "probe"): None}  # fmt: skip
    for (who, measure), expected in asked.items():
        assert figure_of({"table": table, "few_labels": curves}, who, measure) == expected


@pytest.mark.parametrize("name", ["probe", "knn", "map.to_student.R@10", "frozen@2", "frozen@all"])
def test_every_metric_of_the_evaluation_can_be_the_first(files: Path, name: str) -> None:
    assert load(compare.Config, files, [f"metrics=[{name}]"]).metrics == [name]


def test_trials_are_judged_by_the_evaluation_of_the_first_metric_alone(files: Path) -> None:
    asked = load(compare.Config, files, ["metrics=[map.to_teacher.R@5, probe]"]).judge_trials({"a": ["b"]})
    assert list(asked.metrics) == ["retrieval"] and asked.few_labels is None


def test_the_old_name_of_the_metrics_is_refused_with_the_new_one(files: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(compare.Config, files, ["measures=[knn]", "evaluate.quantity.fact=x", "evaluate.neighbours=3"])
    assert caught.value.problems == [
        "override evaluate.quantity.fact=x: evaluate.quantity is now evaluate.metrics.regression",
        "override evaluate.neighbours=3: evaluate.neighbours is now evaluate.metrics.classification.neighbours",
        "override measures=[knn]: measures is now metrics",
    ]


def test_the_best_trial_is_chosen_and_of_equals_the_one_nearest_to_the_config(files: Path) -> None:
    far, near, other = Trial(4.0), Trial(0.5), Trial(2.0, 0.5)
    regression = "evaluate.metrics={classification: {}, regression: {fact: x, columns: [0]}}"
    for metric, best in (("knn", 0.9), ("error.x", 0.1)):
        asked = Comparison(load(compare.Config, files, [regression, f"metrics=[{metric}]"]), files)
        tried: dict[Trial, Any] = {trial: {} for trial in (far, near, other)}
        assert asked._choose(tried, {far: 0.5, near: best, other: 0.5}) == near
        assert asked._choose(tried, {far: best, near: 0.5, other: 0.5}) == far
        assert asked._choose(tried, dict.fromkeys(tried, best)) == near
    assert asked._choose({}, {}) == Trial()


def test_trials_are_scored_on_the_pairs_held_out_and_not_on_test_pairs() -> None:
    config = SimpleNamespace(
        metrics=["knn"], trial=lambda name, trial: SimpleNamespace(output=f"{name} {trial.weight:g}"),
        judge_trials=lambda students: ("held out", students), judge=lambda students: ("test", students),
    )  # fmt: skip
    asked: list[tuple[str, dict[str, list[str]]]] = []

    def evaluate(given: tuple[str, dict[str, list[str]]]) -> dict[str, object]:
        asked.append(given)
        return {"table": {name: {"knn": {"mean": float(name[-1])}} for name in given[1]}}

    half, lost = Trial(0.5), Trial(2.0)
    fake = cast(Comparison, SimpleNamespace(config=config, _evaluate=evaluate))
    scores = Comparison._score(fake, {"kd": {half: {"steps": 1}, lost: None}})
    assert [where for where, _ in asked] == ["held out"] and list(scores["kd"]) == [half]


def test_of_two_rows_from_scratch_the_first_is_compared_with() -> None:
    figures = {
        "table": {"scratch, all labels": {"knn": {"mean": 0.5}}, "scratch, trained on x": {"knn": {"mean": 0.4}}}
    }
    assert figure_of(figures, "scratch", "knn") == {"mean": 0.5}
