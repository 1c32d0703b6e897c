"""Options of accelerate's launcher that contradict the config are refused in one sentence."""

import subprocess
import sys

import pytest

from pipelines.config import ConfigError
from pipelines.schemas.common import TrainConfig
from pipelines.training.launcher import check_launcher, is_sharded, refuse_sharded

TWO = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
CASES = {
    "mixed_precision is bf16, and train.mixed_precision is no": ({"ACCELERATE_MIXED_PRECISION": "bf16"}, {}),
    "gradient_accumulation_steps is 4, and train.accumulate is 2": (
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
        {"accumulate": 2},
    ),
    "to launch DeepSpeed, but train runs": ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}),
    "fsdp_version is 1, but train works with FSDP2": ({"ACCELERATE_USE_FSDP": "true"}, {}),
    "fsdp_offload_params is true": (
        {**TWO, "FSDP_OFFLOAD_PARAMS": "true"},
        {},
    ),
    "set train.checkpoint_activations=true": (
        {**TWO, "FSDP_ACTIVATION_CHECKPOINTING": "true"},
        {},
    ),
    "train.chunk computes gradients": (TWO, {"chunk": 8}),
    "must be no or bf16 under FSDP": (
        {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
        {"mixed_precision": "fp16"},
    ),
}


@pytest.mark.parametrize("words", CASES)
def test_a_contradiction_is_one_sentence_that_names_both(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables, options = CASES[words]
    for name, value in {"WORLD_SIZE": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as error:
        check_launcher(TrainConfig(**options))
    assert len(error.value.problems) == 1
    assert words in error.value.problems[0]


def test_what_the_launcher_sets_by_itself_is_no_contradiction(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MIXED_PRECISION": "no", "GRADIENT_ACCUMULATION_STEPS": "1", "USE_FSDP": "true"}.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    monkeypatch.setenv("FSDP_VERSION", "2")
    check_launcher(TrainConfig(mixed_precision="bf16", accumulate=4))
    assert not is_sharded()  # on one process
    refuse_sharded("gradients.unit")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_sharded()
    with pytest.raises(ConfigError, match=r"gradients\.unit does not work under FSDP"):
        refuse_sharded("gradients.unit")


def test_the_check_needs_no_torch() -> None:
    script = "import sys, pipelines.training.launcher; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
