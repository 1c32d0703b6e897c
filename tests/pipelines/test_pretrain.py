"""Pretraining as a command: every scheme, what is exported and judged, what is watched, kept and refused."""

import contextlib
import json
import math
import re
import shlex
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import assert_equal, launch, lines, run, start, wait_for_step, weights, without_speed, write

from crossmodal import SOURCES, models
from crossmodal.data.manifest import read_manifest
from crossmodal.data.shards import Shards
from crossmodal.data.writer import write_shards
from crossmodal.modules.pretraining import name_crop
from crossmodal.objectives import Batch
from pipelines import pretrain, transfer
from pipelines.__main__ import main
from pipelines.building.data import open_views
from pipelines.building.pretraining import build_pretraining
from pipelines.config import differences, load, to_dict
from pipelines.runs.folder import RunFolder
from pipelines.training.loop import Training
from pipelines.training.monitor import Monitor

ENCODER = {"name": "convnet", "width": 8, "stages": 3, "norm": "group"}
VIEWS = {"rgb": {"modality": "rgb", "size": 16}, "depth": {"modality": "depth", "size": 16, "max_m": 8.0}}
DEPTH = {"view": "depth", "encoder": ENCODER}
BOTH = {"encoders.rgb": "{view: rgb, encoder: {name: convnet, width: 8, stages: 3, norm: group}}"}
SCHEMES: dict[str, dict[str, str]] = {
    "simclr": {},
    "moco": {"momentum": "{decay: 0.9}", "objectives.infonce.negatives": "{source: queue, count: 50}",
             "symmetric": "false"},
    "moco_v3": {"momentum": "{decay: 0.9, predictor: true}", "head": "{layers: 3, width: 2, norm: true}"},
    "cmc": {**BOTH, "crops": "1", "objectives": "{~infonce: , nce: {negatives: {count: 40}}}"},
    "core": {**BOTH, "graph": "core", "core": "rgb"},
    "supcon": {"objectives": "{~infonce: , supcon: {}}"},
    "one look": {"objectives": "{~infonce: , supcon: {}}", "crops": "1"},
    "cacr": {"objectives": "{~infonce: , cacr: {queue: 40}}", "crops": "4"},
    "align_uniform": {"objectives": "{~infonce: , align_uniform: {}}"},
    "two": {"objectives.supcon": "{weight: 0.5}"},
    "loco": {"gradients.unit": "2"},
    "greedy": {"gradients.unit": "1", "gradients.block": "false"},
    "cached": {"train.chunk": "7"},
}  # fmt: skip

RECIPE = Path(__file__).parents[2] / "configs" / "pretrain" / "small_mobilenetv3.yaml"
CHANGES = re.findall(r"^#   (.+?)  +(\S+=('.*?'|\S+)|'~\S+')", RECIPE.read_text(), re.MULTILINE)
SWITCHES = {name: shlex.split(override)[0] for name, override, _ in CHANGES}  # as the config's comment names them


def words(options: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in options.items()]


