"""Certifying as a command: bounds that hold, priors that saw too much, what is exported, shown and refused."""

import json
import math
import shutil
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from commands import launch, start, wait_for_step, write
from safetensors.torch import load_file
from torch import nn

from crossmodal import ENCODERS, SOURCES, models
from crossmodal.certificates.certificate import certify
from crossmodal.certificates.gaussians import ScaleGrid
from crossmodal.certificates.posterior import GaussianPosterior, without_running_statistics
from crossmodal.data.held_out import hold_out
from crossmodal.data.shards import Shards
from crossmodal.data.writer import write_shards
from crossmodal.encoders import Encoder
from crossmodal.metrics.mean_classifier import class_means, mean_classifier
from crossmodal.modules.certified_risk import Examples
from modalities.common.random import generator
from pipelines.__main__ import main
from pipelines.certification.certification import Certification
from pipelines.schemas.certify import RULES
from pipelines.training.loop import Training

GROUP = {"name": "convnet", "width": 8, "stages": 2, "norm": "group"}
BATCH = {**GROUP, "norm": "batch"}
VIEWS = {"rgb": {"modality": "rgb", "size": 16}, "depth": {"modality": "depth", "size": 16, "max_m": 8.0}}
TRAIN = {"epochs": 2, "batch_size": 16, "workers": 0, "log_every": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 pairs to learn from and 80 to judge by."""
    folder = tmp_path_factory.mktemp("pairs")
    source = SOURCES.get("synthetic")(train_pairs=160, test_pairs=80, size=16)
    for split in source.splits():
        write_shards(source.pairs(split), folder / split, fields=source.fields(), classes=source.classes())
    return folder


@pytest.fixture
def config(tmp_path: Path, data: Path) -> str:
    content: dict[str, Any] = {
        "data": str(data / "train"), "test": str(data / "test"), "views": VIEWS,
        "encoder": {"view": "rgb", "encoder": GROUP}, "tuples": {"negatives": 2, "block": 1},
        "prior": {"share": 0.4, "train": TRAIN}, "trade_offs": [10, 1000], "validation": 0.2,
        "certificate": {"draws": 20, "at_once": 2}, "train": {**TRAIN, "weight_decay": 0},
        "output": str(tmp_path / "run"),
    }  # fmt: skip
    return str(write(tmp_path / "certify.yaml", content))


def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())["figures"]


def page_of(folder: Path) -> Path:
    """The config of a report on the run in `folder`."""
    return write(folder / "report.yaml", {"runs": [str(folder / "run")], "output": str(folder / "page")})


def train(data: Path, folder: Path, **changes: Any) -> Path:
    """A finished supervised run."""
    config = write(folder / "teacher.yaml", {
        "data": str(data), "views": VIEWS, "student": {"view": "rgb", "encoder": GROUP},
        "train": {**TRAIN, "epochs": 1}, "output": str(folder / "teacher"), **changes,
    })  # fmt: skip
    assert main(["supervise", str(config)]) == 0
    return folder / "teacher"


def test_two_processes_certify_what_one_certifies(config: str, tmp_path: Path) -> None:
    words = ["certify", config, "encoder.encoder.norm=batch", "trade_offs=[10]"]
    launched = launch(*words, f"output={tmp_path / 'run'}")
    assert launched.returncode == 0, launched.stderr
    two = figures(tmp_path / "run")
    (tmp_path / "run" / "report.json").unlink()
    shutil.rmtree(tmp_path / "run" / "posteriors")
    assert main([*words, f"output={tmp_path / 'run'}"]) == 0  # certifies what both have trained
    one = figures(tmp_path / "run")
    assert two["rows"] == one["rows"] and two["selected"] == one["selected"]
    assert two["training"]["lambda_10"]["processes"] == 2 and one["rows"]["prior"]["classifier"]


def test_a_certificate_is_what_its_parts_give_and_is_exported_shown_and_judged(
    config: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certify", config]) == 0
    assert "by bound: " in capsys.readouterr().out
    found = figures(tmp_path / "run")
    assert list(found["rows"]) == ["prior", "lambda_10", "lambda_1000"]
    for row in found["rows"].values():
        again = certify(row["train_risk"], row["kl"], examples=row["examples"], draws=row["draws"], union=row["union"],
                        delta=0.04 + 0.01 / 3, delta_monte_carlo=0.01 / 3)  # fmt: skip
        assert row["total"] == pytest.approx(again.total)
        assert row["total"] > row["without_monte_carlo"] > row["train_risk"]
        assert sum(row["shares"].values()) == pytest.approx(row["total"])
        assert row["draws"] >= 20 and row["examples"] == found["examples"] <= found["pairs"]["certified"] // 4
        index = ScaleGrid().index(row["prior_std"]).item()
        assert index == pytest.approx(round(index), abs=1e-6) and row["union"] == ScaleGrid().union(round(index)).item()
    assert found["rows"]["prior"]["kl"] == pytest.approx(0, abs=1e-6)
    assert 0.01 < found["rows"]["lambda_10"]["kl"] < found["rows"]["lambda_1000"]["kl"]
    for rule, key in (("bound", "total"), ("stochastic", "validation_risk"),
                      ("deterministic", "validation_mean_weights")):  # fmt: skip
        assert found["rows"][found["selected"][rule]][key] == min(row[key] for row in found["rows"].values())

    posterior = load_file(tmp_path / "run" / "posterior.safetensors")
    model = models.load_model(tmp_path / "run")
    for name, weight in model.encoder.named_parameters():
        assert torch.equal(posterior[f"mean.{name}"], weight) and (posterior[f"std.{name}"] > 0).all()
    assert main(["report", str(page_of(tmp_path))]) == 0
    page = (tmp_path / "page" / "report.html").read_text()
    assert "Where the bounds come from" in page and "Monte-Carlo slack" in page and "AVG-2 of five a class" in page
    evaluation = write(tmp_path / "evaluate.yaml", {
        "data": {"train": str(data / "train"), "test": str(data / "test")}, "seeds": 1, "workers": 0,
        "students": {"certified": [str(tmp_path / "run")]}, "few_labels": None, "output": str(tmp_path / "figures"),
    })  # fmt: skip
    assert main(["evaluate", str(evaluation)]) == 0


def test_a_killed_certification_goes_on_to_the_same_figures(config: str, tmp_path: Path) -> None:
    killed = start("certify", config, f"output={tmp_path / 'killed'}")
    wait_for_step(tmp_path / "killed", 5, killed)
    killed.kill()
    killed.wait()
    assert main(["certify", config, f"output={tmp_path / 'killed'}"]) == main(["certify", config]) == 0
    ours, theirs = (figures(tmp_path / name)["rows"] for name in ("killed", "run"))
    assert ours == theirs


@pytest.mark.parametrize("options", [
    ["tuples.loss=hinge", "prior.learned=false", "prior.share=0"],
    ["tuples={positives: crop}", "tuples.loss=logistic", "train.crop.scale=[0.3, 1]"],
    ["tuples={positives: crop, loss: simclr, scale: 5}", "tuples.negatives=3", "validation=0"],
])  # fmt: skip
def test_every_kind_of_example_is_certified(config: str, tmp_path: Path, options: list[str]) -> None:
    asked = [*options[:1], "tuples.block=null", *options[1:]] if "positives" in options[0] else options
    assert main(["certify", config, *asked]) == 0
    found = figures(tmp_path / "run")
    for row in found["rows"].values():
        assert 0 <= row["train_risk"] < row["total"] <= found["greatest"] + 1e-9
        assert ("mcdiarmid" in row) == ("simclr" in options[0])
        if "prior.learned=false" in options:
            assert row["union"] == 0 and row["prior_std"] == pytest.approx(0.0183)


def test_two_bounds_on_a_simclr_loss_share_delta_and_are_shown(config: str, tmp_path: Path) -> None:
    words = ["tuples={positives: crop, loss: simclr, scale: 0.5, negatives: 4}", "validation=0", "trade_offs=[10]"]
    assert main(["certify", config, *words]) == 0
    assert main(["report", str(page_of(tmp_path))]) == 0
    page, greatest, delta = (tmp_path / "page" / "report.html").read_text(), 1 + math.log(5), 0.05 - 0.01
    for row in figures(tmp_path / "run")["rows"].values():
        again = certify(row["train_risk"], row["kl"], examples=row["examples"], draws=row["draws"], union=row["union"],
                        delta=delta / 2 + 0.01 / 2, delta_monte_carlo=0.01 / 2, greatest=greatest)  # fmt: skip
        assert row["total"] == pytest.approx(again.total)
        pairs, difference = row["examples"] * 5, 4 / 2 + 4 * math.log((4 + math.e) / 5)  # at temperature 2
        assert pairs < figures(tmp_path / "run")["pairs"]["certified"]  # some fill no batch, and count for nothing
        root = math.sqrt((row["kl"] + row["union"] + math.log(2 * pairs / (delta / 2))) / (2 * (pairs - 1)))
        assert row["mcdiarmid"] == pytest.approx(row["train_risk"] + row["monte_carlo_slack"] + difference * root)
        assert f"<td>{row['mcdiarmid']:.3f}</td>" in page
    assert "bound by McDiarmid" in page


def test_a_page_shows_a_prior_that_learnt_nothing_and_pairs_without_labels(config: str, tmp_path: Path) -> None:
    source = SOURCES.get("synthetic")(train_pairs=40, test_pairs=20, size=16)
    for split in source.splits():
        plain = (replace(pair, label=-1) for pair in source.pairs(split))
        write_shards(plain, tmp_path / split, fields=source.fields(), classes=())
    words = [f"data={tmp_path / 'train'}", f"test={tmp_path / 'test'}", "tuples={positives: crop, negatives: 1}",
             "prior={share: 0}", "train.epochs=1", "trade_offs=[10]"]  # fmt: skip
    assert main(["certify", config, *words]) == 0
    assert main(["report", str(page_of(tmp_path))]) == 0
    page = (tmp_path / "page" / "report.html").read_text()
    assert "bounds hold" in page and "AVG-2 of five a class" not in page and "the prior learnt from" not in page


def test_a_prior_is_certified_by_itself(config: str, tmp_path: Path) -> None:
    assert main(["certify", config, "trade_offs=[]", "prior={share: 0}"]) == 0
    assert list(figures(tmp_path / "run")["rows"]) == ["prior"] and (tmp_path / "run" / "run.json").is_file()
    assert main(["report", str(page_of(tmp_path))]) == 0


@pytest.mark.slow
def test_certificates_lie_above_the_risk_on_unseen_pairs_for_every_seed_and_kind(tmp_path: Path, data: Path) -> None:
    for seed in range(3):
        for positives, block in (("class", 1), ("crop", None)):
            content = {
                "data": str(data / "train"), "test": str(data / "test"), "views": VIEWS, "seed": seed, "validation": 0,
                "encoder": {"view": "rgb", "encoder": GROUP}, "prior": {"share": 0.4, "train": {**TRAIN, "epochs": 10}},
                "tuples": {"negatives": 1, "block": block, "positives": positives}, "trade_offs": [100],
                "certificate": {"draws": 200, "at_once": 2}, "train": {**TRAIN, "weight_decay": 0},
                "output": str(tmp_path / f"{seed}_{positives}"),
            }  # fmt: skip
            assert main(["certify", str(write(tmp_path / "one.yaml", content))]) == 0
            for row in figures(tmp_path / f"{seed}_{positives}")["rows"].values():
                assert row["test_risk"] < row["total"] < 1


# --- which pairs do what ---


def test_prior_posteriors_and_certificates_use_their_own_pairs_alone(
    config: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every read of a picture is recorded with what it is for: a training phase, or a figure."""
    uses: list[tuple[str, set[str]]] = [("", set())]
    risks: list[tuple[float, set[str]]] = []
    read, fit, risk = Shards.read, Training.fit, Examples.risk

    def record_read(self: Shards, index: int, names: list[str]) -> tuple[str, dict[str, bytes]]:
        found = read(self, index, names)
        if names != ["json"]:
            uses[-1][1].add(found[0])
        return found

    def record_fit(self: Training) -> dict[str, Any]:
        uses.append((self.phase, set()))
        found = fit(self)
        uses.append(("", set()))
        return found

    def record_risk(self: Examples, *arguments: Any, **options: Any) -> tuple[float, int]:
        uses.append(("", set()))
        found = risk(self, *arguments, **options)
        risks.append((found[0], uses[-1][1]))
        uses.append(("", set()))  # what is read from here on is for other figures
        return found

    monkeypatch.setattr(Shards, "read", record_read)
    monkeypatch.setattr(Training, "fit", record_fit)
    monkeypatch.setattr(Examples, "risk", record_risk)
    assert main(["certify", config]) == 0
    monkeypatch.undo()

    rest, prior = hold_out(Shards.open(data / "train"), 0.4, 0)
    certified, validation = hold_out(rest, 0.2, 0)
    parts = {"prior": prior, "train": certified, "validation": validation, "test": Shards.open(data / "test")}
    keys = {name: {part.read(index, [])[0] for index in range(len(part))} for name, part in parts.items()}
    assert sum(map(len, keys.values())) == len(set().union(*keys.values())) == 160 + 80
    seen = {phase: pairs for phase, pairs in uses if phase}
    assert list(seen) == ["prior", "lambda_10", "lambda_1000"]
    assert len(seen["prior"]) > 32 and seen["prior"] <= keys["prior"]
    assert all(len(seen[name]) > 32 and seen[name] <= keys["train"] for name in ("lambda_10", "lambda_1000"))
    rows = figures(tmp_path / "run")["rows"].values()
    assert len(risks) == 6 * len(rows)
    for name in ("train", "validation", "test"):
        own = {value for value, pairs in risks if pairs <= keys[name]}
        assert {row[f"{name}_risk"] for row in rows} | {row[f"{name}_mean_weights"] for row in rows} == own


# --- what a prior has seen ---


@pytest.mark.parametrize("key", ["train", "prior.train"])
def test_a_batch_of_more_pairs_than_there_are_is_refused_before_anything_is_trained(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    assert main(["certify", config, f"{key}.batch_size=127"]) == 2
    said = capsys.readouterr().err
    assert f"{key}.batch_size: 127 pairs a step are more than the " in said
    assert not (tmp_path / "run").exists()


def test_a_prior_that_has_seen_the_certified_pairs_is_refused(
    config: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = train(data / "train", tmp_path)
    words = [f"encoder.weights={seen}", "prior.share=0"]
    assert main(["certify", config, *words]) == 2
    said = capsys.readouterr().err
    assert f"encoder.weights: {seen} was trained on 128 of the 128 certified pairs" in said
    assert not (tmp_path / "run").exists()
    assert main(["certify", config, *words, "prior.unseen=true"]) == 0  # the user's word
    unseen = [
        *words,
        "validation=0",
        f"data={data / 'test'}",
        "test=null",
        "held_out={share: 0.3}",
        f"output={tmp_path / 'unseen'}",
    ]
    assert main(["certify", config, *unseen]) == 0


def test_pictures_that_a_prior_has_seen_under_other_keys_are_refused(
    config: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = SOURCES.get("synthetic")(train_pairs=160, test_pairs=2, size=16)
    renamed = (replace(pair, key=f"again_{pair.key}") for pair in islice(source.pairs("train"), 5))
    unseen = SOURCES.get("synthetic")(train_pairs=2, test_pairs=60, size=16).pairs("test")
    write_shards(chain(renamed, unseen), tmp_path / "pairs", fields=source.fields(), classes=source.classes())
    seen = train(data / "train", tmp_path)
    words = [f"encoder.weights={seen}", "prior.share=0", "validation=0", f"data={tmp_path / 'pairs'}"]
    assert main(["certify", config, *words]) == 2
    said = capsys.readouterr().err
    assert f"encoder.weights: {seen} was trained on 5 of the 65 certified pairs" in said
    assert f"'again_train_000000' as 'train_000000' of {data / 'train'}" in said


def test_weights_whose_pairs_were_made_anew_are_refused(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = SOURCES.get("synthetic")(train_pairs=40, test_pairs=40, size=16)
    for name in ("pairs", "judged"):
        write_shards(source.pairs("train"), tmp_path / name, fields=source.fields(), classes=source.classes())
    seen = train(tmp_path / "pairs", tmp_path)
    write_shards(source.pairs("test"), tmp_path / "pairs", fields=source.fields(), classes=source.classes())
    words = [f"encoder.weights={seen}", "prior.share=0", "validation=0"]
    assert main(["certify", config, *words, f"data={tmp_path / 'judged'}"]) == 2  # it saw them all
    said = capsys.readouterr().err
    assert f"encoder.weights: data of {seen / 'config.yaml'} changed after it was trained" in said


def test_what_a_teacher_saw_counts_too_through_those_it_taught(
    config: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = train(data / "test", tmp_path)
    content = {
        "data": str(data / "train"), "views": VIEWS, "teachers": {"rgb": {"view": "rgb", "weights": str(teacher)}},
        "student": {"view": "depth", "encoder": BATCH}, "objectives": {"crd": {"dim": 16}},
        "train": {**TRAIN, "epochs": 1}, "output": str(tmp_path / "student"),
    }  # fmt: skip
    assert main(["transfer", str(write(tmp_path / "transfer.yaml", content))]) == 0
    capsys.readouterr()
    judged = [f"data={data / 'test'}", "test=null", "held_out={share: 0.3}", "prior.share=0",
              f"encoder={{view: depth, encoder: {json.dumps(BATCH)}, weights: {tmp_path / 'student'}}}",
              f"teacher={{view: rgb, weights: {teacher}}}", "tuples.positives=pair", "tuples.block=null"]  # fmt: skip
    assert main(["certify", config, *judged]) == 2  # the student never saw these pairs, but its teacher did
    assert f"{teacher} was trained on" in capsys.readouterr().err
    assert main(["certify", config, *judged, "prior.unseen=true", "train.epochs=1"]) == 0
    model, own = models.load_model(tmp_path / "run"), models.load_model(tmp_path / "student")
    buffers = dict(own.encoder.named_buffers())
    assert all(torch.equal(buffers[name], item) for name, item in model.encoder.named_buffers())  # statistics are fixed


def test_weights_of_nobody_knows_where_are_refused(
    config: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loose = train(data / "test", tmp_path) / "model" / "model.safetensors"
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(loose.read_bytes())
    assert main(["certify", config, f"encoder.weights={moved}"]) == 2
    assert "is no folder of a finished run, so its training pairs are unknown" in capsys.readouterr().err
    vouched = [f"encoder.weights={moved}", "prior.unseen=true"]
    assert main(["certify", config, *vouched, "encoder.encoder.width=16"]) == 2
    assert "is not made for this ConvNet" in capsys.readouterr().err
    assert main(["certify", config, *vouched]) == 0


@pytest.mark.parametrize(("words", "said"), [
    ("certificate.delta=1.5", "certificate.delta"),
    ("certificate.delta=0.005", "delta_monte_carlo must be below delta"),
    ("train.weight_decay=0.1", "train.weight_decay must be 0"),
    ("tuples.positives=pair", "teacher must be given with tuples.positives: pair"),
    ("test=null", "test must be given, or held_out"),
    ("prior.std=0.4", "prior.std"),
    ("certificate.greatest_variance=1e-5", "prior.std: std must be below"),
    ("tuples.negatives=300", "data: 77 pairs are too few for one example of 302"),
    ("certificate.at_once=500", "lower certificate.at_once"),
    ("trade_offs=[100,100.00001]", "trade_offs must differ in their first six digits"),
    ("tuples.loss=simclr", "tuples: loss simclr takes the anchor's own pair"),
    ("validation=0 select=stochastic", "select must be bound where validation is 0"),
])  # fmt: skip
def test_a_users_mistake_is_one_clear_line(
    config: str, words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certify", config, *words.split()]) == 2
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told


def test_pairs_of_other_classes_do_not_judge(
    config: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(data / "test", tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"classes": manifest["classes"][::-1]}))
    assert main(["certify", config, f"test={other}"]) == 2
    assert f"test: {other} must have the same classes as data, {data / 'train'}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_pairs_that_were_learnt_from_do_not_judge(
    config: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certify", config, f"test={data / 'train'}"]) == 2
    assert f"test: all 160 pairs of {data / 'train'} are among those of" in capsys.readouterr().err
    seen = train(data / "test", tmp_path)
    assert main(["certify", config, f"encoder.weights={seen}"]) == 2
    assert f"test: {seen} was trained on {data / 'test'}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    source = SOURCES.get("synthetic")(train_pairs=160, test_pairs=80, size=16)
    renamed = (replace(pair, key=f"again_{pair.key}") for pair in islice(source.pairs("train"), 5))
    mixed = chain(renamed, source.pairs("test"))
    write_shards(mixed, tmp_path / "mixed", fields=source.fields(), classes=source.classes())
    assert main(["certify", config, f"test={tmp_path / 'mixed'}", "trade_offs=[]", "prior.share=0"]) == 0
    assert f"test: 5 of the 85 pairs of {tmp_path / 'mixed'} are among those of" in capsys.readouterr().err
    assert figures(tmp_path / "run")["copies"] == 5 and main(["report", str(page_of(tmp_path))]) == 0
    assert "but for 5, which are among those learnt from" in (tmp_path / "page" / "report.html").read_text()


def test_batch_norm_without_data_gives_way_and_no_model_is_claimed(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[nn.Module] = []

    def record(encoder: Encoder) -> Encoder:
        found = without_running_statistics(encoder)
        norms.extend(module for module in found.modules() if isinstance(module, nn.GroupNorm))
        return found

    monkeypatch.setattr("pipelines.certification.certification.without_running_statistics", record)
    assert main(["certify", config, "encoder.encoder.norm=batch", "prior.share=0"]) == 0
    assert norms
    assert "no model is exported, because group norm replaces" in capsys.readouterr().out
    assert not (tmp_path / "run" / "model").exists()
    assert (tmp_path / "run" / "posterior.safetensors").is_file()


def test_posteriors_are_chosen_by_the_bound_or_by_validation_pairs_and_never_by_test_pairs() -> None:
    columns = ["total", "validation_risk", "validation_mean_weights", "test_risk", "test_mean_weights",
               "without_monte_carlo", "train_risk", "kl"]  # fmt: skip
    rows = {name: {column: float(column != name) for column in columns} for name in columns}  # each is best in its own
    chosen = {rule: Certification._select(cast(Certification, None), rows, rule) for rule in RULES}
    assert chosen == {"bound": "total", "stochastic": "validation_risk", "deterministic": "validation_mean_weights"}


def test_the_mean_classifier_has_the_classes_of_certified_pairs_and_judges_test_pairs() -> None:
    draw = lambda name, *size: torch.randn(*size, generator=generator("classify", name))  # noqa: E731
    train, test = (
        (draw("train", 60, 4), torch.tensor([0, 1, 2] * 20)),
        (draw("test", 30, 4), torch.tensor([2, 0, 1] * 10)),
    )
    fake = SimpleNamespace(split=SimpleNamespace(certified=train, test=test), _embed=lambda network, part: part)
    network = GaussianPosterior(ENCODERS.get("convnet")((3, 16, 16), 0, width=4, stages=1, norm="group"))
    found = Certification._classify(cast(Certification, fake), network)
    assert found["mu"] == mean_classifier(class_means(*train), *test)
    few = [mean_classifier(class_means(*train, shots=5, seed=seed), *test)["top1"] for seed in range(5)]
    assert len(set(few)) > 1 and found["mu-5"]["top1"] == pytest.approx(sum(few) / 5)
