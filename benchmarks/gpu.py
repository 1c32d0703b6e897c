"""What a GPU is asked for, in one go: CRD, SimCLR, a whole transfer, compiled or not; a table and a JSON file.

python benchmarks/gpu.py [--out gpu.json]     under ten minutes on one GPU and 16 cores
python benchmarks/gpu.py --small              the same code on a CPU in less than a minute; its figures mean nothing

- CRD: a step (forward, backward, banks) against the published algorithm, written from its formulas in `crd.py`, at
  50,000 and 1,281,167 pairs; and the kernels that each launches.
- SimCLR: a step on crops in memory against the same network with NT-Xent written from its formula as one matrix of all
  scores, as lightly computes it. `simclr.py cuda` compares with lightly itself, loaders included.
- Transfer: ResNet-50 teaches ResNet-18 at 224 pixels in bf16 with CRD; `crossmodal transfer` with its loader against
  bare compute on a batch in memory; the GPU's utilisation meanwhile, and the operators for which the host waited.

All but the last are ratios within one run, in turns.
"""

import argparse
import io
import json
import statistics
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crd
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from crossmodal import ENCODERS, MULTIVIEW, OBJECTIVES, SOURCES
from crossmodal.data.writer import write_shards
from crossmodal.models import Card, save_model
from crossmodal.modules.pretraining import Branch, Pretraining, find_pairings, name_crop
from crossmodal.modules.projector import Projector
from crossmodal.modules.transfer import Term, Transfer
from crossmodal.objectives import Batch
from pipelines.__main__ import main
from pipelines.training import compilation

Step = Callable[[int], Any]


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    sizes: tuple[int, ...] = crd.SIZES  # pairs of CRD's banks
    negatives: int = crd.NEGATIVES
    side: int = 224  # pixels
    batch: int = 256
    pairs: int = 2048  # of the transfer's shards
    epochs: int = 12
    teacher: int = 50  # layers of the ResNets
    student: int = 18
    workers: int = 14
    turns: int = 5
    repeats: int = 8  # steps in a turn


SMALL = Scale((500,), 256, 32, 4, 16, 2, 18, 18, 1, 1, 1)