def assert_two_processes_agree(config: str, folder: Path, options: list[str]) -> None:
    assert main(["pretrain", config, *options, f"output={folder / 'one'}"]) == 0
    done = launch("pretrain", config, *options, f"output={folder / 'two'}")
    assert done.returncode == 0, done.stderr
    for ours, theirs in zip(lines(folder / "two"), lines(folder / "one"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


@pytest.fixture
def config(tmp_path: Path, synthetic: Path) -> str:
    """SimCLR of depth: 96 pairs, 2 epochs of 3 steps."""
    content: dict[str, Any] = {
        "data": str(synthetic / "train"), "views": VIEWS, "encoders": {"depth": DEPTH}, "objectives": {"infonce": {}},
        "train": {"epochs": 2, "batch_size": 32, "lr": 0.003, "workers": 0, "log_every": 1, "save_every": 2},
        "monitor": {"pairs": 40}, "output": str(tmp_path / "run"),
    }  # fmt: skip
    return str(write(tmp_path / "pretrain.yaml", content))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_trains_and_exports_its_encoders(config: str, tmp_path: Path, scheme: str) -> None:
    assert main(["pretrain", config, *words(SCHEMES[scheme])]) == 0
    found = lines(tmp_path / "run")
    assert len(found) == 6 and all(line["loss"] == line["loss"] for line in found)
    several = BOTH.keys() <= SCHEMES[scheme].keys()
    for folder in (tmp_path / "run" / name for name in (("rgb", "depth") if several else (".",))):
        model = models.load_model(folder)
        start = model.card.build().state_dict()
        assert all(tensor.isfinite().all() for tensor in model.encoder.state_dict().values())
        assert any(not tensor.equal(start[name]) for name, tensor in model.encoder.state_dict().items())
    assert [index for index, line in enumerate(found) if any("knn" in name for name in line)] == [2, 5]  # epochs' ends


def test_a_pretrained_encoder_teaches_is_judged_and_shown(
    config: str, tmp_path: Path, synthetic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [*words(BOTH), f"output={tmp_path / 'both'}"]
    assert main(["pretrain", config, "monitor.diagnostics=true"]) == main(["pretrain", config, *both]) == 0
    assert {"alignment", "uniformity", "instance", "intra_class"} <= lines(tmp_path / "run")[-1].keys()
    evaluation = write(tmp_path / "evaluate.yaml", {
        "data": {"train": str(synthetic / "train"), "test": str(synthetic / "test")}, "seeds": 1, "workers": 0,
        "students": {"alone": [str(tmp_path / "run")], "together": [str(tmp_path / "both" / "depth")]},
        "few_labels": {"labels": [2], "steps": 4, "least_steps": 2},
        "metrics": {"classification": {}, "diagnostics": {"per_class": 3}}, "output": str(tmp_path / "figures"),
    })  # fmt: skip
    assert main(["evaluate", str(evaluation), f"students.alone=[{tmp_path / 'both'}]"]) == 2
    assert f"give one of {tmp_path / 'both' / 'depth'}, {tmp_path / 'both' / 'rgb'}" in capsys.readouterr().err
    assert main(["evaluate", str(evaluation)]) == 0
    figures = json.loads((tmp_path / "figures" / "report.json").read_text())["figures"]
    assert list(figures["table"]) == ["alone", "together", "random weights"]
    assert figures["table"]["alone"].keys() == {
        "knn", "probe", "probe.balanced", "best_knn", "alignment", "intra_class", "uniformity", "instance"
    }  # fmt: skip
    assert {"alone, frozen", "together, fine-tuned", "scratch"} <= set(figures["few_labels"])
    report = write(tmp_path / "report.yaml", {"runs": [str(tmp_path / "run"), str(tmp_path / "figures")],
                                              "output": str(tmp_path / "page")})  # fmt: skip
    assert main(["report", str(report)]) == 0
    transfer = write(tmp_path / "transfer.yaml", {
        "data": str(synthetic / "train"), "views": VIEWS,
        "teachers": {"rgb": {"view": "rgb", "weights": str(tmp_path / "both" / "rgb")}},
        "student": {**DEPTH, "weights": str(tmp_path / "run")}, "objectives": {"crd": {}},
        "train": {"epochs": 1, "batch_size": 32, "workers": 0}, "output": str(tmp_path / "taught"),
    })  # fmt: skip
    assert main(["transfer", str(transfer)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "step"), [("moco", 2), ("cacr", 3), ("loco", 4)])
def test_killed_at_any_step_the_same_command_ends_bit_equal(
    config: str, tmp_path: Path, scheme: str, step: int
) -> None:
    command = ["pretrain", config, *words(SCHEMES[scheme]), "train.save_every=1"]
    assert main([*command, f"output={tmp_path / 'whole'}"]) == 0
    killed = start(*command)
    wait_for_step(tmp_path / "run", step, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    again = run(*command)
    assert again.returncode == 0 and "from step" in again.stdout, again.stderr
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert without_speed(lines(tmp_path / "run")) == without_speed(lines(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["simclr", "moco", "supcon", "loco"])
def test_two_processes_have_the_losses_of_one(config: str, tmp_path: Path, scheme: str) -> None:
    options = [*words(SCHEMES[scheme]), "gradients.block=false", "train.lr=0.0003"]
    assert_two_processes_agree(config, tmp_path, options)


def test_a_warning_comes_once_and_stays_in_the_report(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", config, "monitor.after=2", "train.lr=1e-9", *words(BOTH), "crops=1"]) == 0
    told = capsys.readouterr().err
    assert told.count("pairs are found no better than by chance") == 1 and "step 2: " in told
    (kept,) = json.loads((tmp_path / "run" / "report.json").read_text())["figures"]["warnings"]
    assert kept in told


def test_a_warning_of_an_earlier_sitting_stays_in_the_report(config: str, tmp_path: Path, synthetic: Path) -> None:
    asked = load(pretrain.Config, Path(config), ["monitor.after=2"])
    watch = Monitor(RunFolder(tmp_path, "pretrain", asked, {}), asked, Shards.open(synthetic / "train"), {}, {},
                  torch.device("cpu"))  # fmt: skip
    good = {"rank": 9.0, "spread": 0.9, "positive": 0.8, "negative": 0.0, "found": 0.5, "chance": 0.1}
    told = [good | {"step": 1, "spread": 0.0}, good | {"step": 2, "found": 0.1}, good | {"step": 3}]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in told))
    (kept,) = watch.warnings()  # the collapse came before step 2
    assert "no better than by chance" in kept


def test_what_watching_costs_nothing_of_is_the_result(config: str, tmp_path: Path) -> None:
    assert main(["pretrain", config]) == 0
    assert main(["pretrain", config, "monitor.pairs=0", f"output={tmp_path / 'blind'}"]) == 0
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "blind"))


@pytest.mark.parametrize(("every", "ends"), [(3, [12]), (2, [8, 12]), (9, [12])])
def test_neighbours_are_asked_when_their_epochs_are_over(config: str, tmp_path: Path, every: int, ends: list) -> None:
    assert main(["pretrain", config, f"monitor.every={every}", "train.log_every=4", "train.epochs=4"]) == 0
    assert [line["step"] for line in lines(tmp_path / "run") if "knn" in line] == ends


@pytest.mark.parametrize("objective", ["infonce: {negatives: queue}", "~infonce: , cacr: {queue: 40, t_plus: 0}"])
def test_a_queue_of_fast_encoders_is_cautioned_about(
    config: str, capsys: pytest.CaptureFixture[str], objective: str
) -> None:
    command = ["pretrain", config, f"objectives={{{objective}}}", "train.epochs=1"]
    assert main(command) == 0
    assert ": its queue holds embeddings of earlier weights" in capsys.readouterr().out
    assert main([*command, "momentum={}", "output=" + config.replace("pretrain.yaml", "slow")]) == 0
    assert "its queue" not in capsys.readouterr().out


def test_a_single_positive_is_cautioned_about(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", config, "objectives={~infonce: , cacr: {}}", "train.epochs=1"]) == 0
    assert "objectives.cacr: an anchor has one positive" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["crops=1"], "objectives.infonce: no two views form a positive pair; set crops=2, or add an encoder"),
        (["graph=across"], "graph: no two views are compared; set graph: full, or"),
        (["train.accumulate=32"], "train.batch_size must give every part of a step two pairs to compare, got 1"),
        (["head.width=0.001"], "head.width is too small: 0.001 times"),
        (["train.mixed_precision=bf16", "encoders.depth.encoder.stages=4"], "trunk.stages.3.0 strides over a map one"),
        (["graph=core"], "graph: core must be one of the encoders, depth"),
        (["encoders.depth.view=deph"], "encoders.depth.view must be one of the views, got 'deph'; did you mean 'dep"),
        (["gradients.unit=4"], "gradients.unit: unit must be from 1 to the encoder's 3 stages, got 4"),
        (["gradients.unit=2", "momentum={}"], "gradients.unit needs a single encoder, no momentum"),
        (["train.chunk=4", "encoders.depth.encoder.norm=batch"], "train: chunk needs rows that do not depend"),
        (["objectives={~infonce: , knn: {name: infonce}}"], "objectives.knn needs another name"),
        (["objectives.infonce.temperature=0"], "objectives.infonce: infonce needs a finite temperature from"),
        (["objectives.infonce={negatives: queue, every_view: true}"], "set every_view: false"),
        (["objectives={~infonce: }"], "objectives: objectives must name at least one objective"),
        (["objectives.infonce.weight=0"], "objectives: all weights are 0 (infonce), so nothing is trained"),
        (["encoders={pop: {view: rgb, encoder: convnet}}"], "encoders: an encoder cannot be called 'pop'"),
        (["encoders={~depth: }"], "encoders must name at least one encoder"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_its_key(
    config: str, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", config, *options]) == 2
    assert told in capsys.readouterr().err


def test_labels_are_asked_for_where_an_objective_needs_them(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = SOURCES.get("synthetic")(train_pairs=40, test_pairs=1, size=16)
    pairs = (replace(pair, label=-1) for pair in source.pairs("train"))
    write_shards(pairs, tmp_path / "bare", fields=source.fields(), classes=())
    assert main(["pretrain", config, f"data={tmp_path / 'bare'}", "objectives.supcon={}"]) == 2
    assert "objectives.supcon needs labels, and the pairs have none" in capsys.readouterr().err
    assert main(["pretrain", config, f"data={tmp_path / 'bare'}"]) == 0  # and without labels there is no kNN
    assert not any("knn" in line for line in lines(tmp_path / "run"))


def test_the_recipe_of_small_models_names_its_switches_and_encoders() -> None:
    assert [*SWITCHES] == ["temperature", "wide projector", "stronger colour", "longer schedule", "distilled start",
                           "MobileNetV3 small", "EfficientNet-B0", "ResNet-18", "tiny ViT"]  # fmt: skip


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_of_the_recipe_changes_its_own_part(switch: str) -> None:
    whole = to_dict(load(pretrain.Config, RECIPE))
    changed = differences(whole, to_dict(load(pretrain.Config, RECIPE, [SWITCHES[switch]])))
    part = re.sub(r"[~=].*", "", SWITCHES[switch].removeprefix("~"))
    assert changed and all(line.startswith(part) for line in changed), changed


@pytest.mark.parametrize("switch", [name for name, override in SWITCHES.items() if "encoder=" in override])
def test_every_encoder_of_the_recipe_has_a_start_and_takes_a_step(switch: str, synthetic: Path) -> None:
    load(transfer.Config, RECIPE.with_name("small_start.yaml"), [SWITCHES[switch].replace("encoders.rgb", "student")])
    reduced = ["~encoders.rgb.weights", "views.rgb.size=32", "objectives.infonce.negatives.count=64"]
    config = load(pretrain.Config, RECIPE, [SWITCHES[switch], *reduced])
    shards = Shards.open(synthetic / "train")
    module, encoders, _ = build_pretraining(config, open_views(shards, config.views), shards.manifest)
    for step in range(2):  # at the first the queue is empty, so that there is nothing to tell a pair from
        crops = {name_crop("rgb", crop): torch.rand(4, 3, 32, 32) for crop in range(2)}
        losses = module(Batch(crops, 4 * step + torch.arange(4), torch.full((4,), -1)))
        losses.total.backward()
        module.remember([losses])
    assert losses.total.isfinite()
    assert any(weight.grad.any() for weight in encoders["rgb"].parameters() if weight.grad is not None)


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    """48 pairs, of which 12 have no depth and 12 others no rgb."""
    source = SOURCES.get("synthetic")(train_pairs=48, test_pairs=1, size=16)
    gone = {0: "depth.png", 1: "rgb.jpg"}
    pairs = (
        replace(pair, members={name: item for name, item in pair.members.items() if name != gone.get(number % 4)})
        for number, pair in enumerate(source.pairs("train"))
    )
    write_shards(pairs, tmp_path / "partial", fields=source.fields(), classes=source.classes(), partial=True)
    return tmp_path / "partial"


def test_local_gradients_need_complete_pairs(config: str, partial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", config, f"data={partial}", "gradients.unit=2"]) == 0
    assert (
        f"{partial}: 12 of 48 pairs are left out, because they lack a view: 12 without depth" in capsys.readouterr().out
    )


def test_pairs_may_lack_views(config: str, tmp_path: Path, partial: Path) -> None:
    assert read_manifest(partial).lacking == {"depth": 12, "rgb": 12}
    command = ["pretrain", config, *words(SCHEMES["cmc"]), f"data={partial}", "train.batch_size=24"]
    assert main([*command, "monitor.diagnostics=true"]) == 0
    assert main([*command, "objectives={~nce: , infonce: {}}", "train.chunk=5", f"output={tmp_path / 'chunks'}"]) == 0
    for folder in ("run", "chunks"):
        assert all(math.isfinite(line["loss"]) and line["found.depth.rgb"] <= 1 for line in lines(tmp_path / folder))
        assert {"knn.rgb", "knn.depth"} <= lines(tmp_path / folder)[-1].keys()


@pytest.mark.slow
def test_pairs_that_lack_views_are_the_same_to_two_processes(config: str, tmp_path: Path, partial: Path) -> None:
    options = [*words(BOTH), "crops=1", f"data={partial}", "train.batch_size=24", "train.lr=0.0003"]
    assert_two_processes_agree(config, tmp_path, options)


def test_a_manifest_that_counts_lacking_views_wrongly_is_a_problem(
    partial: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", "--info", str(partial)]) == main(["shards", "--check", str(partial)]) == 0
    assert "without: depth 12, rgb 12" in capsys.readouterr().out
    manifest = (partial / "manifest.json").read_text()
    (partial / "manifest.json").write_text(manifest.replace('"depth": 12', '"depth": 11'))
    assert main(["shards", "--check", str(partial)]) == 1
    assert "11 pairs must lack 'depth' by the manifest, got 12" in capsys.readouterr().out


def test_pairs_that_are_held_out_are_not_pretrained_on(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def stop(training: Training) -> None:
        seen.append(len(training.shards))
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "fit", stop)
    for words in ([], ["held_out={share: 0.25}"]):
        with contextlib.suppress(KeyboardInterrupt):
            main(["pretrain", config, *words])
    assert len(seen) == 2 and 0.65 * seen[0] < seen[1] < 0.85 * seen[0]
