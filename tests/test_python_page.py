"""docs/python.md and the README's block of Python, run as they stand, with a hub on the loopback."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN, serve

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
CHECK = """
assert vectors.shape == (32, model.encoder.spec.dim) and len(maps) == 3 and len(answers) == 32
assert student.metrics["steps"] == 6 and student.config["train"]["lr"] == 1e-3 and same.metrics == student.metrics
assert len(problems) > 1 and any("did you mean 'lr'" in problem for problem in problems)
assert copy.embed(frame).equal(model.embed(frame)) and model.folder.parent.name == "snapshots"
"""


def python(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def run(code: str, folder: Path, **variables: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **variables}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_of_the_page_runs_and_then_the_readmes(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="an optional package: pip install '.[hub]'")
    blocks = python("docs/python.md")
    assert len(blocks) > 5
    with serve() as (hub, address):
        variables = {
            "HF_ENDPOINT": address,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
        }
        assert run("".join(blocks) + CHECK, tmp_path, **variables) == ""
        assert hub.private["me/depth-student"]
    assert (tmp_path / "student.html").is_file() and "license: apache-2.0" in (
        tmp_path / "out/depth-student/README.md"
    ).read_text()
    (tmp_path / "runs" / "doom").symlink_to(tmp_path / "runs")
    (code,) = python("README.md")
    assert run(code, tmp_path) == ""
