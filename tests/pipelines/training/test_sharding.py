"""FSDP2 on processes of one machine, against DDP and one process."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed
from commands import assert_equal, launch, lines, weights, write

from crossmodal import checkpoint
from crossmodal.models import load_model
from pipelines.__main__ import main

pytest.importorskip("timm", reason="the student is one of timm's test networks, which have blocks and no batch norm")
pytestmark = pytest.mark.slow

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
STUDENT = {"name": "timm", "model": "test_vit"}
# runs of one launch: with FSDP; with DDP; and with DDP from a sharded checkpoint. Rank 0 gathers the weights by hand
SCRIPT = """
import os, shutil, sys
import torch
from torch.distributed.tensor import DTensor
from pipelines.__main__ import main
from pipelines.runs import distributed
from pipelines.training import loop, state

def gather(module):
    return {name: item.full_tensor() if isinstance(item, DTensor) else item.clone()
            for name, item in module.state_dict().items()}

def check(self):
    plain_check(self)
    self.sharded = {name: [isinstance(item, DTensor) for item in module.parameters()]
                    for name, module in {"student": self.module, **self.beside}.items()}
    gathered = gather(self.module)
    if distributed.is_main():
        torch.save((gathered, self.sharded), f"{self.run.path}/gathered.pt")

def save(self, folder, progress, sums, *, group=None):
    plain_save(self, folder, progress, sums, group=group)
    gathered = gather(self.module)
    if distributed.is_main():
        torch.save(gathered, f"{folder}/gathered_{progress.step}.pt")

plain_check, loop.Training._check_weights = loop.Training._check_weights, check
plain_save, state.TrainingState.save = state.TrainingState.save, save
part, distributed.part = distributed.part, lambda: None  # a group opens once in a process
config, folder = sys.argv[1:]
assert main(["transfer", config, f"output={folder}/fsdp"]) == 0
plain_save, state.TrainingState.save = None, plain_save
os.environ["ACCELERATE_USE_FSDP"] = "false"
assert main(["transfer", config, f"output={folder}/ddp"]) == 0
part()
"""


@pytest.fixture(scope="module")
def folder(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs `fsdp` and `ddp` of two processes, with clipping, averaged weights and a sharded bank."""
    folder = tmp_path_factory.mktemp("sharded")
    views = {"rgb": {"modality": "rgb", "size": 32}, "depth": {"modality": "depth", "size": 32, "max_m": 10}}
    teacher = write(folder / "teacher.yaml", {
        "data": str(synthetic / "train"), "views": {"rgb": views["rgb"]},
        "student": {"view": "rgb", "encoder": {"name": "cifar_resnet", "depth": 14}},
        "train": {"epochs": 1, "batch_size": 32, "workers": 0}, "output": str(folder / "teacher"),
    })  # fmt: skip
    assert main(["supervise", str(teacher)]) == 0
    config = write(folder / "transfer.yaml", {
        "data": str(synthetic / "train"), "views": views,
        "teachers": {"rgb": {"view": "rgb", "weights": str(folder / "teacher")}},
        "student": {"view": "depth", "encoder": STUDENT},
        "objectives": {"crd": {"negatives": {"count": 32, "place": "sharded"}}, "infonce": {}, "kd": {},
                       "patch": {"dim": 8}},
        "train": {"epochs": 2, "batch_size": 32, "workers": 0, "log_every": 1, "save_every": 2, "ema": 0.9,
                  "optimiser": "sgd", "lr": 0.01, "clip_norm": 30.0},  # SGD, which does not hide a gradient's size
        "output": "-",
    })  # fmt: skip
    script = folder / "command.py"
    script.write_text(SCRIPT)
    launched = launch(str(script), str(config), str(folder), variables=FSDP)
    assert launched.returncode == 0, launched.stderr
    return folder


def copy_without_end(folder: Path, to: Path) -> Path:
    """The run as if it had been killed after the checkpoint of step 2, while that of step 4 was written."""
    shutil.copytree(folder / "fsdp", to)
    shutil.rmtree(to / "model")
    (to / "report.json").unlink()
    (to / "checkpoints" / "step_000000004").rename(to / "checkpoints" / "step_000000004.0.part")
    return to