class Count(TorchDispatchMode):
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator."""
        self.count += 1
        return func(*args, **(kwargs or {}))


def launches(step: Step, device: torch.device) -> int:
    """Kernels that a step launches on a GPU; on a CPU, operators of its forward pass and update."""
    step(0)
    if device.type != "cuda":
        with Count() as mode:
            step(1)
        return mode.count
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step(1)
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


def in_turns(steps: dict[str, Step], scale: Scale, device: torch.device) -> dict[str, float]:
    """Median seconds of a step of each contender."""
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(scale.turns + 1):
        for name, step in steps.items():
            wait()
            began = time.perf_counter()
            for repeat in range(scale.repeats):
                step(turn + repeat)
            wait()
            if turn:  # the first one warms up
                seconds[name].append((time.perf_counter() - began) / scale.repeats)
    return {name: statistics.median(each) for name, each in seconds.items()}


def measure_crd(scale: Scale, device: torch.device) -> Iterator[dict[str, Any]]:
    """A row for each form of ours at each size."""
    crd.NEGATIVES = scale.negatives
    bench = crd.Bench(None, device)
    for pairs in scale.sizes:
        steps = {which: crd.stepper(bench, which, pairs) for which in ("theirs", *crd.OURS)}
        seconds = in_turns(steps, scale, device)
        count = {which: launches(step, device) for which, step in steps.items()}
        for which in crd.OURS:
            yield {"what": f"CRD, {pairs:,} pairs, {which}", "times_as_fast": seconds["theirs"] / seconds[which],
                   "ms": 1e3 * seconds[which], "theirs_ms": 1e3 * seconds["theirs"],
                   "launches": count[which], "their_launches": count["theirs"]}  # fmt: skip


def autocast(device: torch.device) -> Any:
    """bf16 on a GPU, full precision on the CPU."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Chen et al. 2020, eq. 1: cross-entropy of each crop's other one among all other crops."""
    rows = F.normalize(torch.cat([first, second]).float(), dim=1)
    scores = (rows @ rows.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(scores, torch.arange(len(rows), device=rows.device).roll(len(first)))


def measure_simclr(scale: Scale, device: torch.device) -> Iterator[dict[str, Any]]:
    """A row: a step on crops in memory."""
    shape = (3, scale.side, scale.side)
    crops = torch.randn(2, scale.batch, *shape, device=device)
    index = torch.arange(scale.batch, device=device)
    batch = Batch({name_crop("rgb", 0): crops[0], name_crop("rgb", 1): crops[1]}, index, torch.zeros_like(index))
    encoders = [ENCODERS.get("resnet")(shape, 0, depth=scale.student).to(device) for _ in range(2)]
    dim = encoders[0].spec.dim
    pairings = find_pairings(["rgb"], 2, graph="full", core=None, symmetric=True)
    module = Pretraining(
        {"rgb": Branch(encoders[0], "rgb", Projector(dim, layers=2, hidden=dim, dim=128, norm=False))},
        {"infonce": MULTIVIEW.get("infonce")(128, pairings, 1, temperature=0.5)}, {"infonce": 1.0},
        crops=2, pairings=pairings,
    ).to(device)  # fmt: skip
    head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 128)).to(device)
    both = nn.ModuleList([encoders[1], head])
    optimisers = [torch.optim.AdamW(each.parameters(), fused=True) for each in (module, both)]

    def update(number: int, loss: Tensor) -> None:
        loss.backward()
        optimisers[number].step()
        optimisers[number].zero_grad()

    def ours(_: int) -> None:
        with autocast(device):
            losses = module(batch)
        update(0, losses.total)
        module.remember([losses])

    def theirs(_: int) -> None:
        with autocast(device):
            loss = nt_xent(*head(encoders[1](crops.flatten(0, 1)).embedding).chunk(2), 0.5)
        update(1, loss)

    seconds = in_turns({"ours": ours, "theirs": theirs}, scale, device)
    yield {"what": f"SimCLR, ResNet-{scale.student}, {scale.batch} pairs at {scale.side}",
           "times_as_fast": seconds["theirs"] / seconds["ours"], "ms": 1e3 * seconds["ours"],
           "theirs_ms": 1e3 * seconds["theirs"], "launches": launches(ours, device),
           "their_launches": launches(theirs, device)}  # fmt: skip


def prepare(folder: Path, scale: Scale) -> Path:
    """Synthetic shards, an untrained teacher, and the config of a transfer."""
    source = SOURCES.get("synthetic")(
        train_pairs=scale.pairs, test_pairs=1, modalities=("rgb", "depth"), size=scale.side * 9 // 8
    )
    write_shards(source.pairs("train"), folder / "pairs", fields=source.fields(), classes=source.classes())
    card = Card("resnet", {"depth": scale.teacher}, (3, scale.side, scale.side), [], "rgb",
                {"size": scale.side, "fit": "crop"})  # fmt: skip
    save_model(folder / "teacher", card, card.build(), {})
    config = {
        "data": str(folder / "pairs"),
        "views": {name: {"modality": name, "size": scale.side} for name in ("rgb", "depth")},
        "teachers": {"rgb": {"view": "rgb", "weights": str(folder / "teacher")}},
        "student": {"view": "depth", "encoder": {"name": "resnet", "depth": scale.student}},
        "objectives": {"crd": {}},
        "train": {
            "epochs": scale.epochs, "batch_size": scale.batch, "log_every": 4, "workers": scale.workers,
            "mixed_precision": "bf16" if torch.cuda.is_available() else "no",
        },
    }  # fmt: skip
    (folder / "transfer.yaml").write_text(yaml.safe_dump(config))
    return folder / "transfer.yaml"


