"""What an evaluation measures of whom, with embeddings and shards small enough to follow by hand."""

import copy
import math
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from embedded import ENCODER, JUDGE, LEARN, VIEW, draw, seen, some
from torch import Tensor, nn

from crossmodal.data.reader import open_view
from crossmodal.data.shards import Shards
from crossmodal.encoders import Features
from crossmodal.evaluation import Targets
from crossmodal.metrics import few_labels, retrieval
from crossmodal.metrics.intervals import Resampling
from crossmodal.models import Card, Head, Model
from crossmodal.objectives import Batch, Objective, Outcome
from pipelines.building.teachers import Teacher
from pipelines.evaluate import Config
from pipelines.evaluation.evaluator import Evaluator
from pipelines.evaluation.learning import Learning
from pipelines.evaluation.results import Row, Table
from pipelines.evaluation.spaces import linear_map
from pipelines.runs.folder import RunFolder
from pipelines.schemas.evaluate import DataConfig, EvaluationConfig, FewLabelsConfig


class Same(Objective):
    """Both sides in the space where they are."""

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """No loss."""
        raise NotImplementedError

    def project(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        """Both embeddings as they are."""
        return student.embedding, teacher.embedding


def model() -> Model:
    """A student that a teacher t taught, at new weights."""
    head = Head("same", {}, "t", ENCODER.spec)
    card = Card("convnet", {"width": 4, "stages": 1}, (3, 8, 8), [], "rgb", {}, {"same": head})
    return Model(card, copy.deepcopy(ENCODER), VIEW.modality, {"same": Same()})


def evaluation(folder: Path, known: dict[str, Any] | None = None, **options: Any) -> Evaluator:
    """One of which some parts are given, and not opened."""
    config = Config(DataConfig("train", "test"), {"s": ["run"]}, **{"few_labels": None, **options})
    found = Evaluator(config, RunFolder.of(folder / "run", "evaluate", config, {}))
    vars(found).update(
        {
            "parts": (some(6, "ab"), some(4, "ab")),
            "labels": (LEARN, JUDGE),
            "taught": None,
            "_subjects": {},
            "_resampling": Resampling([""] * 4),
            **(known or {}),
        }
    )
    vars(found._pairs)["labels"] = found.labels
    return found


def test_a_figures_deviation_is_that_of_a_sample_of_seeds() -> None:
    table = Table(Resampling([""]))
    for value in (0.5, 0.7, 0.9):
        table.add("s", "knn", value)
    table.add("s", "one", 0.25)
    found = table.summaries()["s"]
    assert found["knn"] == {"mean": 0.7, "std": statistics.stdev([0.5, 0.7, 0.9]), "runs": [0.5, 0.7, 0.9]}
    assert found["one"] == {"mean": 0.25, "std": None, "runs": [0.25]}


def test_chance_of_few_labels_is_what_a_guess_reaches_on_test_pairs(tmp_path: Path) -> None:
    few = FewLabelsConfig([1, None], whole="none")
    found = evaluation(tmp_path, metrics={}, few_labels=few)
    assert found._chance == {"frozen@1": 2 / 3, "frozen@all": 2 / 3}


def test_chance_is_that_of_every_evaluation_with_the_options_asked_for(tmp_path: Path) -> None:
    metrics = {"regression": EvaluationConfig("regression", {"fact": "x", "columns": (0,)}),
               "retrieval": EvaluationConfig("retrieval", {"at": (1, 5)})}  # fmt: skip
    found = evaluation(tmp_path, {"taught": ("t", None), "_heads": ()}, metrics=metrics)
    found._pairs.read["x", (0,)] = torch.tensor([[0.0], [2.0], [4.0]]), torch.tensor([[5.0], [9.0]])
    assert found._chance.pop("error.x") == 5.0
    assert {name.rpartition(".")[2]: share for name, share in found._chance.items()} == {
        "R@1": 1 / 4, "R@5": 1.0, "class-R@1": pytest.approx(5 / 12), "class-R@5": 1.0,
    }  # fmt: skip


def test_a_network_meets_its_teacher_in_the_space_of_the_heads_and_through_thelinear_map(tmp_path: Path) -> None:
    ours, theirs = torch.eye(3)[[0, 1, 0]], torch.eye(3)[[0, 1, 2]]  # the last student embedding is that of the first
    metrics = {"retrieval": EvaluationConfig("retrieval", {"at": (1,)})}
    found = evaluation(tmp_path, {"parts": (some(6), some(3)), "taught": ("t", None), "_heads": ("same",),
                                  "_resampling": Resampling([""] * 3)}, metrics=metrics)  # fmt: skip
    found._record(found._measure("who", seen(draw("train", 6, 3), ours), seen(draw("other", 6, 3), theirs), model()))
    row = {name: runs.values for name, runs in found.table.rows["who"].items()}
    assert row["same.to_teacher.R@1"] == [pytest.approx(2 / 3)]
    assert row["same.to_student.R@1"] == [pytest.approx((1 / 2 + 1 + 1 / 3) / 3)]  # as near are two, one and three
    assert row["map.to_teacher.R@1"] == [retrieval.hits(*linear_map(
        seen(draw("train", 6, 3), ours), seen(draw("other", 6, 3), theirs)), at=[1])[1].mean().item()]  # fmt: skip


def test_the_linear_map_and_its_centre_are_of_training_pairs() -> None:
    train, test = (draw("a", 30, 3), draw("b", 30, 2)), (draw("c", 5, 3), draw("d", 5, 2) + 9)
    ours, theirs = linear_map(seen(train[0], test[0]), seen(train[1], test[1]))
    centre = train[1].mean(0)
    torch.testing.assert_close(theirs, test[1] - centre)
    centred = torch.cat([train[0], torch.ones(30, 1)], 1)
    weights = torch.linalg.lstsq(centred, train[1] - centre).solution  # without the map's small penalty
    torch.testing.assert_close(ours, torch.cat([test[0], torch.ones(5, 1)], 1) @ weights, atol=0.05, rtol=0.05)


def test_every_seed_has_new_weights_that_are_judged_in_eval_mode(tmp_path: Path) -> None:
    found = evaluation(tmp_path, {"students": {"s": [model()]}})
    first, again, other = (found.new(seed, 2) for seed in (0, 0, 1))
    weights = [torch.cat([weight.flatten() for weight in each.parameters()]) for each in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not any(module.training for module in first.modules())


def test_few_labels_take_another_draw_and_student_for_every_seed_and_judge_by_test_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = torch.tensor([0, 1] * 10)
    students = [model(), model()]
    found = evaluation(
        tmp_path, {"students": {"s": students}, "labels": (learn, JUDGE), "parts": (some(20, "ab"), some(4, "ab"))},
        few_labels=FewLabelsConfig([2], draws=2, whole="none"), metrics={}, seeds=4,
    )  # fmt: skip
    mine = [seen(draw(f"train {number}", 20, 3), draw(f"test {number}", 4, 3)) for number in range(2)]
    asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def probe(train: Tensor, labels: Tensor, test: Tensor, classes: int, *, device: torch.device) -> Tensor:
        asked.append((train, labels, test))
        return torch.zeros(len(test), dtype=torch.int64)

    monkeypatch.setattr("pipelines.evaluation.learning.probe", SimpleNamespace(linear_probe=probe))
    monkeypatch.setattr(
        Evaluator, "see", lambda self, student: mine[[each is student for each in students].index(True)]
    )
    monkeypatch.setattr(Evaluator, "embed", lambda self, encoder, view: mine[0])
    monkeypatch.setattr(Evaluator, "view", VIEW)
    for point in Learning(found, "run").frozen(None):
        found._point(point)
    of_students = [asked[place] for place in range(16) if place % 4 < 2]  # beside random weights
    assert len(asked) == 16
    for place, (train, labels, test) in enumerate(of_students):
        seed, choice = divmod(place, 2)
        chosen = few_labels.pick_labelled(learn, 2, seed, choice)
        assert torch.equal(train, mine[seed % 2].train.embedding[chosen]) and torch.equal(labels, learn[chosen])
        assert torch.equal(test, mine[seed % 2].test.embedding)
    assert found.curves.rows["s, frozen"]["2"].values == [pytest.approx(1 / 3)] * 4


def test_training_and_test_pairs_are_kept_apart(tmp_path: Path, synthetic: Path) -> None:
    train, test = (Shards.open(synthetic / part) for part in ("train", "test"))
    found = evaluation(tmp_path, {"parts": (train, test)}, workers=0)
    view = open_view(train, "rgb", size=8)
    for part in (train, test, train):
        assert sum(len(piece.index) for piece in found.batches(view, part, range(len(part)))) == len(part)


def test_from_scratch_targets_are_learnt_at_unit_deviation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = torch.tensor([[10.0, 5.0], [30.0, 5.0], [50.0, 5.0]])
    found = evaluation(tmp_path, seeds=2)
    targets: list[Tensor] = []
    monkeypatch.setattr(Evaluator, "new", lambda self, seed, count: nn.Identity())
    monkeypatch.setattr(Evaluator, "embed", lambda self, encoder, view, alone: None)
    monkeypatch.setattr(Evaluator, "view", None)
    monkeypatch.setattr(Learning, "tune", lambda *_, targets, loss, into=targets: into.append(targets))
    Learning(found, "run").on_targets(Targets("x", known), lambda who, network: Row(who, {}, {}))
    assert len(targets) == 2
    torch.testing.assert_close(targets[0], torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))
    assert math.isfinite(targets[0].sum())


def test_a_teachers_logits_are_of_its_own_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = Teacher(ENCODER, "rgb", ["cat", "dog"])
    given = {
        "teacher": teacher,
        "teacher_view": VIEW,
        "students": {},
        "copies": (0, []),
        "taught": ("t", None),
        "_heads": (),
    }
    found, classes = evaluation(tmp_path, given, seeds=1), {}
    for name in ("_check", "_save_examples", "new", "_verdict"):
        monkeypatch.setattr(Evaluator, name, lambda *_: None)
    monkeypatch.setattr("pipelines.evaluation.evaluator.shortfalls", lambda *_: ())
    monkeypatch.setattr(Evaluator, "view", VIEW)
    monkeypatch.setattr(Evaluator, "embed", lambda *_: seen(draw("train", 6, 3), draw("test", 4, 3)))
    monkeypatch.setattr(
        Evaluator, "_measure", lambda self, who, *_, **told: classes.update({who: told}) or Row(who, {}, {})
    )
    found.measure()
    assert classes["teacher"] == {"classes": ["cat", "dog"]}
