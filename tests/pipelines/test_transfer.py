"""The phase before the main one: what it trains, that it resumes to the bit, its processes, its refusals."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import assert_equal, launch, lines, run, start, wait_for_step, weights, without_speed, write
from safetensors.torch import save_file

from crossmodal import ENCODERS, checkpoint
from pipelines.__main__ import main

pytestmark = pytest.mark.slow
TEACHER = {"name": "convnet", "width": 8, "stages": 3}
STUDENT = {"name": "convnet", "width": 6, "stages": 3}
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def teacher(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an RGB teacher."""
    folder = tmp_path_factory.mktemp("teacher")
    content = {
        "data": str(synthetic / "train"),
        "views": {"rgb": {"modality": "rgb", "size": 32}},
        "student": {"view": "rgb", "encoder": TEACHER},
        "train": {"epochs": 1, "batch_size": 32, "workers": 0},
        "output": str(folder / "run"),
    }
    assert main(["supervise", str(write(folder / "teacher.yaml", content))]) == 0
    return folder / "run"


@pytest.fixture
def config(synthetic: Path, teacher: Path, tmp_path: Path) -> Path:
    """A preparation of 6 steps and a main phase of as many, from weights that are known."""
    torch.manual_seed(1)
    student = ENCODERS.get("convnet")((1, 32, 32), 8, width=6, stages=3)
    save_file({name: tensor.contiguous() for name, tensor in student.trunk.state_dict().items()},
              tmp_path / "start.safetensors")  # fmt: skip
    return write(
        tmp_path / "transfer.yaml",
        {
            "data": str(synthetic / "train"),
            "views": {"rgb": {"modality": "rgb", "size": 32}, "depth": {"modality": "depth", "size": 32, "max_m": 8.0}},
            "teachers": {"rgb": {"view": "rgb", "weights": str(teacher)}},
            "student": {"view": "depth", "encoder": STUDENT, "weights": str(tmp_path / "start.safetensors")},
            "objectives": {"ab": {}, "ft": {}, "cross_entropy": {}},
            "prepare": {"epochs": 2},
            "train": {"epochs": 2, "batch_size": 32, "lr": 1e-3, "workers": 0, "log_every": 1, "save_every": 2},
            "output": str(tmp_path / "run"),
        },
    )


def prepared(folder: Path) -> Weights:
    """All that the preparation ended with."""
    found = checkpoint.latest(folder / "checkpoints" / "prepare")
    assert found is not None
    return checkpoint.load(found)["module"]


def starting(folder: Path) -> Weights:
    from safetensors.torch import load_file

    return {f"student.trunk.{name}": tensor for name, tensor in load_file(folder / "start.safetensors").items()}


def moved(before: Weights, after: Weights) -> set[str]:
    """The names of what is not the same any more."""
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def losses(folder: Path, phase: str | None) -> list[dict[str, Any]]:
    return [line for line in lines(folder) if line.get("phase") == phase]


@pytest.mark.parametrize("first", [3, 8], ids=["preparation", "main"])
def test_killed_in_either_phase_the_same_command_ends_bit_equal(config: Path, tmp_path: Path, first: int) -> None:
    words = ("transfer", str(config), "train.ema=0.9")
    assert main([*words, f"output={tmp_path / 'whole'}"]) == 0
    killed = start(*words)
    wait_for_step(tmp_path / "run", first, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "run" / "report.json").exists()
    again = run(*words)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("continuing the interrupted run") == 1
    assert "run (prepare): from step" in again.stdout
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert without_speed(lines(tmp_path / "run")) == without_speed(lines(tmp_path / "whole"))
    ours, theirs = (json.loads((tmp_path / name / "report.json").read_text())["figures"] for name in ("run", "whole"))
    assert ours["preparation"]["last"] == theirs["preparation"]["last"]


def test_stopped_in_the_preparation_the_same_command_continues(config: Path, tmp_path: Path) -> None:
    words = ("transfer", str(config), "train.save_every=1000", "prepare.epochs=40")
    stopped = start(*words)
    wait_for_step(tmp_path / "run", 3, stopped)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(60) == 128 + signal.SIGTERM
    step = checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints" / "prepare"))["step"]
    assert 3 <= step < 120 and len(lines(tmp_path / "run")) == step


