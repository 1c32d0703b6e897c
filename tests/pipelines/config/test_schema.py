"""`crossmodal schema`: it takes what the product takes, and refuses what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines import registry
from pipelines.__main__ import main
from pipelines.config.parse import parse, plain
from pipelines.config.schema import schema_of

jsonschema = pytest.importorskip("jsonschema", reason="needs the package jsonschema")
ROOT = Path(__file__).parents[3]
STAGES = {}  # config file -> pipeline, by the comment on its first line
for path in sorted((ROOT / "configs").rglob("*.yaml")):
    words = path.read_text(encoding="utf-8").split("\n", 1)[0].split()
    if len(words) > 2 and words[1] == "crossmodal":
        STAGES[path] = words[2]


def problems(pipeline: str, content: Any) -> list[str]:
    validator = jsonschema.Draft7Validator(schema_of(pipeline, registry.find_pipeline(pipeline)))
    return [error.message for error in validator.iter_errors(content)]


@pytest.mark.parametrize("path", STAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_published_config_is_valid(path: Path) -> None:
    assert problems(STAGES[path], plain(parse(path.read_text(encoding="utf-8"), str(path), []))) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": {"lrr": 0.1}},
        {"train": {"lr": -1}},
        {"train": {"optimiser": "adamm"}},
        {"student": {"view": "depth", "encoder": {"name": "convnet", "widht": 8}}},
        {"student": {"view": "depth", "encoder": "convnett"}},
        {"objectives": {"crd": {"weihgt": 1}}},
        {"views": {"depth": {"modality": "depth", "size": "large"}}},
    ],
    ids=str,
)
def test_a_mistake_is_found(wrong: dict[str, Any]) -> None:
    assert problems("transfer", wrong)


@pytest.mark.parametrize(
    "right",
    [
        {"train": {"lr": "${oc.env:LR}"}},
        {"base": "other.yaml", "~objectives": None},
        {"objectives": {"crd": None, "near": {"name": "infonce", "temperature": 0.2}}},
        {"student": {"view": "depth", "encoder": "convnet"}},
    ],
    ids=str,
)
def test_what_the_product_takes_is_valid(right: dict[str, Any]) -> None:
    assert problems("transfer", right) == []


def test_the_command_prints_it_and_knows_the_pipelines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "transfer"]) == 0
    content = json.loads(capsys.readouterr().out)
    lr = content["properties"]["train"]
    assert content["title"] == "crossmodal transfer"
    assert "description" in lr
    assert main(["schema", "transfr"]) == 2
    assert "pipeline 'transfr' is not known; did you mean 'transfer'?" in capsys.readouterr().err
    assert main(["schema"]) == 2
    assert "expected crossmodal schema PIPELINE" in capsys.readouterr().err
