"""What a transfer does where its config does not say."""

from typing import Any

import pytest

from pipelines.schemas.common import TeacherConfig, TrainConfig, ViewConfig
from pipelines.schemas.recipe import choose_recipe, sized


def chosen(
    teacher: str = "rgb", student: str = "depth", *, knows_classes: bool = False, aligned: bool = True, **others: Any
) -> dict[str, float]:
    views = {"theirs": ViewConfig(teacher), "ours": ViewConfig(student, aligned=aligned)}
    teachers = {"t": TeacherConfig("theirs", weights="t", **others)}
    found = choose_recipe(views, teachers, "ours", knows_classes=knows_classes)
    assert all(name == objective.name for name, objective in found.objectives.items())
    assert found.lr == (3e-3 if "patch" in found.objectives else 6e-3)
    return {name: objective.weight for name, objective in found.objectives.items()}


@pytest.mark.parametrize(("teacher", "student"), [("rgb", "depth"), ("luminance", "chrominance"), ("rgb", "rgb")])
def test_aligned_pictures_are_compared_place_by_place(teacher: str, student: str) -> None:
    assert chosen(teacher, student) == {"patch": 1.0}


@pytest.mark.parametrize(
    ("teacher", "student", "others"),
    [
        ("rgb", "audio", {}),
        ("audio", "depth", {}),
        ("rgb", "depth", {"features": "kept"}),
        ("rgb", "depth", {"aligned": False}),
    ],
)
def test_others_are_compared_as_a_whole(teacher: str, student: str, others: dict[str, Any]) -> None:
    assert chosen(teacher, student, **others) == {"infonce": 1.0, "seed": 2.0}


@pytest.mark.parametrize("student", ["depth", "audio"])
def test_a_teacher_of_the_same_classes_hands_on_its_logits(student: str) -> None:
    assert chosen("rgb", student, knows_classes=True) == {"infonce": 1.0, "seed": 2.0, "kd": 0.9}


@pytest.mark.parametrize(("pairs", "passes"), [(200, 60), (1_700, 59), (3_000, 34), (50_000, 8), (1_281_167, 8)])
def test_passes_follow_from_the_number_of_pairs(pairs: int, passes: int) -> None:
    assert sized(TrainConfig(), pairs, is_new=True).passes == passes
    assert sized(TrainConfig(epochs=7), pairs, is_new=True).passes == 7


def test_the_learning_rate_is_higher_for_new_weights() -> None:
    rates = [sized(TrainConfig(optimiser=optimiser), 10, is_new=is_new).rate
             for optimiser in ("adamw", "sgd") for is_new in (True, False)]  # fmt: skip
    assert rates == [3e-3, 1e-3, 0.05, 0.05]
    assert sized(TrainConfig(lr=1.0), 10, is_new=True).rate == 1.0
    assert (TrainConfig().passes, TrainConfig().rate) == (30, 1e-3)  # of the other pipelines
