"""A saved model: equal to the loaded one, and a README that says what is known and nothing that is not."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import crossmodal as cm
from crossmodal.models import CARD, WEIGHTS, Card, ExportError, digest, load_model, save_model
from pipelines.config import load
from pipelines.schemas.pretrain import Config

VIEW = {"modality": "depth", "size": 16, "max_m": 8.0}
CONFIG = {
    "data": "data/train", "views": {"depth": VIEW},
    "encoders": {"depth": {"view": "depth", "encoder": {"name": "convnet", "width": 4, "stages": 2}}},
    "objectives": {"infonce": {}},
}  # fmt: skip
TEACHER = {"weights": "hf-hub:timm/some_net.v1@abc", "licence": "mit", "sha256": "5eed", "revision": None}
FIGURES = {
    "metrics": {"probe": {"heading": "linear probe", "percent": True, "higher_is_better": True, "chance": 0.25}},
    "table": {"mine": {"probe": {"mean": 0.5, "std": 0.021, "runs": [0.5], "interval": [0.4, 0.6]}},
              "random weights": {"probe": {"mean": 0.3, "std": None, "runs": [0.3]}}},
    "verdict": ["Gain over random weights. It has 50 %."], "seeds": 3, "test_pairs": 40,
}  # fmt: skip


def record(folder: Path, pipeline: str, inputs: dict[str, str], **more: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"pipeline": pipeline, "config": CONFIG, "inputs": inputs, "environment": {"commit": "c0ffee"}, **more}
    (folder / "run.json").write_text(json.dumps(content))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a depth network, and an evaluation of it beside another one."""
    folder = tmp_path / "runs" / "student"
    card = Card("convnet", {"width": 4, "stages": 2}, (1, 16, 16), [], "depth", {"size": 16, "max_m": 8.0})
    torch.manual_seed(0)
    save_model(folder / "model", card, card.build(), {})
    record(folder, "pretrain", {"data": "d1ge57"}, weights={"teachers.rgb": TEACHER})
    for name, measured in {"other": "0" * 64, "evaluation": f"{'1' * 64} {digest(folder)}"}.items():
        record(tmp_path / "runs" / name, "evaluate", {"students.mine": measured})
        (tmp_path / "runs" / name / "report.json").write_text(json.dumps({"figures": FIGURES}))
    return folder


def readme(folder: Path) -> tuple[dict[str, Any], str]:
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), text


def test_a_saved_run_is_the_same_model_to_the_byte(run: Path, tmp_path: Path) -> None:
    assert cm.save(str(run), tmp_path / "out") == tmp_path / "out"
    assert digest(tmp_path / "out") == digest(run)
    frame = 1 + torch.rand(20, 20)
    assert torch.equal(cm.load(tmp_path / "out").embed(frame), cm.load(run).embed(frame))


def test_the_head_of_the_readme_is_what_the_hub_reads(run: Path, tmp_path: Path) -> None:
    cm.save(load_model(run), tmp_path / "out", license="apache-2.0")
    head, _ = readme(tmp_path / "out")
    assert head == {
        "library_name": "crossmodal-transfer",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["crossmodal-transfer", "depth", "convnet"],
        "license": "apache-2.0",
        "base_model": ["timm/some_net.v1"],
    }


def test_the_readme_has_input_units_data_teacher_licence_figures_and_chance(run: Path, tmp_path: Path) -> None:
    cm.save(run, tmp_path / "out")
    _, text = readme(tmp_path / "out")
    for line in (
        "| sample | 1 x 16 x 16 (channels first) |",
        "| max_m | 8.0 | what the encoder sees as farthest, metres; farther counts as this |",
        "| digest of data | `d1ge57` |",
        "| weights of teachers.rgb | hf-hub:timm/some_net.v1@abc, licence mit, sha256 5eed |",
        "- Gain over random weights. It has 50 %.",
        "On 40 test pairs; mean over 3 seeds",
        "| metric | this model (mine) | random weights | chance |",
        "| linear probe in % | 50.0 ± 2.1 [40.0, 60.0] | 30.0 | 25.0 |",
    ):
        assert line in text, line
    assert "in metres" in text


def test_the_config_in_the_readme_is_one(run: Path, tmp_path: Path) -> None:
    cm.save(run, tmp_path / "out")
    (config,) = re.findall(r"```json\n(.*?)\n```", readme(tmp_path / "out")[1], re.DOTALL)
    (tmp_path / "config.yaml").write_text(config)
    assert load(Config, tmp_path / "config.yaml").views["depth"].options["max_m"] == VIEW["max_m"]


def test_a_copy_keeps_the_readme_and_changed_weights_lose_it(run: Path, tmp_path: Path) -> None:
    cm.save(run, tmp_path / "first")
    cm.save(tmp_path / "first", tmp_path / "second")
    assert (tmp_path / "second" / "README.md").read_bytes() == (tmp_path / "first" / "README.md").read_bytes()
    for source in (run, tmp_path / "first"):
        model = load_model(source)
        with torch.no_grad():
            next(model.encoder.parameters()).add_(1)
        cm.save(model, tmp_path / "third")
        _, text = readme(tmp_path / "third")
        assert "Training" not in text and "Figures" not in text and "Input and output" in text
        assert torch.equal(cm.load(tmp_path / "third").embed(torch.ones(9, 9)), model.embed(torch.ones(9, 9)))


def test_a_model_of_no_folder_is_saved_too(run: Path, tmp_path: Path) -> None:
    model = replace(load_model(run), folder=None)
    cm.save(model, tmp_path / "out", name="my-net")
    assert readme(tmp_path / "out")[1].lstrip().startswith("# my-net") and digest(tmp_path / "out")


def test_an_evaluation_of_another_model_is_refused_and_nothing_is_written(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"runs/other holds no finished evaluation of this model; give the output"):
        cm.save(run, tmp_path / "out", evaluation=run.parent / "other")
    assert not (tmp_path / "out").exists()
    cm.save(run, tmp_path / "out", evaluation=run.parent / "evaluation")
    assert "Figures" in readme(tmp_path / "out")[1]


def test_a_save_that_was_cut_short_is_not_taken_for_a_model(run: Path, tmp_path: Path) -> None:
    cm.save(run, tmp_path / "out")
    with (tmp_path / "out" / WEIGHTS).open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ExportError, match="is not the file that was exported"):
        cm.load(tmp_path / "out")
    (tmp_path / "out" / CARD).unlink()
    with pytest.raises(ExportError, match="holds no exported model"):
        cm.load(tmp_path / "out")
