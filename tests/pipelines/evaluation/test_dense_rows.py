"""Evaluations of maps through the commands: their rows, what they give for the report, and the inflated teacher."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import write
from embedded import ENCODER
from safetensors.torch import load_file

from crossmodal import ENCODERS
from crossmodal.models import Card, save_model
from modalities.synthetic.scene import SCENE_CLASSES
from pipelines.__main__ import main
from pipelines.building.teachers import inflate_teacher
from pipelines.evaluation.evaluator import Evaluator
from pipelines.schemas.common import EncoderConfig, TeacherConfig

ROWS = {"taught", "teacher", "random weights", "teacher's weights, students' input"}
CONVNET = {"name": "convnet", "width": 4, "stages": 2}
VIEWS = {"rgb": {"modality": "rgb", "size": 32}, "depth": {"modality": "depth", "size": 32, "max_m": 8.0}}
TRAIN = {"epochs": 1, "batch_size": 16, "workers": 0}
QUICK = {"draws": 1, "steps": 3, "pictures": [4], "maps": [1], "teacher_maps": [0]}


def commanded(folder: Path, command: str, **config: Any) -> str:
    output = config.setdefault("output", str(folder / command))
    plain = json.loads(json.dumps(config))  # without shared lists, which YAML would write as aliases
    assert main([command, str(write(folder / f"{command}.yaml", plain))]) == 0
    return output


@pytest.mark.slow
def test_maps_are_judged_beside_random_weights_the_teacher_and_its_inflated_network(tmp_path: Path) -> None:
    source = {
        "name": "synthetic",
        "modalities": ["rgb", "depth", "labels"],
        "train_pairs": 32,
        "test_pairs": 8,
        "size": 32,
    }
    pairs = commanded(tmp_path, "shards", source=source)
    teacher = commanded(tmp_path, "supervise", data=f"{pairs}/train", views={"rgb": VIEWS["rgb"]}, train=TRAIN,
                        student={"view": "rgb", "encoder": {**CONVNET, "stages": 1}})  # fmt: skip
    student = commanded(tmp_path, "transfer", data=f"{pairs}/train", views=VIEWS, train=TRAIN,
                        objectives={"patch": {"maps": [[1, 0]]}},
                        teachers={"rgb": {"view": "rgb", "weights": teacher}},
                        student={"view": "depth", "encoder": CONVNET})  # fmt: skip
    merged = {"solid": [name for name in SCENE_CLASSES if name != "wall"]}
    output = Path(commanded(
        tmp_path, "evaluate", data={"train": f"{pairs}/train", "test": f"{pairs}/test"}, students={"taught": [student]},
        few_labels=None, seeds=2, workers=0, metrics={
            "segmentation": {**QUICK, "fine_tuned": [4], "fine_tuned_steps": 2},
            "two": {"name": "segmentation", **QUICK, "suffix": "2", "merge": merged, "fine_tuned": []},
            "layers": {"maps": [0, 1]},
        },
    ))  # fmt: skip
    figures = json.loads((output / "report.json").read_text())["figures"]
    table = figures["table"]
    assert table.keys() == ROWS
    for who, row in table.items():
        assert ("miou.fine-tuned@4" in row) == (who != "teacher")
        assert {"miou.frozen@4", "miou2.frozen@4", "pixel_accuracy2.frozen@4", "layer.0"} <= row.keys()
        assert ("layer.1" in row) == (who in ("taught", "random weights"))
        assert len(row["miou.frozen@4"]["runs"]) == (2 if who == "random weights" else 1)
    bars = figures["details"]["two"]["mIoU 2 by class, frozen, 4 pictures"]
    assert bars.keys() == ROWS
    assert {*bars["taught"]} <= {"wall", "solid"}
    # the means of two seeds of the mean over classes, and of classes over seeds
    row = bars["random weights"]
    assert sum(row.values()) / 2 == pytest.approx(table["random weights"]["miou2.frozen@4"]["mean"], abs=1e-3)
    pictures = {tuple(json.loads(name)): each for name, each in load_file(output / "pictures.safetensors").items()}
    assert {who for _, who, _ in pictures} == ROWS and {key for key, _, _ in pictures} == {"segmentation", "two"}
    shown = figures["shown"]["segmentation"]
    assert [*shown.pop("legend")][:2] == ["no truth", "wall"]
    assert shown == {
        "context": ["input", "truth"], "pictures": ["frozen, 4 pictures", "fine-tuned, 4 pictures"],
        "components": ["first three principal components of the maps"],
    }  # fmt: skip
    assert {title for key, who, title in pictures if (key, who) == ("segmentation", "taught")} == {
        title for kind in shown for title in shown[kind]
    }
    assert torch.equal(pictures["two", "taught", "truth"], pictures["two", "random weights", "truth"])


def test_an_inflated_teacher_answers_a_grey_picture_as_the_teacher_does(tmp_path: Path) -> None:
    card = Card("convnet", {"width": 4, "stages": 1}, (3, 8, 8), ["a", "b"], "rgb", {"size": 8})
    torch.manual_seed(0)
    teacher = ENCODERS.get("convnet")((3, 8, 8), 2, width=4, stages=1).eval()
    save_model(tmp_path, card, teacher, {})
    found = inflate_teacher(TeacherConfig("rgb", str(tmp_path)), (1, 8, 8))
    grey = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found(grey).maps[0], teacher(grey.expand(-1, 3, -1, -1)).maps[0], atol=1e-5, rtol=1e-5)
    assert not found.training and found(grey).logits is None
    published = TeacherConfig(
        "rgb", str(tmp_path), encoder=EncoderConfig("convnet", {"width": 4, "stages": 1}), classes=2
    )
    assert torch.equal(inflate_teacher(published, (1, 8, 8))(grey).embedding, found(grey).embedding)


def test_a_teacher_that_does_not_fit_the_students_input_is_noted(tmp_path: Path) -> None:
    card = Card("convnet", {"width": 4, "stages": 1}, (3, 8, 8), [], "rgb", {"size": 8})
    save_model(tmp_path, card, ENCODER, {})
    other = TeacherConfig("rgb", str(tmp_path), encoder=EncoderConfig("convnet", {"width": 8, "stages": 1}))
    view = SimpleNamespace(modality=SimpleNamespace(shape=(1, 8, 8)))
    evaluations = {"segmentation": SimpleNamespace(inflates=True)}
    taught = "t", SimpleNamespace(teachers={"t": other})
    asked = SimpleNamespace(taught=taught, view=view, _evaluations=evaluations)
    encoder, note = Evaluator._inflation.func(asked)  # type: ignore[attr-defined]
    assert encoder is None
    assert note.startswith("the teacher's weights are not measured on the students' input, which they do not fit: ")
    asked._evaluations = {"retrieval": SimpleNamespace(inflates=False)}
    assert Evaluator._inflation.func(asked) == (None, "")  # type: ignore[attr-defined]
