"""train.compile: the same training up to rounding, with the same names; tools that are missing are named."""

from pathlib import Path
from types import ModuleType

import pytest
import torch
from commands import ENCODER, lines, weights, write
from torch import nn
from torch._dynamo.utils import counters

from crossmodal.models import Card, save_model
from pipelines.__main__ import main
from pipelines.config import ConfigError, load
from pipelines.schemas import certify, pretrain
from pipelines.schemas.common import TrainConfig
from pipelines.training import compilation


@pytest.fixture
def config(synthetic: Path, tmp_path: Path) -> Path:
    """A transfer of 6 steps, from a teacher with random weights."""
    card = Card("convnet", {"width": 8, "stages": 3}, (3, 32, 32), [], "rgb", {"size": 32, "fit": "crop"})
    save_model(tmp_path / "teacher", card, card.build(), {})
    return write(tmp_path / "transfer.yaml", {
        "data": str(synthetic / "train"),
        "views": {"rgb": {"modality": "rgb", "size": 32}, "depth": {"modality": "depth", "size": 32, "max_m": 8.0}},
        "teachers": {"rgb": {"view": "rgb", "weights": str(tmp_path / "teacher")}},
        "student": {"view": "depth", "encoder": ENCODER},
        "objectives": {"infonce": {}},
        "train": {"epochs": 2, "batch_size": 32, "workers": 0, "log_every": 1, "optimiser": "sgd", "lr": 0.05},
    })  # fmt: skip


def test_a_compiled_training_is_the_same_with_the_same_names(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the tracer and the split into forward and backward, but eager kernels, which compile in no time."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    counters.clear()
    graphs = []
    for chosen in ("false", "true"):
        assert main(["transfer", str(config), f"train.compile={chosen}", f"output={tmp_path / chosen}"]) == 0
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [0, 2]  # teacher and student
    expected, found = weights(tmp_path / "false"), weights(tmp_path / "true")
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)
    assert lines(tmp_path / "true")[0]["loss"] == pytest.approx(lines(tmp_path / "false")[0]["loss"], rel=1e-5)


def test_teacher_and_student_are_chosen_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **_: called.append(module))
    student, teacher = nn.Identity(), nn.Identity()
    for chosen, networks in ((False, []), ("student", [student]), ("teacher", [teacher]), (True, [student, teacher])):
        called.clear()
        compilation.compile_networks(TrainConfig(compile=chosen), {"student": student}, {"rgb": teacher})
        assert called == networks


@pytest.mark.parametrize("named", [None, "no-such-compiler"])
def test_a_missing_compiler_is_one_sentence(named: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    if named:
        monkeypatch.setenv("CXX", named)
    problem = rf"train.compile needs a C\+\+ compiler, and {f'CXX={named}' if named else 'g'}"
    with pytest.raises(ConfigError, match=problem):
        compilation.check_compiler(TrainConfig(compile=True))
    compilation.check_compiler(TrainConfig())


@pytest.mark.parametrize(("schema", "path", "words", "problem"), [
    (certify, "certify/doom_depth.yaml", (), "train.compile must be false: the weights are drawn"),
    (pretrain, "pretrain/cifar10_loco.yaml", ("gradients.unit=1",), "train.compile must be false with gradients.unit"),
    (pretrain, "pretrain/depth_simclr.yaml", ("train.checkpoint_activations=true",), "must be false or teacher with"),
])  # fmt: skip
def test_what_cannot_be_compiled_is_refused_before_anything_is_loaded(
    schema: ModuleType, path: str, words: tuple[str, ...], problem: str
) -> None:
    config = Path(__file__).parents[3] / "configs" / path
    with pytest.raises(ConfigError, match=problem):
        load(schema.Config, config, [*words, "train.compile=true"])