def whole(config: Path, output: Path, *words: str) -> float:
    """Pairs a second of `crossmodal transfer` in the second half of its steps."""
    with redirect_stdout(io.StringIO()):  # the run's own lines
        assert main(["transfer", str(config), f"output={output}", *words]) == 0
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return statistics.harmonic_mean([line["pairs_per_second"] for line in lines[len(lines) // 2 :]])


def bare(scale: Scale, device: torch.device, *, compiles: bool) -> float:
    """Pairs a second of compute alone."""
    sides = scale.side, scale.side
    teacher = ENCODERS.get("resnet")((3, *sides), 0, depth=scale.teacher).eval().requires_grad_(False).to(device)
    student = ENCODERS.get("resnet")((1, *sides), 0, depth=scale.student)
    objective = OBJECTIVES.get("crd")(student.spec, teacher.spec, scale.pairs)
    module = Transfer(student, "depth", {"crd": Term(objective, 1.0, "rgb")}).to(device)
    for network in (teacher, student) if compiles else ():
        network.compile(backend=compilation.BACKEND, dynamic=False)
    optimiser = torch.optim.AdamW(module.parameters(), fused=True)
    inputs = {
        name: torch.randn(scale.batch, depth, *sides, device=device) for name, depth in (("rgb", 3), ("depth", 1))
    }
    index = torch.arange(scale.batch, device=device)
    batch = Batch(inputs, index, torch.zeros_like(index))

    def step(_: int) -> None:
        with autocast(device):
            with torch.no_grad():
                features = teacher(inputs["rgb"])
            losses = module(batch, {"rgb": features})
        losses.total.backward()
        optimiser.step()
        optimiser.zero_grad()
        module.remember([losses])

    return scale.batch / in_turns({"bare": step}, scale, device)["bare"]


@contextmanager
def utilisation(device: torch.device) -> Iterator[list[float]]:
    """The GPU's utilisation in percent, as nvidia-smi tells it twice a second; empty without a GPU."""
    found: list[float] = []
    ended = threading.Event()
    words = ["nvidia-smi", "-i", "0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]

    def watch() -> None:
        while not ended.wait(0.5):
            told = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
            if told.isdigit():
                found.append(float(told))

    thread = threading.Thread(target=watch, daemon=True)
    if device.type == "cuda":
        thread.start()
    try:
        yield found
    finally:
        ended.set()


@contextmanager
def waits() -> Iterator[list[str]]:
    """The places at which the host waited for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found: list[str] = []
            yield found
            found += [f"{Path(each.filename).name}:{each.lineno}" for each in told if "synchroniz" in str(each.message)]
    finally:
        torch.cuda.set_sync_debug_mode("default")


def measure_transfer(scale: Scale, device: torch.device) -> Iterator[dict[str, Any]]:
    """A row eager and a row compiled."""
    with tempfile.TemporaryDirectory() as name:
        config = prepare(Path(name), scale)
        for compiles in (False, True):
            words = (f"train.compile={str(compiles).lower()}",)
            with utilisation(device) as used:
                loop = whole(config, Path(name) / f"run{compiles}", *words)
            compute = bare(scale, device, compiles=compiles)
            busy = used[len(used) // 2 :]
            yield {"what": f"transfer, ResNet-{scale.teacher} to {scale.student} at {scale.side}"
                           + ", compiled" * compiles, "of_bare_compute": loop / compute, "pairs_per_second": loop,
                   "bare_pairs_per_second": compute,
                   "utilisation": statistics.mean(busy) if busy else None}  # fmt: skip
        if device.type != "cuda":
            return
        with waits() as places:
            whole(config, Path(name) / "watched", "train.epochs=2", "train.workers=0", "train.log_every=1000")
        yield {"what": "host waits in a transfer of two epochs", "count": len(places), "places": sorted({*places})}


def show(row: dict[str, Any]) -> str:
    """A row as text."""
    given = {name: value for name, value in row.items() if name != "what" and value is not None}
    told = (f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in given.items())
    return f"| {row['what']} | {', '.join(told)} |"


def run() -> None:
    """Measures everything, printing each row when it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="on the CPU, in less than a minute")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="JSON file of the results")
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        print("there is no GPU to measure; --small runs the same code on a CPU")
        return
    device = torch.device("cpu" if options.small else "cuda")
    scale = SMALL if options.small else Scale()
    if options.small:
        compilation.BACKEND = "aot_eager"  # kernels take longer to compile than all else
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, figures without meaning"
    print(f"{where}, torch {torch.__version__}\n\n| what | figures |\n|---|---|", flush=True)
    began, rows = time.monotonic(), []
    for measure in (measure_crd, measure_simclr, measure_transfer):
        for row in measure(scale, device):
            rows.append(row)
            print(show(row), flush=True)
            options.out.write_text(json.dumps({"device": where, "torch": torch.__version__, "rows": rows}, indent=1))
    print(f"\n{time.monotonic() - began:.0f} s; {options.out}")


if __name__ == "__main__":
    run()