def test_boundaries_train_the_trunk_and_their_connectors_then_the_main_phase_the_rest(
    config: Path, tmp_path: Path
) -> None:
    assert main(["transfer", str(config), "~objectives.ft"]) == 0
    before, between = starting(tmp_path), prepared(tmp_path / "run")
    assert moved(before, between) == {name for name in before if "classifier" not in name}
    assert set(between) - set(before) == {f"objectives.ab.connectors.{number}.{part}" for number in range(3)
                                          for part in ("0.weight", "1.weight", "1.bias")}  # fmt: skip
    ended = {name.replace("encoder.", "student.", 1): tensor for name, tensor in weights(tmp_path / "run").items()}
    assert set(ended) == set(before)  # connectors have done their work
    assert moved(before, ended) == set(before)
    assert [set(line) & {"ab", "cross_entropy"} for line in lines(tmp_path / "run")] == 6 * [{"ab"}] + 6 * [
        {"cross_entropy"}
    ]


def test_the_paraphraser_alone_is_trained_first_and_stays_then(config: Path, tmp_path: Path) -> None:
    assert main(["transfer", str(config), "~objectives.ab", "prepare.lr=0.01", "prepare.epochs=4"]) == 0
    before, between = starting(tmp_path), prepared(tmp_path / "run")
    assert not moved(before, between)  # running statistics included: the student saw nothing
    kept = {name.replace("objectives.", "heads.", 1).replace(".ft.", ".ft.paraphraser."): tensor
            for name, tensor in between.items() if name.startswith("objectives.")}  # fmt: skip
    ended = weights(tmp_path / "run")
    assert len(kept) == 12 and not moved(kept, ended)
    first, *_, last = losses(tmp_path / "run", "prepare")
    assert last["ft"] < first["ft"]


def test_what_is_prepared_may_stay(config: Path, tmp_path: Path) -> None:
    words = ["transfer", str(config), "~objectives.ft", "~objectives.cross_entropy", "objectives.fsp.when=beside",
             "student.encoder.width=8", "student.weights=null", "objectives.ab.when=both"]  # fmt: skip
    assert main(words) == 0
    assert all("ab" in line and "fsp" not in line for line in losses(tmp_path / "run", "prepare"))
    assert all("ab" in line and "fsp" in line for line in losses(tmp_path / "run", None))
    first, last = losses(tmp_path / "run", "prepare")[0], losses(tmp_path / "run", None)[-1]
    assert last["ab"] < first["ab"]


def test_two_processes_prepare_with_the_losses_of_one(config: Path, tmp_path: Path) -> None:
    """A student without batch norm, whose statistics are each process's own; those of the heads are of all.

    AdamW would make steps of rounding errors: batch norm in a connector leaves no gradient to the bias before it.
    """
    words = ["transfer", str(config), "student.encoder.norm=none", "student.weights=null", "train.optimiser=sgd"]
    assert main([*words, f"output={tmp_path / 'one'}"]) == 0
    launched = launch(*words, f"output={tmp_path / 'two'}")
    assert launched.returncode == 0, launched.stderr
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert len(one) == len(two) == 12
    for ours, theirs in zip(one, two, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)
    for name, tensor in prepared(tmp_path / "one").items():
        torch.testing.assert_close(prepared(tmp_path / "two")[name], tensor, atol=1e-5, rtol=1e-4)


def test_parts_of_a_batch_half_precision_and_averages_go_through_both_phases(config: Path, tmp_path: Path) -> None:
    words = ["train.accumulate=2", "train.mixed_precision=bf16", "train.ema=0.5", "train.trackers=[tensorboard]"]
    assert main(["transfer", str(config), *words]) == 0
    assert [line.get("phase") for line in lines(tmp_path / "run")] == 6 * ["prepare"] + 6 * [None]
    folders = {path.parent.name for path in (tmp_path / "run").rglob("events.out.tfevents*")}
    assert folders == {"transfer-prepare", "transfer"}


def test_the_schedules_are_two(config: Path, tmp_path: Path) -> None:
    assert main(["transfer", str(config), "prepare.lr=0.002", "train.schedule=cosine", "prepare.epochs=1"]) == 0
    assert [line["lr"] for line in losses(tmp_path / "run", "prepare")] == 3 * [0.002]
    assert len({line["lr"] for line in losses(tmp_path / "run", None)}) == 6