def assert_close(ours: Path, theirs: Path) -> None:
    assert len(lines(ours)) == len(lines(theirs)) == 6
    for one, other in zip(lines(ours), lines(theirs), strict=True):
        for name in ("loss", "crd", "infonce", "kd", "patch"):
            assert one[name] == pytest.approx(other[name], rel=1e-5, abs=1e-5)


def test_losses_are_those_of_ddp_and_all_networks_are_sharded(folder: Path) -> None:
    assert_close(folder / "fsdp", folder / "ddp")
    _, sharded = torch.load(folder / "fsdp" / "gathered.pt", weights_only=True)
    assert sharded.keys() == {"student", "rgb"}
    assert all(all(each) and len(each) > 10 for each in sharded.values())
    for name, tensor in weights(folder / "ddp").items():
        torch.testing.assert_close(weights(folder / "fsdp")[name], tensor, atol=1e-5, rtol=1e-4)


def test_the_export_holds_the_weights_that_a_gathering_by_hand_gives(folder: Path) -> None:
    gathered, _ = torch.load(folder / "fsdp" / "gathered.pt", weights_only=True)
    exported = weights(folder / "fsdp")
    theirs = {"encoder.": "student.", "heads.": "objectives."}
    for ours, name_of in theirs.items():
        own = {name.removeprefix(ours): item for name, item in exported.items() if name.startswith(ours)}
        assert_equal(own, {name: gathered[name_of + name] for name in own})
    own = {name: item for name, item in exported.items() if name.startswith("encoder.")}
    assert len(own) > 50 and len(exported) > len(own) + 5
    model = load_model(folder / "fsdp")
    assert_equal({f"encoder.{name}": item for name, item in model.encoder.state_dict().items()}, own)
    assert set(model.heads) == {"crd", "infonce", "patch"}


def test_a_checkpoint_of_two_ranks_continues_on_one_and_on_four(folder: Path, tmp_path: Path) -> None:
    one, four = copy_without_end(folder, tmp_path / "one"), copy_without_end(folder, tmp_path / "four")
    step = one / "checkpoints" / "step_000000002"
    assert checkpoint.latest(one / "checkpoints") == step
    saved = torch.load(one / "checkpoints" / "gathered_2.pt", weights_only=True)
    read = {f"module.{name}": torch.zeros_like(item) for name, item in saved.items()}
    checkpoint.load_sharded(step, read)
    assert_equal({name.removeprefix("module."): item for name, item in read.items()}, saved)

    assert main(["transfer", str(folder / "transfer.yaml"), f"output={one}"]) == 0
    launched = launch("transfer", str(folder / "transfer.yaml"), f"output={four}", ranks=4, variables=FSDP)
    assert launched.returncode == 0, launched.stderr
    for run in (one, four):
        assert_close(run, folder / "fsdp")
        assert not (run / "checkpoints" / "step_000000004.0.part").exists()
        assert json.loads((run / "report.json").read_text())["figures"]["steps"] == 6


def test_a_process_that_dies_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        tensors, folder = {"rows": torch.arange(6.0)}, tmp_path / "checkpoints"
        first = checkpoint.save_sharded(folder, 1, {"step": 1}, tensors)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(checkpoint, "_sync", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))  # before the rename
            checkpoint.save_sharded(folder, 2, {"step": 2}, tensors)
        assert checkpoint.latest(folder) == first
        assert (folder / "step_000000002.0.part" / ".metadata").exists()
        with (
            monkeypatch.context() as patch,
            pytest.raises(checkpoint.CheckpointError, match="000001 is intact"),
        ):
            patch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("no space")))
            checkpoint.save_sharded(folder, 3, {"step": 3}, tensors)
        for step in (4, 5, 5):  # by `save_every`, and by a signal at the same step
            checkpoint.save_sharded(folder, step, {"step": step}, tensors)
        assert [path.name for path in sorted(folder.glob("*[0-9]"))] == ["step_000000004", "step_000000005"]
        assert checkpoint.load(checkpoint.latest(folder) or folder) == {"step": 5}
        next(folder.glob("*5/*.distcp")).write_bytes(b"")
        with pytest.raises(checkpoint.CheckpointError, match="delete it to continue from the one before"):
            checkpoint.load_sharded(folder / "step_000000005", tensors)
    finally:
        torch.distributed.destroy_process_group()
