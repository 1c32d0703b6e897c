"""A step of SimCLR from files to weights against lightly's: same pictures, encoder, batch, augmentation and workers.

python benchmarks/simclr.py          a quarter of an hour on two cores; pip install lightly beforehand
python benchmarks/simclr.py small    two minutes: few steps, to see that it runs
python benchmarks/simclr.py cuda     two minutes on a GPU with 16 cores: 512 pairs a step, 16 workers, bf16

Ours reads shards in workers, and changes colours of whole batches; lightly's SimCLRTransform works on single pictures
of the same JPEG files in as many workers. Both decode with Pillow, crop and mirror as often and as much, and
have an MLP without batch norm as the head and AdamW. Runs take turns in one process; the first steps do not count.
"""

import math
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from crossmodal import ENCODERS, MULTIVIEW, SOURCES
from crossmodal.data.order import Plan
from crossmodal.data.reader import Crop, PairStream, View, to_batch, train_parts
from crossmodal.data.shards import Shards
from crossmodal.data.writer import write_shards
from crossmodal.encoders import Encoder
from crossmodal.modules.pretraining import Branch, Pretraining, find_pairings, name_crop
from crossmodal.modules.projector import Projector
from modalities import MODALITIES

STORED, SIDE, DIM, TEMPERATURE, LR = 96, 64, 128, 0.2, 1e-3
SCALE, RATIO, FLIP = (0.2, 1.0), (3 / 4, 4 / 3), 0.5  # of windows; the ratios are torchvision's, and cannot be chosen
JITTER, STRENGTH, HUE, GREY, SIGMA = 0.8, 0.4, 0.1, 0.2, 2.0  # hue in turns; sigma in pixels
SPARE = 8  # batches beyond the last one, so that workers are as busy to the end
Losses = Generator[float, None, None]  # one a step, for as long as it is asked
Side = Callable[[Path, "Setting", "Length", int], Losses]


@dataclass(frozen=True)
class Setting:
    """What is trained, and whether pictures are blurred."""

    name: str
    encoder: str
    options: dict[str, Any] = field(default_factory=dict)
    blur: float = 0.0  # chance

    def build(self) -> Encoder:
        """The encoder, the same on both sides."""
        torch.manual_seed(0)
        return ENCODERS.get(self.encoder)((3, SIDE, SIDE), 0, **self.options)