def test_kept_features_serve_both_phases(
    config: Path, teacher: Path, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"data": str(synthetic / "train"), "views": {"rgb": {"modality": "rgb", "size": 32}},
             "teachers": {"rgb": {"view": "rgb", "weights": str(teacher)}}, "crop": {"windows": 2}, "workers": 0,
             "maps": True, "preactivations": True, "output": str(tmp_path / "features")}  # fmt: skip
    assert main(["features", str(write(tmp_path / "features.yaml", asked))]) == 0
    words = ["transfer", str(config), "train.crop.windows=2", "prepare.epochs=3"]
    kept = f"teachers.rgb.features={tmp_path / 'features' / 'rgb'}"
    assert main([*words, f"output={tmp_path / 'running'}"]) == 0
    assert main([*words, kept, f"output={tmp_path / 'kept'}"]) == 0
    for ours, theirs in zip(lines(tmp_path / "kept"), lines(tmp_path / "running"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-2)
    assert main([*words, kept, "train.crop.windows=null", f"output={tmp_path / 'few'}"]) == 2
    assert "or set train.crop.windows=2" in capsys.readouterr().err


def test_the_report_draws_both_phases(config: Path, tmp_path: Path) -> None:
    assert main(["transfer", str(config)]) == 0
    asked = write(tmp_path / "report.yaml", {"runs": [str(tmp_path / "run")], "output": str(tmp_path / "page")})
    assert main(["report", str(asked)]) == 0
    page = next((tmp_path / "page").glob("*.html")).read_text()
    assert "Curves of the preparation" in page


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["~objectives.ab", "~objectives.ft"], "prepare: no objective has a preparation phase (ab, fsp and ft"),
        (
            ["~objectives.ft", "~objectives.cross_entropy"],
            "objectives: ab trains in the preparation only, so the main phase",
        ),
        (["prepare.epocs=2"], "prepare.epocs is not known; did you mean 'epochs'?"),
        (["prepare.epochs=0"], "prepare.epochs must be at least 1, got 0"),
        (["objectives.ab.when=after"], "objectives.ab.when must be one of"),
        (["views.depth.aligned=false"], "objectives.ab compares maps place by place, so views 'depth' and 'rgb'"),
        (["objectives.fsp.when=both"], "objectives.fsp: fsp compares channel by channel, so both networks need"),
    ],
)
def test_a_users_mistake_is_one_clear_line(
    config: Path, tmp_path: Path, overrides: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transfer", str(config), *overrides]) == 2
    told = capsys.readouterr().err
    assert words in told and "Traceback" not in told
    assert not (tmp_path / "run").exists()


def test_the_default_objectives_follow_from_the_teachers_classes(
    config: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["transfer", str(config), "~objectives", "~prepare", "train.epochs=1"]
    assert main(words) == 0
    stored = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert {name: item["weight"] for name, item in stored["objectives"].items()} == {"infonce": 1, "seed": 2, "kd": 0.9}
    assert stored["train"]["lr"] == 1e-3  # the config's
    assert main(words) == 0 and "finished before; nothing to do" in capsys.readouterr().out
    card = json.loads((teacher / "model" / "model.json").read_text())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").write_bytes((teacher / "model" / "model.safetensors").read_bytes())
    card["classes"] = [f"other {name}" for name in card["classes"]]
    (tmp_path / "other" / "model.json").write_text(json.dumps(card))
    other = [f"teachers.rgb.weights={tmp_path / 'other'}", f"output={tmp_path / 'patch'}"]
    assert main([*words, *other]) == 0
    assert [*json.loads((tmp_path / "patch" / "run.json").read_text())["config"]["objectives"]] == ["patch"]
    words += ["train.lr=null", "student.weights=null", f"output={tmp_path / 'rate'}"]
    assert main(words) == 0
    assert json.loads((tmp_path / "rate" / "run.json").read_text())["config"]["train"]["lr"] == 6e-3


def test_weights_of_the_embedding_that_no_loss_reaches_are_told(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["transfer", str(config), "~objectives", "~prepare", "--dry-run"]
    assert main([*words, "objectives.patch={maps: [[0, 0]]}"]) == 0
    student = ENCODERS.get("convnet")((1, 32, 32), 0, width=6, stages=3)
    unreached = sum(
        each.numel()
        for name, each in student.named_parameters()
        if not name.startswith(("trunk.stem", "trunk.stages.0"))
    )
    assert f"no loss reaches {unreached:,} weights of the student, the first trunk." in capsys.readouterr().out
    assert main([*words, "objectives.patch={maps: [[2, 2]]}"]) == 0
    assert "no loss reaches" not in capsys.readouterr().out


def test_a_stage_without_objectives_is_finished_the_second_time(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write(tmp_path / "plain.yaml", {
        key: value for key, value in yaml.safe_load(config.read_text()).items() if key not in ("objectives", "prepare")
    })  # fmt: skip
    stages = {"student": {"pipeline": "transfer", "config": plain.name, "set": {"train.epochs": 1}}}
    words = ["run", str(write(tmp_path / "run.yaml", {"stages": stages, "output": str(tmp_path / "runs")}))]
    assert main(words) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert "finished before; nothing to do" in capsys.readouterr().out
