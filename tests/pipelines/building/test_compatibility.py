"""What a student's start tells of what it was trained to see."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crossmodal import ENCODERS
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.models import Card, load_model, save_model
from modalities import MODALITIES
from pipelines.building.compatibility import refuse_other_view
from pipelines.building.data import networks_of, open_views
from pipelines.building.encoders import build_student
from pipelines.building.normalisation import tell_published
from pipelines.building.teachers import build_teachers
from pipelines.config import ConfigError
from pipelines.schemas.common import EncoderConfig, StudentConfig, TeacherConfig, ViewConfig

ENCODER = ENCODERS.get("convnet")((1, 32, 32), 0, width=4, stages=2)


@pytest.mark.parametrize(
    ("modality", "options", "told"),
    [
        ("depth", {"size": 32, "max_m": 8.0, "drift": 0.5, "scale_m": 1.0}, ""),
        ("depth", {"size": 32, "max_m": 9.0}, ", trained on Depth with max_m=9.0 (here 8.0)"),
        ("depth", {"max_m": 8.0, "scale": "linear"},
         ", trained on Depth with size=64 (here 32), scale='linear' (here 'log')"),
        ("depth", {"size": 32, "max_m": 8.0, "fit": "stretch"},
         ", trained on Depth with fit='stretch' (here 'crop')"),
        ("luminance", {"size": 32}, ", trained on Luminance (here Depth)"),
    ],
)  # fmt: skip
def test_a_student_s_beginning_tells_what_it_was_trained_to_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], modality: str, options: dict[str, object], told: str
) -> None:
    network, given = {"width": 4, "stages": 2}, MODALITIES.get("depth")(size=32, max_m=8.0)
    card = Card("convnet", network, MODALITIES.get(modality)(**options).shape, [], modality, {"fit": "crop"} | options)
    save_model(tmp_path / "model", card, ENCODER, {})
    config = StudentConfig("own", EncoderConfig("convnet", network), weights=str(tmp_path))
    for weights in (tmp_path, tmp_path / "model", tmp_path / "model" / "model.safetensors"):
        build_student(replace(config, weights=str(weights)), {"own": View(given)}, 0)
        assert capsys.readouterr().out == f"student starts from {weights}{told}\n"


def test_a_model_of_an_earlier_version_was_shown_stretched_pictures(tmp_path: Path) -> None:
    card = Card("convnet", {"width": 4, "stages": 2}, (1, 32, 32), [], "depth", {"size": 32, "max_m": 8.0})
    save_model(tmp_path, card, ENCODER, {})

    trained = load_model(tmp_path).modality

    assert trained == MODALITIES.get("depth")(size=32, max_m=8.0, fit="stretch")
    refuse_other_view(trained, MODALITIES.get("depth")(size=32, max_m=8.0, fit="stretch"), "teachers.old")
    words = r"teachers.old.view: the teacher was trained on Depth with fit='stretch' \(here 'crop'\), so it would"
    with pytest.raises(ConfigError, match=words):
        refuse_other_view(trained, MODALITIES.get("depth")(size=32, max_m=8.0), "teachers.old")


def test_a_file_of_weights_alone_tells_nothing_of_what_it_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(ENCODER.trunk.state_dict(), tmp_path / "weights.pth")
    config = StudentConfig("own", EncoderConfig("convnet", {"width": 4, "stages": 2}), str(tmp_path / "weights.pth"))
    build_student(config, {"own": View(MODALITIES.get("depth")())}, 0)
    assert capsys.readouterr().out == f"student starts from {tmp_path / 'weights.pth'}\n"


@pytest.mark.parametrize(("modality", "options"), [("sonar", {}), ("depth", {"side": 32})])
def test_a_beginning_of_another_version_is_refused_by_its_card(
    tmp_path: Path, modality: str, options: dict[str, object]
) -> None:
    save_model(tmp_path, Card("convnet", {"width": 4, "stages": 2}, (1, 32, 32), [], modality, options), ENCODER, {})
    config = StudentConfig("own", EncoderConfig("convnet", {"width": 4, "stages": 2}), str(tmp_path))
    with pytest.raises(ConfigError, match=r"student.weights: .*model.json names something unknown to this vers"):
        build_student(config, {"own": View(MODALITIES.get("depth")())}, 0)


HALF, IMAGENET = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)


def see(synthetic: Path, *teachers: TeacherConfig, student: StudentConfig | None = None, **options: object) -> Any:
    """The normalisation of a view that these networks see."""
    named = {f"t{number}": teacher for number, teacher in enumerate(teachers)}
    views = {"rgb": ViewConfig("rgb", options=options)}
    modality: Any = open_views(Shards.open(synthetic / "train"), views, networks_of(named, student))["rgb"].modality
    return modality.mean, modality.std


def teacher(name: str, normalisation: Any = "own", **options: object) -> TeacherConfig:
    return TeacherConfig("rgb", "published.pth", EncoderConfig(name, options), normalisation=normalisation)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (teacher("timm"), HALF),
        (teacher("timm", model="vit_base_patch16_224.dino"), IMAGENET),
        (teacher("efficientnet_lite"), LITE),
        (teacher("resnet"), IMAGENET),
        (teacher("convnet"), IMAGENET),  # no published weights are known: the view's own default
    ],
)
def test_a_published_teacher_s_view_is_normalised_as_the_network_was(
    synthetic: Path, config: TeacherConfig, expected: tuple[tuple[float, ...], ...]
) -> None:
    assert see(synthetic, config) == expected
    begun = StudentConfig("rgb", config.encoder or EncoderConfig("convnet"), weights=config.weights)
    assert see(synthetic, student=begun) == expected


def test_a_view_that_contradicts_its_published_teacher_is_refused_with_both_values(synthetic: Path) -> None:
    words = r"teachers.t0: .* mean=\[0.5, 0.5, 0.5\], but views.rgb sets mean=\[0.485, 0.456, 0.406\]"
    with pytest.raises(ConfigError, match=words):
        see(synthetic, teacher("timm"), mean=IMAGENET[0])
    assert see(synthetic, teacher("timm", "view"), mean=IMAGENET[0])[0] == IMAGENET[0]
    assert see(synthetic, teacher("efficientnet_lite"), mean=(0.498,) * 3)[0] == (0.498,) * 3  # rounded


def test_two_published_teachers_of_other_normalisations_are_refused_one_view(synthetic: Path) -> None:
    words = r"teachers.t1: .* mean=\[0.485, 0.456, 0.406\], but teachers.t0 needs mean=\[0.5, 0.5, 0.5\]"
    with pytest.raises(ConfigError, match=words):
        see(synthetic, teacher("timm"), teacher("resnet"))


def test_an_own_run_s_card_decides_in_place_of_the_network_s_publisher(synthetic: Path, tmp_path: Path) -> None:
    config = TeacherConfig("rgb", str(tmp_path), EncoderConfig("timm"))
    assert see(synthetic, config) == IMAGENET  # the view's default


def test_a_published_network_that_sees_another_sensor_is_named_with_what_it_was_published_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("depth", "luminance", "chrominance"):
        config = StudentConfig("it", EncoderConfig("timm"), weights="published.pth")
        tell_published("student", config, MODALITIES.get(name)())
        assert capsys.readouterr().out.splitlines() == [
            "student: its weights were published for RGB with mean=[0.5, 0.5, 0.5] and std=[0.5, 0.5, 0.5]; "
            "views.it is of another modality and keeps its own normalisation"
        ]


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (teacher("resnet"), 224),
        (teacher("efficientnet", variant="b2"), 288),
        (teacher("efficientnet_lite"), 224),
        (teacher("mobilenet"), 224),
        (teacher("timm", model="vit_base_patch16_384"), 384),
    ],
)
def test_a_published_network_s_size_is_named_where_the_view_has_another(
    capsys: pytest.CaptureFixture[str], config: TeacherConfig, size: int
) -> None:
    tell_published("teachers.t", config, MODALITIES.get("rgb")(size=size))
    assert capsys.readouterr().out == ""
    tell_published("teachers.t", config, MODALITIES.get("rgb")(size=96))
    words = (
        f"teachers.t: its weights were published for pictures of {size} x {size} pixels, and view 'rgb' gives 96 x 96"
    )
    assert capsys.readouterr().out.startswith(words)


def test_a_teacher_and_a_student_of_published_weights_say_what_these_are_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, options = str(tmp_path / "resnet18.pth"), {"depth": 18}
    torch.save(ENCODERS.get("resnet")((3, 64, 64), 0, **options).trunk.state_dict(), path)
    views = {"rgb": View(MODALITIES.get("rgb")(size=64))}
    build_teachers({"t": TeacherConfig("rgb", path, EncoderConfig("resnet", options))}, views)
    build_student(StudentConfig("rgb", EncoderConfig("resnet", options), path), views, 0)
    said = [line for line in capsys.readouterr().out.splitlines() if "published for pictures of 224" in line]
    assert [line.partition(":")[0] for line in said] == ["teachers.t", "student"]


@pytest.mark.parametrize("encoder", [None, EncoderConfig("resnet")])
def test_a_normalisation_of_a_finished_run_is_refused_with_both_keys(
    synthetic: Path, tmp_path: Path, encoder: EncoderConfig | None
) -> None:
    config = TeacherConfig("rgb", str(tmp_path), encoder, normalisation="view")
    words = rf"teachers.t0.normalisation: view is for .* teachers.t0.weights, {tmp_path}, is a finished run"
    with pytest.raises(ConfigError, match=words):
        see(synthetic, config)


def test_a_view_in_bytes_is_taken_for_a_teacher_of_floats() -> None:
    trained, given = (MODALITIES.get("rgb")(size=48, bits=bits) for bits in (None, 8))
    refuse_other_view(trained, given, "teachers.old")
    with pytest.raises(ConfigError, match="would get other numbers"):
        refuse_other_view(trained, MODALITIES.get("rgb")(size=48, bits=8, std=(0.1, 0.2, 0.3)), "teachers.old")