@dataclass(frozen=True)
class Length:
    """How much is measured, and on what."""

    pairs: int = 1024  # pictures
    batch: int = 64
    workers: int = 2
    device: str = "cpu"
    warm: int = 6  # steps that do not count: workers start, and queues of batches come to their usual length
    steps: int = 20
    turns: int = 5

    def autocast(self) -> torch.autocast:
        """bf16 on a GPU, full precision on the CPU."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.device != "cpu")


LENGTHS = {
    "": Length(),
    "small": Length(pairs=256, warm=2, steps=4, turns=3),
    "cuda": Length(pairs=2048, batch=512, workers=16, device="cuda", warm=6, steps=12, turns=2),
}

SETTINGS = (
    Setting("ResNet-18", "resnet", {"depth": 18}),
    Setting("ConvNet", "convnet"),
    Setting("ConvNet, blur", "convnet", blur=0.5),
)


def prepare(folder: Path, pairs: int) -> None:
    """The same JPEG files as shards and in folders of classes."""
    source = SOURCES.get("synthetic")(modalities=("rgb",), train_pairs=pairs, test_pairs=0, size=STORED)
    found = list(source.pairs("train"))
    write_shards(iter(found), folder / "shards", fields=source.fields(), classes=source.classes())
    for pair in found:
        (member,) = pair.members.values()
        path = folder / "files" / str(pair.label) / f"{pair.key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(member)


def ours(folder: Path, setting: Setting, length: Length, steps: int) -> Losses:
    """Shards, looks, augmentation of batches, InfoNCE, AdamW: what `crossmodal pretrain` does in a step."""
    rgb = MODALITIES.get("rgb")(
        size=SIDE, jitter=JITTER, brightness=STRENGTH, contrast=STRENGTH, saturation=STRENGTH,
        hue=2 * math.pi * HUE, grey=GREY, blur=setting.blur, blur_px=SIGMA,
    )  # fmt: skip
    views = {name_crop("rgb", crop): View(rgb, crop=crop) for crop in range(2)}
    encoder = setting.build()
    head = Projector(encoder.spec.dim, layers=2, hidden=encoder.spec.dim, dim=DIM, norm=False)
    pairings = find_pairings(["rgb"], 2, graph="full", core=None, symmetric=True)
    module = Pretraining(
        {"rgb": Branch(encoder, "rgb", head)},
        {"infonce": MULTIVIEW.get("infonce")(DIM, pairings, 1, temperature=TEMPERATURE)},
        {"infonce": 1.0},
        crops=2,
        pairings=pairings,
    )
    module.to(length.device)
    optimiser = torch.optim.AdamW(module.parameters(), lr=LR, fused=True)
    shards = Shards.open(folder / "shards")
    stream = PairStream(shards, views, Plan(len(shards), length.batch), crop=Crop(SCALE, RATIO, FLIP), last_step=steps)
    for part in train_parts(stream, workers=length.workers):
        batch = to_batch(part, views, length.device)
        with length.autocast():
            losses = module(batch)
        losses.total.backward()
        optimiser.step()
        optimiser.zero_grad()
        module.remember([losses])
        yield losses.total.item()


def theirs(folder: Path, setting: Setting, length: Length, steps: int) -> Losses:
    """Files, SimCLRTransform of each picture, SimCLRProjectionHead, NTXentLoss, AdamW: lightly's own way."""
    transform = import_module("lightly.transforms").SimCLRTransform(
        input_size=SIDE, cj_prob=JITTER, cj_strength=1.0, cj_bright=STRENGTH, cj_contrast=STRENGTH, cj_sat=STRENGTH,
        cj_hue=HUE, min_scale=SCALE[0], random_gray_scale=GREY, gaussian_blur=setting.blur, sigmas=(0.1, SIGMA),
        hf_prob=FLIP,
    )  # fmt: skip
    pictures = import_module("lightly.data").LightlyDataset(str(folder / "files"), transform=transform)
    encoder = setting.build()
    head = import_module("lightly.models.modules").SimCLRProjectionHead(
        encoder.spec.dim, encoder.spec.dim, DIM, batch_norm=False
    )
    criterion: Callable[[Tensor, Tensor], Tensor] = import_module("lightly.loss").NTXentLoss(temperature=TEMPERATURE)
    both = nn.ModuleList([encoder, head]).to(length.device)
    optimiser = torch.optim.AdamW(both.parameters(), lr=LR, fused=True)
    order = RandomSampler(
        pictures, num_samples=steps * length.batch
    )  # one epoch, or several: workers do not start anew
    pin = length.device != "cpu"
    for crops, _, _ in DataLoader(
        pictures, length.batch, sampler=order, num_workers=length.workers, drop_last=True, pin_memory=pin
    ):
        batch = torch.cat([crop.to(length.device, non_blocking=True) for crop in crops])
        with length.autocast():
            loss = criterion(*head(encoder(batch).embedding).chunk(2))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        yield loss.item()


def measure(side: Side, folder: Path, setting: Setting, length: Length) -> list[float]:
    """Pairs a second, and the mean loss of the steps that were timed.

    Raises:
        RuntimeError: the number of threads changed on the way.
    """
    threads = torch.get_num_threads()
    with closing(side(folder, setting, length, length.warm + length.steps + SPARE)) as losses:
        for _ in range(length.warm):
            next(losses)
        began = time.perf_counter()
        found = [next(losses) for _ in range(length.steps)]
        seconds = time.perf_counter() - began
    if torch.get_num_threads() != threads:
        raise RuntimeError(f"{side.__name__} went from {threads} threads to {torch.get_num_threads()}")
    return [length.steps * length.batch / seconds, statistics.mean(found)]


def report(length: Length) -> None:
    """The table, ratios first."""
    where = platform.processor() or platform.machine() if length.device == "cpu" else torch.cuda.get_device_name()
    print(f"{length.batch} pairs a step, two looks at {SIDE} x {SIDE} of JPEG files of {STORED} x {STORED}; "
          f"{length.workers} workers of one thread, {torch.get_num_threads()} beside them; "
          f"lightly {import_module('lightly').__version__}; {where}\n")  # fmt: skip
    print("| encoder | times as fast | pairs/s | theirs, pairs/s | mean loss | theirs |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, length.pairs)
        for setting in SETTINGS:
            turns = [
                (measure(ours, folder, setting, length), measure(theirs, folder, setting, length))
                for _ in range(length.turns)
            ]
            ratios = [own[0] / other[0] for own, other in turns]
            speed, loss = (statistics.median(figures) for figures in zip(*(own for own, _ in turns), strict=True))
            speeds, losses = (
                statistics.median(figures) for figures in zip(*(other for _, other in turns), strict=True)
            )
            print(f"| {setting.name} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
                  f"| {speed:.1f} | {speeds:.1f} | {loss:.2f} | {losses:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    if find_spec("lightly") is None:
        print("lightly is not there to compare with: pip install lightly")
    elif (word := " ".join(sys.argv[1:])) in LENGTHS:
        report(LENGTHS[word])
    else:
        print(__doc__)
