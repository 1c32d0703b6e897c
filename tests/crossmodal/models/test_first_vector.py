"""The first vector of a new process needs torch and nothing else that is slow to import."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crossmodal.models import Card, save_model

pytestmark = pytest.mark.slow
HEAVY = ("torch._dynamo", "torch.distributed.nn", "torchvision", "torchaudio", "kornia", "scipy", "sklearn",
         "sympy", "accelerate", "matplotlib", "omegaconf", "webdataset", "huggingface_hub", "timm", "soundfile",
         "pandas")  # fmt: skip


def loaded_by(code: str, folder: Path) -> list[str]:
    """The slow packages that a new process has after some code."""
    tell = f"import sys\nprint([name for name in {('torch', *HEAVY)!r} if name in sys.modules])"
    run = [sys.executable, "-c", f"{code}\n{tell}"]
    return eval(subprocess.run(run, cwd=folder, capture_output=True, text=True, check=True).stdout)


def test_a_vector_loads_torch_alone_and_the_import_not_even_that(tmp_path: Path) -> None:
    card = Card("convnet", {"width": 4, "stages": 2}, (1, 16, 16), [], "depth", {"size": 16})
    save_model(tmp_path / "model", card, card.build(), {})
    np.save(tmp_path / "map.npy", np.full((20, 20), 1500, np.uint16))
    assert loaded_by("import crossmodal", tmp_path) == []
    code = "import crossmodal\nassert crossmodal.load('.').embed(['map.npy']).shape[0] == 1"
    assert loaded_by(code, tmp_path) == ["torch"]
